"""Density control: which Gaussians there are."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import OptionError
from .base import DensityControl as DensityControl
from .base import Event as Event
from .base import Observation as Observation
from .base import Splat as Splat
from .base import Surroundings as Surroundings
from .default import ABSGRAD, Default
from .error import ErrorGrowth
from .mcmc import MCMC
from .none import NoControl

# What `make_density` knows: name -> what it is, in one line.
DENSITY_CONTROLS: dict[str, str] = {
    "none": "the Gaussians of the start, from the first step to the last",
    "error": "new Gaussians where the render is wrong, at depths that several photos agree on",
    "default": "3DGS: clone and split where gradients on screen are large, prune, reset opacities",
    "default-abs": "the same with absolute gradients (AbsGS), which finds blurred detail",
    "mcmc": "3DGS-MCMC: relocate the transparent, add copies, noise, two penalties",
}


def make_density(name: str) -> DensityControl:
    """The density control called `name`, a key of `DENSITY_CONTROLS`.

    Raises:
        OptionError: unknown name.
    """
    if name not in DENSITY_CONTROLS:
        raise OptionError(f"unknown density control {name!r}: choose one of {', '.join(DENSITY_CONTROLS)}")
    return _FACTORIES[name]()


_FACTORIES: dict[str, Callable[[], DensityControl]] = {
    "none": NoControl,
    "error": ErrorGrowth,
    "default": Default,
    "default-abs": lambda: Default(ABSGRAD, "default-abs"),
    "mcmc": MCMC,
}

"""Plain stochastic gradient descent with hand-set rates, the simplest rival."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

from ..errors import OptionError
from ..gaussians.record import FIELDS, WIDTHS, Gaussians
from ._checks import require_finite
from ._moments import clean_gradients
from .base import OptState, Task, UpdateRule


@dataclass(frozen=True)
class SGDConfig:
    """Rates for scaled gradients: the gradient of the loss averaged over views, times N.

    The loss is a mean over pixels, so a single one of N Gaussians answers for about 1/N of it: times N, gradients keep their size when the
    number of Gaussians changes, and divided by the views when their number does. Lengths are measured in `scene_scale`: a gradient with respect
    to a position is 1 / length, so the step of the means carries the square.
    """

    means: float = 3e-5  # Times scene_scale^2.
    quats: float = 1e-2
    log_scales: float = 3e-2
    logit_opacities: float = 0.8
    sh0: float = 0.1
    shN: float = 5e-3

    def __post_init__(self) -> None:
        require_finite(self)
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise OptionError(f"the rate of {field.name} of SGD must be above 0, got {getattr(self, field.name)}")


class SGD(UpdateRule):
    """`p <- p - rate * (N / views) * g`: no momentum, no schedule, no state per Gaussian."""

    name = "sgd"

    def __init__(self, config: SGDConfig | None = None) -> None:
        self.config = config or SGDConfig()

    def init(self, gaussians: Gaussians, task: Task, generator: torch.Generator) -> OptState:
        return OptState({}, task=task)

    @torch.no_grad()
    def step(self, gaussians: Gaussians, grads: Gaussians, state: OptState) -> tuple[Gaussians, OptState]:
        flat, _ = clean_gradients(grads)
        rates = {name: getattr(self.config, name) * len(gaussians) / state.task.views_per_step for name in FIELDS}
        rates["means"] *= state.task.scene_scale**2
        per_column = flat.new_tensor([rates[name] for name in FIELDS for _ in range(WIDTHS[name])])
        new = gaussians.flatten().sub_(flat.mul_(per_column))
        return Gaussians.unflatten(new), replace(state, step=state.step + 1)

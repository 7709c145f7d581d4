"""learn2splat: fit 3D Gaussian Splatting scenes with a learned optimizer, on a CPU or a GPU.

The public names; everything else may change. Layout: docs/architecture.md. Frames, units and names: docs/conventions.md.

Importing the package changes nothing in the program that does (no environment, no signal handlers) and loads nothing: a name is imported when it is
first used, so that somebody who wants `rasterize` does not wait for what reads scenes.
"""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from .errors import Learn2SplatError as Learn2SplatError
    from .fitting import fit as fit
    from .gaussians import Gaussians as Gaussians
    from .gaussians import init_from_points as init_from_points
    from .gaussians import init_random as init_random
    from .gaussians import load_ply as load_ply
    from .gaussians import save_ply as save_ply
    from .gaussians import transform_gaussians as transform_gaussians
    from .losses import photometric_loss as photometric_loss
    from .losses import psnr as psnr
    from .losses import ssim as ssim
    from .optim import Learned as Learned
    from .optim import gsplat_optimizers as gsplat_optimizers
    from .optimizers import UpdateRule as UpdateRule
    from .optimizers import make_optimizer as make_optimizer
    from .optimizers import register_optimizer as register_optimizer
    from .optimizers.weights import load_weights as load_weights
    from .render import rasterize as rasterize
    from .render import render_views as render_views
    from .scenes import Scene as Scene
    from .scenes import load_scene as load_scene

__version__ = _version("learn2splat")

_NAMES = {
    "errors": ("Learn2SplatError",),
    "fitting": ("fit",),
    "gaussians": ("Gaussians", "init_from_points", "init_random", "load_ply", "save_ply", "transform_gaussians"),
    "losses": ("photometric_loss", "psnr", "ssim"),
    "optim": ("Learned", "gsplat_optimizers"),
    "optimizers": ("UpdateRule", "make_optimizer", "register_optimizer"),
    "optimizers.weights": ("load_weights",),
    "render": ("rasterize", "render_views"),
    "scenes": ("Scene", "load_scene"),
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names}
__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'learn2splat' has no attribute {name!r}")
    value = getattr(_import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

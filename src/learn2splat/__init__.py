"""learn2splat: fit 3D Gaussian Splatting scenes with a learned optimizer, on a CPU or a GPU.

The public names; everything else may change. Layout: docs/architecture.md. Frames, units and names: docs/conventions.md.
"""

from importlib.metadata import version as _version

from . import _openmp as _openmp  # first: before torch is loaded
from .errors import Learn2SplatError as Learn2SplatError
from .fit import fit as fit
from .gaussians import Gaussians as Gaussians
from .losses import photometric_loss as photometric_loss
from .losses import psnr as psnr
from .losses import ssim as ssim
from .optim import Learned as Learned
from .optim import gsplat_optimizers as gsplat_optimizers
from .optimizers import make_optimizer as make_optimizer
from .optimizers import register_optimizer as register_optimizer
from .render import rasterize as rasterize
from .scenes import Scene as Scene
from .scenes import load_scene as load_scene

__version__ = _version("learn2splat")

__all__ = [
    "Gaussians",
    "Learn2SplatError",
    "Learned",
    "Scene",
    "__version__",
    "fit",
    "gsplat_optimizers",
    "load_scene",
    "make_optimizer",
    "photometric_loss",
    "psnr",
    "rasterize",
    "register_optimizer",
    "ssim",
]

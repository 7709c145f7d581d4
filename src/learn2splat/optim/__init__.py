"""Update rules as `torch.optim` optimizers, for loops that are not `fit`: `Learned` for yours, `gsplat_optimizers` for gsplat's and nerfstudio's."""

from .facades import gsplat_optimizers as gsplat_optimizers
from .learned import Learned as Learned

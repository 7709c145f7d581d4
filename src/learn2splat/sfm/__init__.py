"""From plain photos to a scene with poses: structure from motion by COLMAP, through pycolmap. What it writes is read by `scenes`."""

from .run import Outcome as Outcome
from .run import SfmStopped as SfmStopped
from .run import reconstruct as reconstruct

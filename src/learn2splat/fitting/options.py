"""What makes no sense to fit, found before anything is done or written."""

from __future__ import annotations

from ..errors import OptionError, SceneError
from ..gaussians.record import Gaussians
from ..losses.photometric import SSIM_WINDOW
from ..scenes import Scene


def check_options(scene: Scene, gaussians: Gaussians, *, steps: int | None, max_seconds: float | None) -> None:
    """
    Raises:
        OptionError: a number makes no sense.
        SceneError: there is nothing to fit, or nothing to measure it with.
    """
    if steps is not None and steps < 0:
        raise OptionError(f"steps must be 0 or more, got {steps}")
    if max_seconds is not None and not max_seconds > 0:
        raise OptionError(f"max_seconds must be positive, got {max_seconds}")
    if not scene.train_idx or not scene.test_idx:
        counts = f"{len(scene.train_idx)} train and {len(scene.test_idx)} held-out photos"
        raise SceneError(f"scene {scene.name} has {counts}: at least one of each is needed")
    small = min((scene.size(i) for i in (*scene.train_idx, *scene.test_idx)), key=min)
    if min(small) < SSIM_WINDOW:
        size = f"{small[0]}x{small[1]}"
        raise SceneError(f"photos of {size} px are too small to compare: both sides need {SSIM_WINDOW} px, so choose a larger long_side")
    if len(gaussians) == 0:
        raise SceneError("there are no Gaussians to optimize: the initial point cloud is empty")
    if not gaussians.is_finite():
        raise OptionError("the initial Gaussians hold NaN or infinite numbers: fit needs a finite start")

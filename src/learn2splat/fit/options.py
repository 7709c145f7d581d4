"""What makes no sense to fit, found before anything is done or written."""

from __future__ import annotations

from ..errors import OptionError, SceneError
from ..gaussians.record import Gaussians
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
    if len(gaussians) == 0:
        raise SceneError("there are no Gaussians to optimize: the initial point cloud is empty")
    if not gaussians.is_finite():
        raise OptionError("the initial Gaussians hold NaN or infinite numbers: fit needs a finite start")

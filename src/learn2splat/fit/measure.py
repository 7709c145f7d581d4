"""How long a step takes on this machine, for plans whose budget is a time."""

from __future__ import annotations

import time

from ..gaussians.record import Gaussians
from ..scenes import Scene
from ..scenes.adapt import resized
from .gradients import loss_and_gradients
from .plan import VIEWS_LARGE

# A step of a grown splat at full size takes so many times what its pixels alone say (measured: 0.8 to 1.3 on five train scenes, lab book 50).
FROM_HALF_SIZE = 4.0


def measured_step_seconds(scene: Scene, gaussians: Gaussians) -> float:
    """Seconds of one step of 4 photos at full size, from one photo at half size: the second of two goes, the first warms up."""
    view = scene.train_idx[len(scene.train_idx) // 2]
    small = resized(scene, max(1, max(scene.size(view)) // 2))
    for _ in range(2):
        began = time.perf_counter()
        loss_and_gradients(small, gaussians, [view])
        seconds = time.perf_counter() - began
    return VIEWS_LARGE * FROM_HALF_SIZE * seconds

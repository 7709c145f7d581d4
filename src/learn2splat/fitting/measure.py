"""How long a step takes on this machine, for plans whose budget is a time."""

from __future__ import annotations

import time

from ..gaussians.record import Gaussians
from ..scenes import Scene
from ..scenes.adapt import resized
from .gradients import loss_and_gradients
from .plan import VIEWS_LARGE

FROM_HALF_SIZE = 4.0  # so many more pixels at full size; that Gaussians become more and smaller is about made up for by what all photos share
GOES = 3  # the fastest counts: the first warms up, and others may use the machine


def measured_step_seconds(scene: Scene, gaussians: Gaussians) -> float:
    """Seconds of one step of 4 photos at full size, from one photo at half size."""
    view = scene.train_idx[len(scene.train_idx) // 2]
    small = resized(scene, max(1, max(scene.size(view)) // 2))
    seconds = []
    for _ in range(GOES):
        began = time.perf_counter()
        loss_and_gradients(small, gaussians, [view])
        seconds.append(time.perf_counter() - began)
    return VIEWS_LARGE * FROM_HALF_SIZE * min(seconds)

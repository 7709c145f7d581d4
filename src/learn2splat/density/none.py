"""No density control: the Gaussians of the start, from the first step to the last."""

from __future__ import annotations

from .base import DensityControl, Event, Splat, Surroundings


class NoControl(DensityControl):
    """Keeps the Gaussians that there are."""

    name = "none"

    def event(self, splat: Splat, event: Event, around: Surroundings) -> Splat:
        return splat

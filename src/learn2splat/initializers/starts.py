"""The ways to start that have a name, for `fit` and `bench` alike; and which of them may see the points of a scene in the sparse setting."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..errors import OptionError
from ..gaussians import Gaussians, init_from_points, init_random
from ..gaussians.record import SH_C0
from ..scenes import Scene
from ..scenes.context import without_points
from .depth import depth_init
from .feedforward import RANDOM_START, feedforward_start
from .stereo import stereo_init

STARTS = ("sfm", "feedforward", "stereo", "depth", "random")
SEE_POINTS = ("sfm", "depth")  # In the sparse setting; the others have photos and poses only.


def make_start(scene: Scene, kind: str, *, max_points: int | None = None, generator: torch.Generator) -> tuple[Gaussians, str | None]:
    """The start called `kind`, and one sentence where another one had to do.

    Args:
        kind: one of `STARTS`.
        max_points: at most so many Gaussians; None: as many as that start has.

    Raises:
        OptionError: there is no such start.
        SceneError: the scene has nothing to start from that way.
    """
    if kind == "feedforward":
        return feedforward_start(scene, max_gaussians=max_points, generator=generator)
    if kind == "sfm":
        return init_from_points(scene.points, scene.colors, max_points=max_points, generator=generator), None
    if kind == "stereo":
        return stereo_init(scene, max_points=max_points, generator=generator), None
    if kind == "depth":
        return depth_init(scene, max_points=max_points, generator=generator), None
    if kind == "random":
        return init_random(scene, max_points or len(scene.points) or RANDOM_START, generator=generator), None
    raise OptionError(f"a start is one of {', '.join(STARTS)}, got {kind}")


def sparse_start(scene: Scene, kind: str, *, max_points: int | None = None, generator: torch.Generator) -> tuple[Scene, Gaussians, str | None]:
    """`make_start` for a scene of context photos, which has no points but for the starts that are made of them.

    Returns:
        The scene, whose points are those that the start knows: what depends on points later (how far apart the views are, where to look for depth)
        then follows from the start. The start, and the sentence.
    """
    if kind in SEE_POINTS:
        return scene, *make_start(scene, kind, max_points=max_points, generator=generator)
    gaussians, why = make_start(without_points(scene), kind, max_points=max_points, generator=generator)
    colors = ((0.5 + SH_C0 * gaussians.sh0[:, 0]).clamp(0, 1) * 255).round().to(torch.uint8)
    return replace(scene, points=gaussians.means.clone(), colors=colors), gaussians, why

"""The held-out photos of a fit, their renders and the differences, small enough for a page."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..bench.page import to_picture, webp_uri
from ..fitting import PhotoScore, pixel_weights, rendered, score_of
from ..gaussians import Gaussians
from ..scenes import Scene
from ..scenes.adapt import resized

ALL_PIXELS = 6_000_000  # of all photos of a page together, which then has some 4 MB
LONGEST, SHORTEST = 960, 240  # px of the longer side, for few photos and for very many
STOPPED_PHOTOS, STOPPED_SIDE = 3, 480  # of a run that was stopped: rendered small and few, so that it ends at once
LARGEST_ERROR = 0.2  # mean over the channels, which are 0 to 1: what is white in a difference
# Black, purple, red, orange, pale yellow: equal steps look equal, also in grey.
ERROR_COLORS = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))


@dataclass(frozen=True)
class HeldOut:
    """A held-out photo: addresses of three pictures. `score`: at full size; None where the run was stopped."""

    name: str
    photo: str
    render: str
    difference: str
    score: PhotoScore | None


def held_out(scene: Scene, gaussians: Gaussians) -> tuple[list[PhotoScore], list[HeldOut]]:
    """Scores and pictures of all held-out photos, in the order of their names."""
    side = long_side(len(scene.test_idx))
    shown = {}
    for i, render, photo in rendered(scene, gaussians, scene.test_idx):
        scored = score_of(scene.image_names[i], render, photo, pixel_weights(scene, [i], render))
        shown[i] = _pictures(scene.image_names[i], render, photo, side, scored)
    in_order = [shown[i] for i in scene.test_idx]
    return [each.score for each in in_order], in_order


def held_out_in_haste(scene: Scene, gaussians: Gaussians) -> list[HeldOut]:
    """The first few held-out photos, rendered small, without scores."""
    few = list(scene.test_idx[:STOPPED_PHOTOS])
    small = replace(
        scene,
        image_names=tuple(scene.image_names[i] for i in few),
        images=tuple(scene.images[i] for i in few),
        camtoworlds=scene.camtoworlds[few],
        Ks=scene.Ks[few],
        train_idx=(),
        test_idx=tuple(range(len(few))),
    )
    small = resized(small, STOPPED_SIDE)
    shown = {i: _pictures(small.image_names[i], render, photo, STOPPED_SIDE, None) for i, render, photo in rendered(small, gaussians, small.test_idx)}
    return [shown[i] for i in small.test_idx]


def long_side(count: int) -> int:
    """px of the longer side of each of `count` photos (3:2)."""
    return max(SHORTEST, min(LONGEST, round(math.sqrt(1.5 * ALL_PIXELS / max(1, count)))))


def difference_picture(render: Tensor, photo: Tensor) -> Image.Image:
    """Mean absolute difference of the channels in the colours of `ERROR_COLORS`: black where there is none, pale at `LARGEST_ERROR` and more."""
    error = ((render - photo).abs().mean(-1) / LARGEST_ERROR).clamp(0, 1).cpu().numpy()
    stops = np.linspace(0, 1, len(ERROR_COLORS))
    channels = [np.interp(error, stops, column) for column in zip(*ERROR_COLORS)]
    return Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))


def _pictures(name: str, render: Tensor, photo: Tensor, side: int, score: PhotoScore | None) -> HeldOut:
    pictures = (to_picture(photo), to_picture(torch.nan_to_num(render)), difference_picture(render, photo))
    return HeldOut(name, *(webp_uri(picture, side) for picture in pictures), score)

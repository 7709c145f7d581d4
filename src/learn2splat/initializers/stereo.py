"""Depth maps of photos by a multi-view plane sweep and its refinement (native/sweep.hpp), which of their pixels a second photo confirms, and a start
from these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import OptionError, SceneError
from ..gaussians import Gaussians, init_from_points
from ..scenes import Scene
from ..scenes._masks import shrink_masks
from ..threads import num_threads
from ._neighbours import surroundings

SMALLEST_SIDE = 5  # px: one window
REFINED_BY = 2  # The depths of a map are refined with photos of so many times its size.
INIT_LONG_SIDE, INIT_DEPTHS = 256, 96  # Of `stereo_init`.
PATCH = 4  # px
MAX_POINTS = 20_000


@dataclass(frozen=True)
class DepthMaps:
    """Depths of the photos `idx` at a reduced size. Entry i of every list is that of photo `idx[i]`; sizes may differ.

    Attributes:
        idx: positions in the scene.
        depths: each (h, w) float32, of pixel centres (column + 0.5, row + 0.5), along camera +z in world units; NaN where nothing could be compared.
        scores: each (h, w) float32, mean normalised cross-correlation with the best neighbours, -1 to 1.
        confirmed: each (h, w) bool: the score is high and the map of another photo agrees. These depths can be relied on.
        Ks: (len(idx), 3, 3) float32, px of the maps.
        camtoworlds: (len(idx), 4, 4) float32, as in the scene.
    """

    idx: tuple[int, ...]
    depths: tuple[Tensor, ...]
    scores: tuple[Tensor, ...]
    confirmed: tuple[Tensor, ...]
    Ks: Tensor
    camtoworlds: Tensor

    def points(self, i: int) -> Tensor:
        """(h, w, 3) the points that the pixels of map i show, world units, normalised frame; NaN where the depth is."""
        camtoworld = self.camtoworlds[i]
        return in_camera(self.depths[i], self.Ks[i]) @ camtoworld[:3, :3].mT + camtoworld[:3, 3]


def depth_maps(
    scene: Scene,
    idx: Sequence[int],
    *,
    long_side: int = 128,
    num_depths: int = 64,
    num_neighbours: int = 6,
    best: int = 2,
    min_score: float = 0.5,
    agree: float = 0.03,
) -> DepthMaps:
    """The depth of every pixel of the photos `idx`, which are compared with each other and with no other photo.

    Photos shrunk to `long_side` are swept, then the depths are refined with photos twice that size.

    The range of depths follows from the points that a photo sees, or from the other cameras where it sees hardly any; nothing depends on the unit
    of length. Results do not depend on the number of threads.

    Args:
        idx: positions in the scene, all different; those of one photo alone have no depth.
        long_side: px, of the maps; photos are shrunk, never enlarged.
        num_depths: compared, evenly spaced in inverse depth.
        num_neighbours: photos that each one is compared with, at most 8.
        best: a depth is as good as the mean of its best so many neighbours: occlusion hides a point from some.
        min_score: of a confirmed pixel, and of the one that confirms it.
        agree: relative difference in depth up to which it does.

    Raises:
        OptionError: an argument is out of its range.
    """
    from .. import _native

    idx = tuple(idx)
    _check(scene, idx, long_side, num_depths, num_neighbours, best)
    viewmats = scene.viewmats[list(idx)].double()
    photos, Ks = _grey(scene, idx, long_side)
    sizes = torch.tensor([photo.shape[::-1] for photo in photos], dtype=torch.float64).view(-1, 2)
    around = surroundings(viewmats, Ks, sizes, scene.points, num_neighbours)
    first, last = 1 / around.far, 1 / around.near
    ranges = torch.stack([first, (last - first) / (num_depths - 1)], 1).float().numpy()
    inverse_depths, scores = ([np.empty(photo.shape, np.float32) for photo in photos] for _ in range(2))
    neighbours = around.neighbours.numpy()
    _native.sweep(photos, neighbours, _warps(viewmats, Ks, around.neighbours), ranges, best, inverse_depths, scores, num_depths, num_threads())
    photos, fine_Ks = _grey(scene, idx, REFINED_BY * long_side)
    _native.refine(photos, neighbours, _warps(viewmats, fine_Ks, around.neighbours), ranges, best, inverse_depths, scores, num_threads())
    found = [(1 / torch.from_numpy(inverse), torch.from_numpy(score)) for inverse, score in zip(inverse_depths, scores)]
    good = [(torch.where(score > min_score, depth, torch.nan), K.float()) for (depth, score), K in zip(found, Ks)]
    confirmed = []
    for i, neighbours in enumerate(around.neighbours.tolist()):
        relative = {n: (viewmats[n] @ scene.camtoworlds[idx[i]].double()).float() for n in neighbours if n >= 0}
        confirmed.append(_confirmed(good[i], [(*good[n], pose) for n, pose in relative.items()], agree))
    depths, kept_scores = zip(*found) if found else ((), ())
    return DepthMaps(idx, depths, kept_scores, tuple(confirmed), Ks.float(), scene.camtoworlds[list(idx)])


def stereo_init(scene: Scene, *, max_points: int | None = None, generator: torch.Generator) -> Gaussians:
    """A start without points: `init_from_points` where a second photo confirms the depth of a train photo.

    One Gaussian for every 4x4 px of the photos at 256 px, at the pixel of highest score among the confirmed ones and in its colour.

    Args:
        max_points: use at most this many, drawn at random; None: 20 000.
        generator: draws them.

    Raises:
        SceneError: no pixel is confirmed.
        OptionError: `max_points` < 1.
    """
    maps = depth_maps(scene, scene.train_idx, long_side=INIT_LONG_SIDE, num_depths=INIT_DEPTHS)
    photos, _ = shrunk(scene, maps.idx, INIT_LONG_SIDE)
    masks = None
    if scene.masks is not None:
        sizes = {view: (photo.shape[1], photo.shape[0]) for view, photo in zip(maps.idx, photos)}
        masks = dict(zip(maps.idx, shrink_masks([scene.masks[view] for view in maps.idx], [sizes[view] for view in maps.idx]) or ()))
    points, colors = [], []
    for i, photo in enumerate(photos):
        usable = maps.confirmed[i]
        if masks is not None:  # what passes by in one photo is no place for a Gaussian
            usable = usable & masks[maps.idx[i]]
        at = _best_of_patches(torch.where(usable, maps.scores[i], -torch.inf))
        points.append(maps.points(i).view(-1, 3)[at])
        colors.append(torch.from_numpy(photo).view(-1, 3)[at])
    if not any(len(part) for part in points):
        raise SceneError(f"stereo finds no depth that two of the {len(photos)} photos agree on: start at random (--init random --max-points 5000)")
    return init_from_points(torch.cat(points), torch.cat(colors), max_points=MAX_POINTS if max_points is None else max_points, generator=generator)


def _best_of_patches(scores: Tensor) -> Tensor:
    """Positions in the flat map of the highest score of each 4x4 patch (cut at the border); none of patches that are all -inf."""
    height, width = scores.shape
    padded = torch.nn.functional.pad(scores, (0, -width % PATCH, 0, -height % PATCH), value=-torch.inf)
    highest, at = torch.nn.functional.max_pool2d(padded[None], PATCH, return_indices=True)
    at = at[highest > -torch.inf]
    return at // padded.shape[1] * width + at % padded.shape[1]


def _check(scene: Scene, idx: tuple[int, ...], long_side: int, num_depths: int, num_neighbours: int, best: int) -> None:
    from .. import _native

    if len(set(idx)) < len(idx) or not all(0 <= i < len(scene) for i in idx):
        raise OptionError(f"photos must be different positions from 0 to {len(scene) - 1}, got {idx}")
    if long_side < SMALLEST_SIDE or num_depths < 2:
        raise OptionError(f"depth maps need long_side >= {SMALLEST_SIDE} px and num_depths >= 2, got {long_side} and {num_depths}")
    if not 1 <= best <= num_neighbours <= _native.SWEEP_MAX_NEIGHBOURS:
        raise OptionError(f"depth maps need 1 <= best <= num_neighbours <= {_native.SWEEP_MAX_NEIGHBOURS}, got {best} and {num_neighbours}")


def shrunk(scene: Scene, idx: Sequence[int], long_side: int, *, multiple: int = 1, smallest: int = SMALLEST_SIDE) -> tuple[list[np.ndarray], Tensor]:
    """Photos, each (h, w, 3) uint8, sides at least `smallest` and multiples of `multiple`, and their Ks (M, 3, 3) float64.

    HAMMING: as all photos are shrunk (scenes/_photos.py).
    """
    photos, Ks = [], scene.Ks[list(idx)].double()
    for K, i in zip(Ks, idx):
        width, height = scene.size(i)
        ratio = min(1.0, long_side / max(width, height))
        size = tuple(max(smallest, round(side * ratio / multiple) * multiple) for side in (width, height))
        photos.append(np.array(Image.fromarray(scene.images[i].numpy()).resize(size, Image.Resampling.HAMMING)))
        K[0] *= size[0] / width
        K[1] *= size[1] / height
    return photos, Ks


def _grey(scene: Scene, idx: Sequence[int], long_side: int) -> tuple[list[np.ndarray], Tensor]:
    """As `shrunk`, photos (h, w) float32 in [0, 1]."""
    photos, Ks = shrunk(scene, idx, long_side)
    return [photo.mean(2, dtype=np.float32) / np.float32(255) for photo in photos], Ks


def _warps(viewmats: Tensor, Ks: Tensor, neighbours: Tensor) -> np.ndarray:
    """(M, n, 12) float32: A and b of native/sweep.hpp."""
    other = neighbours.clamp_min(0).long()
    relative = viewmats[other] @ torch.linalg.inv(viewmats)[:, None]
    A = Ks[other] @ relative[..., :3, :3] @ torch.linalg.inv(Ks)[:, None]
    b = Ks[other] @ relative[..., :3, 3:]
    return torch.cat([A.flatten(2), b.flatten(2)], 2).float().contiguous().numpy()


def in_camera(depth: Tensor, K: Tensor) -> Tensor:
    """(h, w, 3): the points at the depths (h, w) of the pixels, camera frame."""
    height, width = depth.shape
    x = ((torch.arange(width) + 0.5).to(depth) - K[0, 2]) / K[0, 0]
    y = ((torch.arange(height) + 0.5).to(depth) - K[1, 2]) / K[1, 1]
    return torch.stack([x * depth, y[:, None] * depth, depth], 2)


def _confirmed(own: tuple[Tensor, Tensor], others: list[tuple[Tensor, Tensor, Tensor]], agree: float) -> Tensor:
    """(h, w) bool: where one of `others` has the depth of the point that a pixel shows.

    `own`: depths, NaN where they are not good, and K. `others`: the same, and the matrix (4, 4) from the own to their camera.
    """
    depth, K = own
    p_cam = in_camera(depth, K)
    result = torch.zeros(depth.shape, dtype=torch.bool)
    for other, other_K, pose in others:
        height, width = other.shape
        p = p_cam @ pose[:3, :3].mT + pose[:3, 3]
        z = p[..., 2]
        column = (p[..., 0] / z * other_K[0, 0] + other_K[0, 2]).floor()
        row = (p[..., 1] / z * other_K[1, 1] + other_K[1, 2]).floor()
        inside = (z > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        there = other[torch.where(inside, row, 0).long(), torch.where(inside, column, 0).long()]
        result |= inside & ((there - z).abs() <= agree * z)
    return result

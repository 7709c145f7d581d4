"""A start from depth maps that a scene brings (`Scene.depth_files`): resampled to its photos, lens and size included, and scaled to its poses."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import OptionError, SceneError
from ..gaussians import Gaussians, init_from_points
from ..scenes import Scene
from ..scenes._masks import shrink_masks
from ..scenes.depth_files import DepthFile
from .stereo import INIT_LONG_SIDE, MAX_POINTS, PATCH, _best_of_patches, in_camera, shrunk

EDGE = 0.1  # Relative difference in depth between neighbouring pixels from which on they are an edge: what lies there is on neither side.
MIN_POINTS = 20  # that a photo must see for a scale of its own
SPREAD = 0.05  # Scales of photos that differ by less are one scale with noise on it: then that of all is taken.


def depth_init(scene: Scene, *, max_points: int | None = None, generator: torch.Generator) -> Gaussians:
    """`init_from_points` of the depth maps of the train photos: one Gaussian for every 4x4 px of the photos at 256 px, in their colour.

    Depths are multiplied by what puts them where the scene's points are (the middle of the shortest interval that holds half of the logarithmic
    ratios of points in the frame, most of them visible): by one number where photos agree on it to 5 %, else by one for each photo. Without points
    they are taken to be in the unit of the poses. Pixels at holes and at edges are left out.

    Args:
        max_points: use at most this many, drawn at random; None: 20 000.
        generator: draws them.

    Raises:
        SceneError: the scene brings no depth maps, one cannot be read, or none has a depth.
        OptionError: `max_points` < 1.
    """
    if max_points is not None and max_points < 1:
        raise OptionError(f"max_points must be at least 1, got {max_points}")
    files = scene.depth_files or (None,) * len(scene)
    idx = [i for i in scene.train_idx if files[i] is not None]
    if not idx:
        raise SceneError(
            f"{scene.name} brings no depth maps: expected depth_file_path in its transforms.json, or a folder depth/ with files named as the photos"
        )
    photos, Ks = shrunk(scene, idx, INIT_LONG_SIDE)
    depths = [torch.from_numpy(resampled(files[i], K.numpy(), photo.shape[:2])) for i, K, photo in zip(idx, Ks, photos)]
    scales = _scales(scene, idx, Ks, depths)
    masks = [None] * len(idx)
    if scene.masks is not None:
        masks = shrink_masks([scene.masks[i] for i in idx], [(photo.shape[1], photo.shape[0]) for photo in photos])
    points, colors = [], []
    for i, K, depth, scale, photo, mask in zip(idx, Ks, depths, scales, photos, masks):
        usable = sound(depth) if mask is None else sound(depth) & mask
        at = _middles(usable)
        pose = scene.camtoworlds[i].double()
        p_cam = in_camera(depth * scale, K).view(-1, 3)[at]
        points.append((p_cam @ pose[:3, :3].mT + pose[:3, 3]).float())
        colors.append(torch.from_numpy(photo).view(-1, 3)[at])
    if not any(len(part) for part in points):
        raise SceneError(f"the depth maps of {scene.name} hold no depth: all of their pixels are holes or edges")
    return init_from_points(torch.cat(points), torch.cat(colors), max_points=MAX_POINTS if max_points is None else max_points, generator=generator)


def resampled(file: DepthFile, K: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) float64: the depth at the pixels of a photo without lens with intrinsics `K`, from the nearest pixel of the map; NaN outside of it.

    The nearest and no mean: between a thing and what is behind it there is nothing.
    """
    depth, (height, width) = file.read(), shape
    camera = file.camera.at_size(depth.shape[1], depth.shape[0])
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([(columns.ravel() - K[0, 2]) / K[0, 0], (rows.ravel() - K[1, 2]) / K[1, 1]], 1)
    xy = np.floor(camera.distorted(rays) * [camera.fx, camera.fy] + [camera.cx, camera.cy])
    inside = ((xy >= 0) & (xy < [depth.shape[1], depth.shape[0]])).all(1)
    x, y = np.where(inside[:, None], xy, 0).astype(np.int64).T
    return np.where(inside, depth[y, x], np.nan).reshape(shape)


def sound(depth: Tensor) -> Tensor:
    """(h, w) bool: there is a depth, and those of the neighbours, where they have one, differ by less than `EDGE`."""
    known = depth.isfinite()
    log = torch.where(known, depth, 1.0).log()[None, None]
    there = known[None, None]
    highest = F.max_pool2d(torch.where(there, log, -torch.inf), 3, 1, 1)
    lowest = -F.max_pool2d(torch.where(there, -log, -torch.inf), 3, 1, 1)
    return known & ((highest - lowest)[0, 0] <= EDGE)


def _scales(scene: Scene, idx: list[int], Ks: Tensor, depths: list[Tensor]) -> list[float]:
    """What the depths of each photo are multiplied by, to be in world units."""
    per_photo, every = [], []
    for i, K, depth in zip(idx, Ks, depths):
        p_cam = scene.points.double() @ scene.viewmats[i, :3, :3].double().mT + scene.viewmats[i, :3, 3].double()
        p_cam = p_cam[p_cam[:, 2] > 0]
        xy = (p_cam[:, :2] / p_cam[:, 2:] * K.diagonal()[:2] + K[:2, 2]).floor().long()
        inside = ((xy >= 0) & (xy < torch.tensor([depth.shape[1], depth.shape[0]]))).all(1)
        there = torch.where(sound(depth), depth, torch.nan)[xy[inside, 1], xy[inside, 0]]
        ratios = (p_cam[inside, 2] / there)[there.isfinite()].log()
        every.append(ratios)
        per_photo.append(_middle_of_shortest_half(ratios) if len(ratios) >= MIN_POINTS else None)
    ratios = torch.cat(every)
    if len(ratios) < MIN_POINTS:
        return [scene.to_normalised.scale] * len(idx)
    known = torch.tensor([scale for scale in per_photo if scale is not None] or [_middle_of_shortest_half(ratios)], dtype=torch.float64)
    of_all = float(known.median())
    one = bool(((known - of_all).abs().median()) <= SPREAD)
    return [float(np.exp(of_all if one or scale is None else scale)) for scale in per_photo]


def _middle_of_shortest_half(values: Tensor) -> float:
    """Where `values` lie densest. Points that something hides are all on one side of the truth; a median would follow them."""
    values = values.sort().values
    half = (len(values) + 1) // 2
    widths = values[half - 1 :] - values[: len(values) - half + 1]
    first = int(widths.argmin())
    return float(values[first : first + half].median())


def _middles(usable: Tensor) -> Tensor:
    """Positions in the flat map: of each 4x4 patch the usable pixel nearest to its middle; none of patches without any."""
    rows, columns = (-(torch.arange(size) % PATCH - (PATCH - 1) / 2).abs() for size in usable.shape)
    return _best_of_patches(torch.where(usable, rows[:, None] + columns, -torch.inf))

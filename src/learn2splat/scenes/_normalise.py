"""From the frame of the files to the normalised frame: the local frame of georeferenced scenes, origin and scale, and which photos see any point.

All of it looks at a sample where there are many photos and points, so that time and memory do not grow with their product.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from ..errors import SceneError
from ._camera import LARGEST_COORDINATE
from .scene import Similarity

MAX_PAIRS = 2_000_000  # of photos and points that are projected to measure depths
MIN_SAMPLE = 1000  # points, however many photos there are
CHUNK = 1 << 18  # points that are looked at together
# How many median depths the scene may be from its origin before float32 (24 bits) loses a hundredth of a pixel of a photo of 1600 px.
FAR = 128
_TIDY = 100  # the local origin is rounded to this many median depths, or rather the power of ten below


def finite_points(points: np.ndarray) -> np.ndarray:
    """(P,) bool: coordinates that can be computed with."""
    good = np.empty(len(points), bool)
    for first in range(0, len(points), CHUNK):
        with np.errstate(invalid="ignore"):
            good[first : first + CHUNK] = (np.abs(points[first : first + CHUNK]) < LARGEST_COORDINATE).all(1)  # NaN compares false
    return good


def sample_of(count: int, photos: int) -> np.ndarray | slice:
    """Positions of the points that stand for all `count`: all of them while photos x points stay below MAX_PAIRS, else a fixed random choice."""
    most = max(MIN_SAMPLE, MAX_PAIRS // max(photos, 1))
    return slice(None) if count <= most else np.sort(np.random.default_rng(0).choice(count, most, replace=False, shuffle=False))


def depths_of(points: np.ndarray, camtoworld: np.ndarray) -> np.ndarray:
    """Depths (P,) of the points along a camera's axis."""
    return (points - camtoworld[:3, 3]) @ camtoworld[:3, 2]


def depths_inside(points: np.ndarray, camtoworld: np.ndarray, K: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Depths of those points (P, 3) that lie in front of a view and inside its frame of `size` (width, height)."""
    p_cam = (points - camtoworld[:3, 3]) @ camtoworld[:3, :3]
    p_cam = p_cam[p_cam[:, 2] > 0]
    xy = (p_cam @ K.T)[:, :2] / p_cam[:, 2:]
    return p_cam[(xy >= 0).all(1) & (xy[:, 0] <= size[0]) & (xy[:, 1] <= size[1]), 2]


def first_depths_inside(points: np.ndarray, camtoworld: np.ndarray, K: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`depths_inside` of the first part of however many points of which any is inside; empty if none is."""
    parts = (depths_inside(points[first : first + CHUNK], camtoworld, K, size) for first in range(0, len(points), CHUNK))
    return next((depths for depths in parts if len(depths)), np.zeros(0))


def similarity_from_points(points: np.ndarray, seen_depths: np.ndarray) -> Similarity:
    """Origin at the median of `points` (P, 3), median of `seen_depths` (all (photo, point) pairs) 1, no rotation."""
    depth = float(np.median(seen_depths)) if len(seen_depths) else 0.0
    if not 0 < depth < np.inf:
        raise SceneError(f"the points have median depth {depth} in the photos that see them, expected more than 0: the reconstruction has failed")
    return shift_and_scale(np.median(points, axis=0), 1 / depth)


def similarity_from_cameras(poses: np.ndarray) -> Similarity:
    """Without points: what the cameras look at becomes the origin, their median distance to it 1. `poses`: (M, 4, 4) camtoworlds.

    Least squares over the optical axes c_i + s d_i: sum_i (I - d_i d_i^T) (x - c_i) = 0.
    """
    centres, axes = poses[:, :3, 3], poses[:, :3, 2]
    mean = centres.mean(0)
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    normal = across.sum(0)
    origin = mean
    if np.linalg.cond(normal) < 1e4:  # else the axes are parallel to half a degree, and the point is anywhere along them
        target = mean + np.linalg.solve(normal, (across @ (centres - mean)[:, :, None]).sum(0)[:, 0])
        if np.mean(((target - centres) * axes).sum(1) > 0) > 0.5:  # in front of most cameras
            origin = target
    distance = float(np.median(np.linalg.norm(centres - origin, axis=1)))
    if not distance > 0:
        raise SceneError("all cameras are at one place and there are no points, so the scene has no scale: add a point cloud (ply_file_path)")
    return shift_and_scale(origin, 1 / distance)


def shift_and_scale(origin: np.ndarray, scale: float) -> Similarity:
    """The similarity that moves `origin` to 0 and multiplies lengths by `scale`."""
    return Similarity(float(scale), torch.eye(3, dtype=torch.float64), torch.from_numpy(-scale * origin))


def local_origin(to_normalised: Similarity) -> np.ndarray | None:
    """Where a local frame must have its origin (3,) so that float32 can hold coordinates of the scene; None if it can as it is.

    A tidy number near the middle of the scene, so that people can type it into other programs.
    """
    middle = to_normalised.inverse().translation.numpy()
    unit = 1 / to_normalised.scale
    if np.abs(middle).max() <= FAR * unit:
        return None
    step = 10.0 ** math.floor(math.log10(_TIDY * unit))
    return np.round(np.round(middle / step) * step, 6)

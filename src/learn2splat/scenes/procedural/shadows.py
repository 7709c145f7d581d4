"""Soft shadows of a sun, from shadow maps that are made once per scene and read from every view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .shapes import CORNERS, Primitive, interval, transform

_SUN_POSITIONS = ((-0.5, -0.25), (0.25, -0.5), (0.5, 0.25), (-0.25, 0.5))  # one per sample of a pixel: a rotated grid on the sun's disc


@dataclass(frozen=True)
class Light:
    """A sun, and what shines from above and below: linear RGB (3,) float32 each; `direction` (3,) float64 towards the sun, unit."""

    direction: np.ndarray
    sun: np.ndarray
    sky: np.ndarray
    floor: np.ndarray
    softness: float  # radians: half-width of the sun


@dataclass(frozen=True)
class Shadows:
    """Shadow maps of the sun, one for each sample of a pixel: their mean over the pixel is a soft shadow, the same one from every view.

    A map holds, over a plane across the sun's direction, how deep along it the first solid is met: the middle of the ray's interval in it, so that
    the side in the light (before the middle) does not shadow itself and no bias has to be tuned.

    Attributes:
        frames: (s * s, 3, 3) float64: rows are two axes of the plane and the direction away from the sun.
        low, texel: corner of the maps, and px size, in world units; the same numbers for both axes and all maps.
        depths: (s * s, size, size) float32, inf where nothing casts a shadow.
    """

    frames: np.ndarray
    low: np.ndarray
    texel: float
    depths: np.ndarray

    def lit(self, camtoworld: np.ndarray, p_cam: np.ndarray, sample: np.ndarray) -> np.ndarray:
        """Which points (3, n), camera frame, the sun reaches; sample (n,) in 0..s*s-1 picks the map."""
        size = self.depths.shape[-1]
        rotations = self.frames @ camtoworld[:3, :3]
        origins = self.frames @ camtoworld[:3, 3]
        origins[:, :2] -= self.low
        rotations[:, :2] /= self.texel
        origins[:, :2] /= self.texel
        lit = np.empty(len(sample), bool)
        for i in range(len(self.depths)):
            group = np.flatnonzero(sample == i)
            column, row, depth = transform(rotations[i], p_cam[:, group], origins[i])
            inside = (column >= 0) & (row >= 0) & (column < size) & (row < size)
            texel = np.where(inside, row, 0).astype(np.int32) * size + np.where(inside, column, 0).astype(np.int32)
            lit[group] = (depth < self.depths[i].ravel()[texel]) | ~inside
        return lit


def cast_shadows(primitives: list[Primitive], light: Light, size: int) -> Shadows:
    """The shadow maps of all primitives that cast one, `size` x `size` texels each."""
    casters = [primitive for primitive in primitives if primitive.casts_shadow]
    side, other = _frame(light.direction)
    frames = []
    for a, b in _SUN_POSITIONS:
        direction = light.direction + 2 * light.softness * (a * side + b * other)
        direction /= np.linalg.norm(direction)
        frames.append(np.stack([*_frame(direction), -direction]))
    frames = np.stack(frames)
    axes = np.stack([primitive.rotation * primitive.half_sizes for primitive in casters])
    corners = frames[:, None, :2] @ (np.stack([primitive.center for primitive in casters])[:, :, None] + axes @ CORNERS)  # (s * s, P, 2, 8)
    low, high = corners.min(3), corners.max(3)  # (s * s, P, 2)
    corner = low.min((0, 1))
    texel = float((high.max((0, 1)) - corner).max() / size)
    depths = np.full((len(frames), size, size), np.inf, np.float32)
    centers = (np.arange(size) + 0.5) * texel
    for i, frame in enumerate(frames):
        for k, primitive in enumerate(casters):
            (left, top), (right, bottom) = np.floor((low[i, k] - corner) / texel).astype(int), np.ceil((high[i, k] - corner) / texel).astype(int)
            rows, columns = slice(max(top, 0), bottom), slice(max(left, 0), right)
            to_local = primitive.local_from_world
            start = (to_local @ (corner @ frame[:2] - primitive.center)).astype(np.float32)
            across = (to_local @ frame[:2].T).astype(np.float32)
            x, y = (centers[part].astype(np.float32) for part in (columns, rows))
            origin = [a * x + (b * y + c)[:, None] for (a, b), c in zip(across, start)]
            near, far = interval(primitive.kind, origin, (to_local @ frame[2]).astype(np.float32))
            before = depths[i, rows, columns]
            middle = 0.5 * (near + far)
            np.copyto(before, middle, where=(near <= far) & (middle < before))
    return Shadows(frames, corner, texel, depths)


def _frame(direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors perpendicular to `direction` and to each other."""
    helper = np.eye(3)[np.argmin(np.abs(direction))]
    side = np.cross(direction, helper)
    side /= np.linalg.norm(side)
    return side, np.cross(direction, side)

"""Camera paths for videos, made from the train cameras so that they stay where the scene was seen.

| path | what it does | good for |
|---|---|---|
| `spiral` | small loops around one pose, looking at the subject | forward-facing photos; a close look at one side of anything else |
| `orbit` | around the subject at the heights and distances of the cameras; a full turn, or to and fro where they cover a part | objects |
| `interpolate` | a smooth tour through some of the train cameras | rooms and walks |

The subject is where the optical axes meet. Everything is in the normalised frame: the median point is the origin, and about 1 away.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from ..scenes import Scene

PathName = Literal["spiral", "orbit", "interpolate"]
SPIRAL_TURNS = 2
FULL_TURN_GAP = np.deg2rad(100)  # Cameras that leave no larger gap in azimuth have seen the subject from all around.
AZIMUTH_WIDTH = np.deg2rad(25)  # How far, along the orbit, heights and distances of cameras are averaged.
FRAMES_PER_KEY = 15  # Of `interpolate`: fewer frames from one camera to the next look hasty.
MIN_KEYS = 8  # A tour around something through fewer cameras would cut through it.


def camera_path(scene: Scene, name: PathName, frames: int) -> Tensor:
    """Poses of a video.

    Returns:
        (frames, 4, 4) float32, world from camera, OpenCV axes, normalised frame. `spiral` and `orbit` end where they start.
    """
    poses = scene.camtoworlds[list(scene.train_idx)].double().numpy()
    return torch.from_numpy(path_through(poses, name, frames)).float()


def path_through(poses: np.ndarray, name: PathName, frames: int) -> np.ndarray:
    """The same, float64, for cameras `poses` (M, 4, 4) of a subject near the origin and about 1 away."""
    return {"spiral": _spiral, "orbit": _orbit, "interpolate": _interpolate}[name](poses, frames)


def subject(poses: np.ndarray) -> np.ndarray:
    """The point (3,) nearest to all optical axes; a weak pull to the origin (the median point) decides where the axes are parallel."""
    centres, forward = poses[:, :3, 3], poses[:, :3, 2]
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]  # distance to an axis, squared: (p - c)^T across (p - c)
    pull = 0.02 * len(poses)
    return np.linalg.solve(across.sum(0) + pull * np.eye(3), (across @ centres[:, :, None]).sum(0)[:, 0])


def look_at(centres: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """(F, 4, 4) poses at `centres` (F, 3) whose optical axis meets `target`, with image-up as near to `up` as that allows."""
    forward = _unit(target - centres)
    right = _unit(np.cross(forward, up))
    poses = np.tile(np.eye(4), (len(centres), 1, 1))
    poses[:, :3, 0], poses[:, :3, 1], poses[:, :3, 2], poses[:, :3, 3] = right, np.cross(forward, right), forward, centres
    return poses


def _spiral(poses: np.ndarray, frames: int) -> np.ndarray:
    """LLFF's spiral around the mean pose. Where the cameras look in different directions, their mean pose would lie inside the subject:
    then around the most central camera, with small loops."""
    target, up = subject(poses), _up(poses)
    agreement = np.linalg.norm(poses[:, :3, 2].mean(0))  # 1: all look the same way
    centres = poses[:, :3, 3]
    if agreement > 0.9:
        base = look_at(centres.mean(0, keepdims=True), target, up)[0]
        local = (centres - base[:3, 3]) @ base[:3, :3]
        radii = np.quantile(np.abs(local), 0.8, axis=0)
    else:
        closeness = np.linalg.norm(centres[:, None] - centres[None], axis=-1).mean(1)
        base = look_at(centres[[int(np.argmin(closeness))]], target, up)[0]
        radii = np.full(3, np.inf)
    distance = np.linalg.norm(target - base[:3, 3])
    radii = np.minimum(radii, np.array([0.15, 0.1, 0.1]) * distance)
    angle = 2 * np.pi * SPIRAL_TURNS * np.arange(frames) / frames
    offsets = np.stack([np.cos(angle), -np.sin(angle), -np.sin(angle / SPIRAL_TURNS)], axis=1) * radii
    return look_at(base[:3, 3] + offsets @ base[:3, :3].T, target, up)


def _orbit(poses: np.ndarray, frames: int) -> np.ndarray:
    """Around the axis through the subject along the mean up direction; the height and distance at an azimuth are those of the cameras near it."""
    target, up = subject(poses), _up(poses)
    offsets = poses[:, :3, 3] - target
    height = offsets @ up
    flat = offsets - height[:, None] * up
    east = _unit(flat[int(np.argmax(np.linalg.norm(flat, axis=1)))])
    north = np.cross(up, east)
    azimuth = np.arctan2(flat @ north, flat @ east)
    radius = np.linalg.norm(flat, axis=1)

    turn = np.arange(frames) / frames
    ordered = np.sort(azimuth)
    gaps = np.diff(np.append(ordered, ordered[0] + 2 * np.pi))
    widest = int(np.argmax(gaps))
    if gaps[widest] < FULL_TURN_GAP:
        angles = 2 * np.pi * turn
    else:  # from the end of the widest gap once around to its beginning, and back
        begin = ordered[(widest + 1) % len(ordered)]
        half = (2 * np.pi - gaps[widest]) / 2
        angles = begin + half - half * np.cos(2 * np.pi * turn)

    apart = np.angle(np.exp(1j * (angles[:, None] - azimuth[None])))
    weights = np.exp(-0.5 * (apart / AZIMUTH_WIDTH) ** 2) + 1e-6
    weights /= weights.sum(1, keepdims=True)
    r, h = weights @ radius, weights @ height
    around = np.cos(angles)[:, None] * east + np.sin(angles)[:, None] * north
    return look_at(target + r[:, None] * around + h[:, None] * up, target, up)


def _interpolate(poses: np.ndarray, frames: int) -> np.ndarray:
    """Through cameras spread over all of them, in an order that makes the tour short. Centres, points looked at and up directions are splines of
    the way gone: interpolated rotations would look past the subject between two cameras that face each other."""
    keys = poses[_tour(poses, max(MIN_KEYS, frames // FRAMES_PER_KEY))]
    if len(keys) == 1:
        return np.repeat(keys, frames, axis=0)
    centres, forward = keys[:, :3, 3], keys[:, :3, 2]
    depths = np.clip(((subject(poses) - centres) * forward).sum(1, keepdims=True), 0.3, 3.0)
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1) + _turn(keys[:-1], keys[1:])
    way = np.concatenate([[0.0], np.cumsum(np.maximum(steps, 1e-3))])
    numbers = np.concatenate([centres, centres + depths * forward, -keys[:, :3, 1]], axis=1)
    centre, target, up = np.split(PchipInterpolator(way, numbers)(np.linspace(0, way[-1], frames)), 3, axis=1)  # does not swing out between keys
    return look_at(centre, target, up)


def _tour(poses: np.ndarray, count: int) -> list[int]:
    """At most `count` cameras, farthest-point sampled, as a short open tour: nearest neighbour, then 2-opt."""
    far = np.linalg.norm(poses[:, None, :3, 3] - poses[None, :, :3, 3], axis=-1) + _turn(poses[:, None], poses[None])
    chosen = [0]
    while len(chosen) < min(count, len(poses)):
        chosen.append(int(np.argmax(far[chosen].min(0))))
    tour, left = [chosen[-1]], set(chosen) - {chosen[-1]}
    while left:
        tour.append(min(left, key=lambda i: far[tour[-1], i]))
        left.remove(tour[-1])

    def length(order: list[int]) -> float:
        return float(far[order[:-1], order[1:]].sum())

    improved = True
    while improved:
        improved = False
        for i in range(len(tour) - 1):
            for j in range(i + 1, len(tour)):
                flipped = tour[:i] + tour[i : j + 1][::-1] + tour[j + 1 :]
                if length(flipped) < length(tour) - 1e-9:
                    tour, improved = flipped, True
    return tour


def _turn(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angle (rad) between the optical axes of poses a and b: as much as moving by so many distances to the subject."""
    return np.arccos(np.clip((a[..., :3, 2] * b[..., :3, 2]).sum(-1), -1, 1))


def _up(poses: np.ndarray) -> np.ndarray:
    """Mean image-up direction of the cameras (OpenCV: -y)."""
    return _unit(-poses[:, :3, 1].mean(0))


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-12)

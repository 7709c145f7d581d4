"""Where to look at a splat from when nothing but the splat is known: a ring of cameras around where most of it is."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from ..gaussians import Gaussians
from ..scenes import Similarity
from .camera_files import Shot
from .camera_paths import look_at

UpName = Literal["auto", "x", "y", "z", "-x", "-y", "-z"]
RING = 24  # cameras
ELEVATION = np.deg2rad(15)
DISTANCE = 2.5  # In the median distance of a Gaussian to the centre: a ball that is full just fits into the field of view.
FIELD_OF_VIEW = np.deg2rad(55)  # vertical
NEAR = 0.3  # Of the distance to the centre: what is nearer hides the subject, for no photo was taken from behind it.
WIDTH, HEIGHT = 800, 600  # px
_SOLID = 0.3  # Opacity above which a Gaussian tells where the subject is; haze does not.
_FLAT = 0.6  # A cloud whose smallest spread is below this share of the next has lain on a ground.


def frame_of(gaussians: Gaussians) -> Similarity:
    """The frame in which the ring is made: the median of the solid Gaussians is the origin, their median distance to it is 1 / `DISTANCE`."""
    means = _solid(gaussians)
    centre = np.median(means, axis=0)
    radius = float(np.median(np.linalg.norm(means - centre, axis=1)))
    if not radius > 0:
        radius = float(gaussians.log_scales.exp().max())  # a single Gaussian: its own size
    scale = 1 / (DISTANCE * radius)
    return Similarity(scale, torch.eye(3, dtype=torch.float64), torch.from_numpy(-scale * centre))


def up_of(gaussians: Gaussians, name: UpName = "auto") -> np.ndarray:
    """Which way (3,) is up. `auto`: the axis along which the solid part is flat (most scenes stand on a ground), towards -y where it is nearest to y,
    as COLMAP leaves it, else towards + (z of Blender and nerfstudio); -y where nothing is flat."""
    if name != "auto":
        axis = np.zeros(3)
        axis["xyz".index(name[-1])] = -1 if name.startswith("-") else 1
        return axis
    means = _solid(gaussians)
    offsets = means - np.median(means, axis=0)
    near = np.linalg.norm(offsets, axis=1)
    offsets = offsets[near <= 2 * np.median(near)]
    spreads, axes = np.linalg.eigh(offsets.T @ offsets)
    down = np.array([0.0, -1.0, 0.0])
    if len(offsets) < 10 or spreads[0] > _FLAT**2 * spreads[1]:
        return down
    flat = axes[:, 0]
    largest = int(np.argmax(np.abs(flat)))
    if abs(flat[largest]) < 0.8:  # oblique to all axes: a wall, or a frame that nobody has turned upright
        return down
    return flat * np.sign(flat[largest]) * (-1 if largest == 1 else 1)


def ring(up: np.ndarray, width: int | None) -> list[Shot]:
    """Cameras around the origin at distance 1, a little above it, looking at it; the first stands where the axis that is most level points to."""
    forward = np.array([0.0, 0.0, 1.0]) if abs(up[2]) < 0.9 else np.array([0.0, 1.0, 0.0])
    north = forward - (forward @ up) * up
    north /= np.linalg.norm(north)
    east = np.cross(up, north)
    angles = 2 * np.pi * np.arange(RING) / RING
    flat = -np.cos(angles)[:, None] * north + np.sin(angles)[:, None] * east
    poses = look_at(np.cos(ELEVATION) * flat + np.sin(ELEVATION) * up, np.zeros(3), up)
    focal = 0.5 * HEIGHT / np.tan(0.5 * FIELD_OF_VIEW)
    K = np.array([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]])
    shots = [Shot(f"{i:02d}", pose, K, WIDTH, HEIGHT) for i, pose in enumerate(poses)]
    return [shot.resized(width) if width else shot for shot in shots]


def _solid(gaussians: Gaussians) -> np.ndarray:
    """Means (M, 3) float64 of the Gaussians that are more than haze; all of them where there are few of those."""
    means = gaussians.means.double().cpu().numpy()
    solid = gaussians.logit_opacities.sigmoid().cpu().numpy() > _SOLID
    return means[solid] if solid.sum() >= 0.05 * len(means) else means

"""`export --format html`: from which viewpoints the page shows a splat. For a result those of its photos, if they are still there; else a ring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..errors import Learn2SplatError
from ..gaussians import Gaussians, load_offset, transform_gaussians
from ..scenes import Similarity
from ..viewer.page import Viewpoint, splat_page
from . import result as saved
from .camera_files import Shot, read_shots
from .splat_cameras import NEAR, frame_of, ring, up_of

NEAR_OF_PHOTOS = 0.05  # of the distance to the subject: photos were taken from there, so nothing hides it
MAX_VIEWPOINTS = 60  # evenly chosen among the photos; the page has two buttons to go through them


def html_of(gaussians: Gaussians, splat: Path) -> str:
    """The page of Gaussians in the frame of the file, or of the folder of `fit`, at `splat`."""
    to_page = frame_of(gaussians)
    shots = photo_cameras(splat, to_page)
    up = upright(shots) if shots else None
    moved = transform_gaussians(gaussians, to_page)
    if up is None:
        up = up_of(gaussians)
    viewpoints = [viewpoint(shot) for shot in _chosen(shots)]
    camera = shots[0] if shots else ring(up, None)[0]
    if not viewpoints:
        viewpoints = [viewpoint(camera)]
    fov = 2 * np.arctan(0.5 * camera.height / camera.K[1, 1])
    name = splat.name.split(".")[0] if saved.splat_path(splat) is not None else splat.resolve().name
    near = NEAR_OF_PHOTOS if shots else NEAR
    return splat_page(moved, name, viewpoints, up=up, fov=fov, aspect=camera.width / camera.height, near=near)


def photo_cameras(splat: Path, to_page: Similarity) -> list[Shot]:
    """Those of the photos that a result was fitted to, in the frame of the page; none for other splats, or where the scene is no longer there."""
    if saved.splat_path(splat) is not None:
        return []
    try:
        shots = read_shots(Path(saved.load_config(splat)["scene"]["path"]))
    except (Learn2SplatError, OSError):
        return []
    offset = load_offset(splat / saved.PLY)
    if offset is not None:
        shots = [shot.shifted(-offset.numpy()) for shot in shots]
    poses = to_page.apply_poses(torch.from_numpy(np.stack([shot.camtoworld for shot in shots]))).numpy()
    return [Shot(shot.name, pose, shot.K, shot.width, shot.height) for shot, pose in zip(shots, poses)]


def upright(shots: list[Shot]) -> np.ndarray | None:
    """Which way (3,) is up for people who hold cameras upright; None where they do not agree."""
    up = -np.mean([shot.camtoworld[:3, 1] for shot in shots], axis=0)
    length = float(np.linalg.norm(up))
    return up / length if length > 0.3 else None


def viewpoint(shot: Shot) -> Viewpoint:
    """Looks at the point of its axis that is nearest to the middle of the splat."""
    position, forward = shot.camtoworld[:3, 3], shot.camtoworld[:3, 2]
    return Viewpoint(shot.name, position, forward, float(np.clip(-position @ forward, 0.3, 5.0)))


def _chosen(shots: list[Shot]) -> list[Shot]:
    """At most `MAX_VIEWPOINTS`, beginning with the one that stands most in the middle."""
    if not shots:
        return []
    kept = [shots[i] for i in np.unique(np.linspace(0, len(shots) - 1, MAX_VIEWPOINTS).astype(int))]
    centres = np.stack([shot.camtoworld[:3, 3] for shot in kept])
    first = int(np.linalg.norm(centres - np.median(centres, axis=0), axis=1).argmin())
    return kept[first:] + kept[:first]

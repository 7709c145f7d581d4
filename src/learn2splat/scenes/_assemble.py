"""From what a model says (poses, cameras, points) to a `Scene`: load the photos, leave out what cannot be fitted, normalise, split."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
import torch

from ..errors import OptionError, SceneError
from ._photos import in_threads, load_photo
from .scene import Scene, Similarity, every_nth_split

LARGEST = 1e30  # coordinates beyond it do not survive the conversion to float32


@dataclass(frozen=True)
class RawView:
    """A posed photo of a model, not loaded yet."""

    name: str
    path: Path
    camtoworld: np.ndarray  # (4, 4) float64, OpenCV axes, input frame
    camera: pycolmap.Camera
    data_factor: float = 1.0  # how much the file at `path` is still to be shrunk
    seen: np.ndarray | None = None  # positions in RawModel.points of the points observed in this photo; None: the model has no tracks
    held_out: bool | None = None  # None: decided by the every-n-th rule


@dataclass(frozen=True)
class RawModel:
    """All that a COLMAP folder or a transforms.json says, in the input frame."""

    source: Path
    views: list[RawView]
    points: np.ndarray  # (P, 3) float64
    colors: np.ndarray  # (P, 3) uint8


def assemble(model: RawModel, *, long_side: int | None, test_every: int) -> Scene:
    """Load the photos of `model` and bring everything into the normalised frame (docs/conventions.md)."""
    if test_every < 2:
        raise OptionError(f"test_every must be at least 2 (1 would hold every photo out), got {test_every}")
    if long_side is not None and long_side < 1:
        raise OptionError(f"long_side must be at least 1 px, got {long_side}")
    views = sorted(model.views, key=lambda view: view.name)
    require_two_views(views, model.source)
    loaded = in_threads(lambda view: load_photo(view.path, view.camera, data_factor=view.data_factor, long_side=long_side), views)
    photos, Ks, alphas = zip(*loaded)
    with np.errstate(invalid="ignore"):
        finite = (np.abs(model.points) < LARGEST).all(1)  # NaN compares false
    if len(finite) and not finite.any():
        raise SceneError(f"no point of {model.source} is finite: the reconstruction has failed, run it again")
    notes = []
    if not finite.all():
        notes.append(f"left out {int((~finite).sum())} points of {model.source} that are not finite")

    depths, keep = [], []  # of the points seen in each view, in input units; which views see any
    for i, (view, photo, K) in enumerate(zip(views, photos, Ks)):
        if view.seen is not None and len(view.seen):
            depth = _depths(model.points[view.seen][finite[view.seen]], view.camtoworld)
            overlaps = (depth > 0).any()
            depths.append(depth[depth > 0])
        else:  # no tracks, or a photo that was posed by other means
            depth = _depths_inside(model.points[finite], view.camtoworld, K, photo.shape)
            overlaps = len(depth) > 0
            if view.seen is None:
                depths.append(depth)
        if overlaps or not len(model.points):
            keep.append(i)
        else:
            notes.append(f"left out photo {view.name}: none of the {len(model.points)} points is in front of it and inside its frame")
    for note in notes:
        warnings.warn(note, stacklevel=3)
    views, photos, Ks = [views[i] for i in keep], [photos[i] for i in keep], [Ks[i] for i in keep]
    require_two_views(views, model.source)

    poses = np.stack([view.camtoworld for view in views])
    if not (np.abs(poses) < LARGEST).all():
        raise SceneError(f"a camera of {model.source} is not at a finite place: the reconstruction has failed, run it again")
    if finite.any():
        to_normalised = similarity_from_points(model.points[finite], np.concatenate(depths))
    else:
        to_normalised = similarity_from_cameras(poses)
    held_out = [view.held_out for view in views]
    if any(flag is None for flag in held_out):
        train_idx, test_idx = every_nth_split(len(views), test_every)
    else:
        train_idx = tuple(i for i, flag in enumerate(held_out) if not flag)
        test_idx = tuple(i for i, flag in enumerate(held_out) if flag)
        if not train_idx:
            raise SceneError(f"{model.source} has no training photo with overlap: its train split is empty")
    return Scene(
        name=(model.source if model.source.is_dir() else model.source.parent).resolve().name,
        image_names=tuple(view.name for view in views),
        images=tuple(torch.from_numpy(np.array(photo)) for photo in photos),  # a copy: PIL's arrays are read-only
        camtoworlds=to_normalised.apply_poses(torch.from_numpy(poses)).float(),
        Ks=torch.from_numpy(np.stack(Ks)).float(),
        points=to_normalised.apply(torch.from_numpy(model.points[finite])).float(),
        colors=torch.from_numpy(model.colors[finite]),
        train_idx=train_idx,
        test_idx=test_idx,
        to_normalised=to_normalised,
        background=torch.full((3,), float(any(alphas))),
        warnings=tuple(notes),
    )


def require_two_views(views: list[RawView], source: Path) -> None:
    """Raise SceneError for fewer than two."""
    if len(views) < 2:
        raise SceneError(f"{source} has fewer than two usable photos with a pose ({len(views)}), expected at least one to fit and one to hold out")


def _depths(points: np.ndarray, camtoworld: np.ndarray) -> np.ndarray:
    """Depths (P,) of the points along a camera's axis."""
    return (points - camtoworld[:3, 3]) @ camtoworld[:3, 2]


def _depths_inside(points: np.ndarray, camtoworld: np.ndarray, K: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Depths of those points (P, 3) that lie in front of a view and inside its frame."""
    p_cam = (points - camtoworld[:3, 3]) @ camtoworld[:3, :3]
    p_cam = p_cam[p_cam[:, 2] > 0]
    xy = (p_cam @ K.T)[:, :2] / p_cam[:, 2:]
    return p_cam[(xy >= 0).all(1) & (xy[:, 0] <= shape[1]) & (xy[:, 1] <= shape[0]), 2]


def similarity_from_points(points: np.ndarray, seen_depths: np.ndarray) -> Similarity:
    """Origin at the median of `points` (P, 3), median of `seen_depths` (all (photo, point) pairs) 1, no rotation."""
    depth = float(np.median(seen_depths)) if len(seen_depths) else 0.0
    if not 0 < depth < np.inf:
        raise SceneError(f"the points have median depth {depth} in the photos that see them, expected more than 0: the reconstruction has failed")
    return _shift_and_scale(np.median(points, axis=0), 1 / depth)


def similarity_from_cameras(poses: np.ndarray) -> Similarity:
    """Without points: what the cameras look at becomes the origin, their median distance to it 1. `poses`: (M, 4, 4) camtoworlds.

    Least squares over the optical axes c_i + s d_i: sum_i (I - d_i d_i^T) (x - c_i) = 0.
    """
    centres, axes = poses[:, :3, 3], poses[:, :3, 2]
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    normal = across.sum(0)
    origin = centres.mean(0)
    if np.linalg.cond(normal) < 1e4:  # else the axes are parallel to half a degree, and the point is anywhere along them
        target = np.linalg.solve(normal, (across @ centres[:, :, None]).sum(0)[:, 0])
        if np.mean(((target - centres) * axes).sum(1) > 0) > 0.5:  # in front of most cameras
            origin = target
    distance = float(np.median(np.linalg.norm(centres - origin, axis=1)))
    if not distance > 0:
        raise SceneError("all cameras are at one place and there are no points, so the scene has no scale: add a point cloud (ply_file_path)")
    return _shift_and_scale(origin, 1 / distance)


def _shift_and_scale(origin: np.ndarray, scale: float) -> Similarity:
    return Similarity(float(scale), torch.eye(3, dtype=torch.float64), torch.from_numpy(-scale * origin))

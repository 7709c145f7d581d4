"""Reads a COLMAP folder (binary or text model, photos in images/ or images_N/) through pycolmap."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pycolmap

from ..errors import SceneError
from ._assemble import RawModel, RawView, require_two_views
from ._colmap_check import FILES, check_model_files
from ._photos import find_photo


def find_model(root: Path) -> tuple[Path, str] | None:
    """(folder, ".bin" or ".txt") of the COLMAP model in `root`: in sparse/0, sparse or `root` itself; None without one."""
    incomplete = None
    for folder in (root / "sparse" / "0", root / "sparse", root):
        for suffix in (".bin", ".txt"):
            missing = [f"{name}{suffix}" for name in FILES if not (folder / f"{name}{suffix}").is_file()]
            if not missing:
                return folder, suffix
            incomplete = incomplete or (folder, missing) if missing[0] != f"cameras{suffix}" else incomplete
    if incomplete is not None:
        raise SceneError(f"the COLMAP model in {incomplete[0]} lacks {', '.join(incomplete[1])}: copy the whole model")
    return None


def read_colmap(root: Path, folder: Path, suffix: str, data_factor: int) -> RawModel:
    """The model in `folder` with the photos that belong to it."""
    check_model_files(folder, suffix)
    reconstruction = _read(folder, suffix)
    point_ids = np.array(sorted(reconstruction.points3D), dtype=np.uint64)
    points3D = [reconstruction.points3D[int(i)] for i in point_ids]
    lengths = np.array([point.track.length() for point in points3D])
    if len(lengths) and lengths.any():  # a point of one observation has no depth; models without any tracks are converted ones: keep all
        reliable = lengths >= 2
        point_ids, points3D = point_ids[reliable], [point for point, good in zip(points3D, reliable) if good]
    has_tracks = bool(lengths.any())

    folders = _image_folders(root, folder)
    views = []
    for image in reconstruction.images.values():
        if not image.has_pose:
            continue
        pose = image.cam_from_world().inverse().matrix()
        camera = reconstruction.cameras[image.camera_id]
        if not (np.isfinite(pose).all() and np.isfinite(camera.params).all() and camera.mean_focal_length() > 0):
            raise SceneError(f"photo {image.name} in {folder} has a pose or camera that is not finite: the reconstruction has failed, run it again")
        path, remaining_factor = _find_at_factor(folders, image.name, data_factor, root)
        seen = None
        if has_tracks:
            ids = np.unique(np.array([observation.point3D_id for observation in image.get_observation_points2D()], dtype=np.uint64))
            position = np.searchsorted(point_ids, ids)
            known = position < len(point_ids)
            seen = position[known][point_ids[position[known]] == ids[known]]
        views.append(RawView(image.name, path, np.vstack([pose, [0, 0, 0, 1]]), camera, remaining_factor, seen))
    require_two_views(views, root)
    if not points3D:
        raise SceneError(f"the COLMAP model in {folder} has no points to start from: run COLMAP's point triangulation, or map the photos again")
    points = np.stack([point.xyz for point in points3D]).astype(np.float64)
    colors = np.stack([point.color for point in points3D]).astype(np.uint8)
    return RawModel(root, views, points, colors)


def _read(folder: Path, suffix: str) -> pycolmap.Reconstruction:
    """pycolmap's record of the three classic files. rigs and frames (COLMAP 3.12+) repeat the poses and abort when damaged: not read."""
    try:
        with tempfile.TemporaryDirectory() as staging:
            for name in FILES:
                shutil.copyfile(folder / f"{name}{suffix}", Path(staging) / f"{name}{suffix}")
            return pycolmap.Reconstruction(staging)
    except (ValueError, IndexError, KeyError, RuntimeError, OSError, MemoryError) as error:  # pycolmap's: its checks raise any of these
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SceneError(f"the COLMAP model in {folder} is truncated or damaged ({reason}): export it again") from error


def _image_folders(root: Path, model: Path) -> list[Path]:
    """Where photos may be: images/ beside the model's folder or above it (root may be the model's own folder)."""
    parents = [root, model, *model.resolve().parents[:2]]
    folders = [parent / "images" for parent in parents if (parent / "images").is_dir()]
    if not folders:
        raise SceneError(f"no folder images/ in {root}: put the photos that COLMAP was given there")
    return folders


def _find_at_factor(folders: list[Path], name: str, data_factor: int, root: Path) -> tuple[Path, float]:
    """The photo called `name`, from images_N/ when N = data_factor and it is there; and how much it is still to be shrunk."""
    if data_factor > 1:
        smaller = find_photo([folder.with_name(f"images_{data_factor}") for folder in folders], name)
        if smaller is not None:
            return smaller, 1.0
    path = find_photo(folders, name)
    if path is None:
        raise SceneError(f"photo {name} of the model in {root} is missing: looked in {', '.join(str(folder) for folder in folders)}")
    return path, float(data_factor)

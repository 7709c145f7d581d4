"""Cameras without photos, for `render --cameras`: a transforms.json or a COLMAP model as they are, in the frame of the file.

Lens distortion is passed over: renders are pinhole pictures.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SceneError
from ..scenes._camera import Camera, pose_fault
from ..scenes._colmap import camtoworld_of
from ..scenes._colmap_binary import read_binary
from ..scenes._colmap_text import read_text_model

_COLMAP = ("cameras", "images")


@dataclass(frozen=True)
class Shot:
    """One picture to be rendered: `camtoworld` (4, 4) and `K` (3, 3) float64, OpenCV axes, px of a picture of that size."""

    name: str
    camtoworld: np.ndarray
    K: np.ndarray
    width: int
    height: int

    def resized(self, width: int) -> Shot:
        """The same picture, `width` px wide (made even, as codecs want), its height in proportion."""
        new_width = max(2, width // 2 * 2)
        new_height = max(2, round(new_width * self.height / self.width / 2) * 2)
        K = self.K * np.array([[new_width / self.width], [new_height / self.height], [1.0]])
        return Shot(self.name, self.camtoworld, K, new_width, new_height)

    def shifted(self, by: np.ndarray) -> Shot:
        """The same picture from a place (3,) farther."""
        camtoworld = self.camtoworld.copy()
        camtoworld[:3, 3] += by
        return Shot(self.name, camtoworld, self.K, self.width, self.height)


def read_shots(path: Path) -> list[Shot]:
    """The cameras in `path`, in the order of a transforms.json or of the names of a COLMAP model.

    Raises:
        SceneError: no cameras there, or they are malformed.
    """
    if path.is_file():
        return _read_transforms(path)
    for folder in (path / "sparse" / "0", path / "sparse", path):
        for suffix in (".bin", ".txt"):
            if all((folder / f"{name}{suffix}").is_file() for name in _COLMAP):
                return _read_colmap(folder, suffix)
    if (path / "transforms.json").is_file():
        return _read_transforms(path / "transforms.json")
    raise SceneError(f"no cameras in {path}: expected a transforms.json, or a folder with one or with a COLMAP model")


def _read_transforms(file: Path) -> list[Shot]:
    """Poses are OpenGL: the y and z axes of the camera are flipped. `applied_transform` is undone, as `load_scene` does."""
    try:
        meta = json.loads(file.read_text(encoding="utf-8-sig"))
        undo = np.eye(4)
        if meta.get("applied_transform") is not None:
            undo = np.linalg.inv(_matrix(meta["applied_transform"]))
        shots = [_frame({**meta, **frame}, undo) for frame in meta["frames"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, np.linalg.LinAlgError) as error:
        raise SceneError(f"{file} is not a transforms.json with cameras ({type(error).__name__}: {error})") from error
    if not shots:
        raise SceneError(f"{file} has no frames")
    return shots


def _frame(values: dict[str, Any], undo: np.ndarray) -> Shot:
    pose = undo @ _matrix(values["transform_matrix"])
    scale = np.cbrt(abs(np.linalg.det(pose[:3, :3])))
    u, _, vt = np.linalg.svd(pose[:3, :3])
    if not scale > 0 or np.abs(u @ vt * scale - pose[:3, :3]).max() > 0.02 * scale:
        raise ValueError("a transform_matrix is no rotation and shift")
    pose[:3, :3] = (u @ vt) * [1, -1, -1]

    def number(key: str, default: float | None = None) -> float:
        value = values.get(key)
        value = default if value is None else float(value)
        if value is None or not math.isfinite(value):
            raise ValueError(f"expected the number {key}")
        return value

    fx = values.get("fl_x")
    width = number("w", 800 if fx is None else None)  # NeRF-synthetic says neither size nor focal length in px: 800 x 800
    height = number("h", 800 if fx is None else None)
    fx = number("fl_x") if fx is not None else 0.5 * width / math.tan(0.5 * number("camera_angle_x"))
    fy = number("fl_y", fx)
    camera = Camera(int(width), int(height), fx, fy, number("cx", width / 2), number("cy", height / 2))
    if fault := camera.fault() or pose_fault(pose):
        raise ValueError(fault)
    return Shot(str(values.get("file_path", "")), pose, camera.K(), camera.width, camera.height)


def _matrix(rows: Any) -> np.ndarray:
    matrix = np.array(rows, np.float64)
    if matrix.shape not in ((4, 4), (3, 4)) or not np.isfinite(matrix).all():
        raise ValueError("a matrix must have 3 x 4 or 4 x 4 finite numbers")
    return np.vstack([matrix[:3], [0, 0, 0, 1]])


def _read_colmap(folder: Path, suffix: str) -> list[Shot]:
    """Cameras and poses alone: the points are not looked at."""
    model = (read_binary if suffix == ".bin" else read_text_model)(folder, points=False)
    posed = [(image, camtoworld_of(image)) for image in sorted(model.images, key=lambda image: image.name)]
    cameras = model.cameras
    shots = [
        Shot(image.name, pose, cameras[image.camera_id].K(), cameras[image.camera_id].width, cameras[image.camera_id].height)
        for image, pose in posed
        if not (pose_fault(pose) or cameras[image.camera_id].fault())
    ]
    if not shots:
        raise SceneError(f"the COLMAP model in {folder} has no cameras with a pose")
    return shots

"""Cameras without photos, for `render --cameras`: a transforms.json or a COLMAP model as they are, in the frame of the file.

Lens distortion is passed over: renders are pinhole pictures.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from scipy.spatial.transform import Rotation

from ..errors import SceneError

_COLMAP = ("cameras", "images")
_NUM_PARAMS = {"SIMPLE_PINHOLE": 3, "PINHOLE": 4, "SIMPLE_RADIAL": 4, "RADIAL": 5, "OPENCV": 8, "OPENCV_FISHEYE": 8, "FULL_OPENCV": 12, "FOV": 5}
_NUM_PARAMS |= {"SIMPLE_RADIAL_FISHEYE": 4, "RADIAL_FISHEYE": 5, "THIN_PRISM_FISHEYE": 12}


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
    if not (1 <= width < 1e5 and 1 <= height < 1e5 and fx > 0 and fy > 0):
        raise ValueError(f"w, h, fl_x and fl_y must be positive, got {width}, {height}, {fx}, {fy}")
    K = np.array([[fx, 0, number("cx", width / 2)], [0, fy, number("cy", height / 2)], [0, 0, 1]])
    return Shot(str(values.get("file_path", "")), pose, K, int(width), int(height))


def _matrix(rows: Any) -> np.ndarray:
    matrix = np.array(rows, np.float64)
    if matrix.shape not in ((4, 4), (3, 4)) or not np.isfinite(matrix).all():
        raise ValueError("a matrix must have 3 x 4 or 4 x 4 finite numbers")
    return np.vstack([matrix[:3], [0, 0, 0, 1]])


def _read_colmap(folder: Path, suffix: str) -> list[Shot]:
    """Two of the three files, read here: pycolmap wants the points too, and ends the process where a file is damaged."""
    read_cameras, read_images = (_binary_cameras, _binary_images) if suffix == ".bin" else (_text_cameras, _text_images)
    try:
        cameras = read_cameras((folder / f"cameras{suffix}").read_bytes())
        images = read_images((folder / f"images{suffix}").read_bytes())
        shots = [_posed(name, np.array(quat), np.array(shift), cameras[camera_id]) for name, quat, shift, camera_id in sorted(images)]
    except (OSError, ValueError, KeyError, IndexError, struct.error, OverflowError) as error:
        raise SceneError(f"the COLMAP model in {folder} is truncated or damaged ({type(error).__name__}: {error}): export it again") from error
    if not shots:
        raise SceneError(f"the COLMAP model in {folder} has no cameras with a pose")
    return shots


def _posed(name: str, quat: np.ndarray, shift: np.ndarray, camera: pycolmap.Camera) -> Shot:
    """From a camera-from-world rotation (wxyz) and shift."""
    norm = np.linalg.norm(quat)
    if not (np.isfinite(norm) and norm > 0 and np.isfinite(shift).all() and np.isfinite(camera.params).all()):
        raise ValueError(f"{name} has no finite pose")
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat(np.roll(quat, -1)).as_matrix().T
    pose[:3, 3] = -pose[:3, :3] @ shift
    return Shot(name, pose, camera.calibration_matrix(), camera.width, camera.height)


def _binary_cameras(data: bytes) -> dict[int, pycolmap.Camera]:
    (count,), at, cameras = struct.unpack_from("<Q", data), 8, {}
    for _ in range(count):
        camera_id, model, width, height = struct.unpack_from("<iiQQ", data, at)
        camera = pycolmap.Camera(model=pycolmap.CameraModelId(model), width=width, height=height)
        number = _NUM_PARAMS[camera.model.name]
        camera.params = list(struct.unpack_from(f"<{number}d", data, at + 24))
        cameras[camera_id] = camera
        at += 24 + 8 * number
    return cameras


def _binary_images(data: bytes) -> Iterator[tuple]:
    """(name, quaternion, shift, camera id) of each."""
    (count,), at = struct.unpack_from("<Q", data), 8
    for _ in range(count):
        numbers = struct.unpack_from("<i7di", data, at)
        end = data.index(b"\0", at + 64)
        (points,) = struct.unpack_from("<Q", data, end + 1)
        yield data[at + 64 : end].decode("utf-8", "replace"), numbers[1:5], numbers[5:8], numbers[8]
        at = end + 9 + 24 * points


def _text_cameras(data: bytes) -> dict[int, pycolmap.Camera]:
    cameras = {}
    for line in _lines(data):
        words = line.split()
        if words and not line.startswith("#"):
            camera = pycolmap.Camera(model=words[1], width=int(words[2]), height=int(words[3]))
            camera.params = [float(word) for word in words[4 : 4 + _NUM_PARAMS[words[1]]]]
            cameras[int(words[0])] = camera
    return cameras


def _text_images(data: bytes) -> Iterator[tuple]:
    """Every other line: the others hold the observations, and may be empty."""
    for line in [line for line in _lines(data) if not line.startswith("#")][::2]:
        words = line.split(maxsplit=9)
        if words:
            yield words[9].strip(), [float(word) for word in words[1:5]], [float(word) for word in words[5:8]], int(words[8])


def _lines(data: bytes) -> list[str]:
    return data.decode("utf-8-sig", "replace").splitlines()

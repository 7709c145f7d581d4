"""Reads transforms.json: NeRF-synthetic (transforms_train.json ...), instant-ngp and nerfstudio flavours.

Poses are OpenGL camera-to-world (+x right, +y up, looking along -z); flipping the camera's y and z axes makes them OpenCV. Intrinsics may
stand in the file or in each frame: `fl_x fl_y cx cy w h k1 k2 p1 p2`, or `camera_angle_x` (radians) alone.
"""

from __future__ import annotations

import json
import math
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import plyfile
import pycolmap
from PIL import Image

from ..errors import SceneError
from ._assemble import RawModel, RawView
from ._photos import find_photo, in_threads

# COLMAP's names as nerfstudio writes them; instant-ngp writes none. All but fisheyes are special cases of OPENCV.
_PERSPECTIVE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
_ROTATION_TOLERANCE = 1e-2  # files are written with 4 to 17 digits


def find_transforms(root: Path) -> list[tuple[Path, bool | None]]:
    """[(file, held_out)] to read: `root` itself if it is a file, transforms.json, or NeRF-synthetic's train and test files.

    transforms_val.json serves as the test split where there is no transforms_test.json, else it is not read.
    """
    if root.is_file():
        return [(root, None)]
    if (root / "transforms.json").is_file():
        return [(root / "transforms.json", None)]
    train, test, val = (root / f"transforms_{split}.json" for split in ("train", "test", "val"))
    if not train.is_file():
        return []
    held_out = test if test.is_file() else val
    return [(train, False), (held_out, True)] if held_out.is_file() else [(train, None)]


def read_transforms(root: Path, files: list[tuple[Path, bool | None]], data_factor: int) -> RawModel:
    """The cameras, photos and points that `files` name."""
    views: list[RawView] = []
    points, colors = np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    for file, held_out in files:
        meta = _read_json(file)
        frames = meta.get("frames")
        if not isinstance(frames, list):
            raise SceneError(f"{file} is malformed: expected a list under the key 'frames'")
        undo = _inverse_applied_transform(meta, file)
        views += in_threads(lambda frame: _read_frame(frame, meta, file, undo, data_factor, held_out), frames)  # noqa: B023 (consumed at once)
        if "ply_file_path" in meta:
            points, colors = _read_points(file.parent / str(meta["ply_file_path"]))
            points = points @ undo[:3, :3].T + undo[:3, 3]
    names = [view.name for view in views]
    if len(set(names)) != len(names):
        raise SceneError(f"photo {next(name for name in names if names.count(name) > 1)} has several poses in {files[0][0]}, expected one each")
    return RawModel(root, views, points, colors)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise SceneError(f"{file} is not a readable transforms.json ({error})") from error
    if not isinstance(meta, dict):
        raise SceneError(f"{file} is malformed: expected a JSON object, got {type(meta).__name__}")
    return meta


def _matrix(value: Any, what: str, file: Path) -> np.ndarray:
    """A finite (4, 4) float64 from nested lists with 3 or 4 rows."""
    try:
        matrix = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SceneError(f"{file} is malformed: {what} must be 4 x 4 numbers") from error
    if matrix.shape not in ((4, 4), (3, 4)):
        raise SceneError(f"{file} is malformed: {what} must have 4 x 4 or 3 x 4 numbers, got shape {matrix.shape}")
    matrix = np.vstack([matrix[:3], [0, 0, 0, 1]])
    if not np.isfinite(matrix).all():
        raise SceneError(f"{file} is malformed: {what} has a NaN or infinite entry")
    return matrix


def _rigid(matrix: np.ndarray, what: str, file: Path) -> np.ndarray:
    """`matrix` with its 3 x 3 part replaced by the nearest rotation; a uniform scale of the axes (Blender) is dropped."""
    scale = np.cbrt(abs(np.linalg.det(matrix[:3, :3])))
    u, singular, vt = np.linalg.svd(matrix[:3, :3])
    if not scale > 0 or abs(singular / scale - 1).max() > _ROTATION_TOLERANCE or np.linalg.det(u @ vt) < 0:
        raise SceneError(f"{file} is malformed: the 3 x 3 part of {what} is not a rotation")
    rigid = matrix.copy()
    rigid[:3, :3] = u @ vt
    return rigid


def _inverse_applied_transform(meta: dict[str, Any], file: Path) -> np.ndarray:
    """(4, 4), from the file's frame to the frame before nerfstudio's `applied_transform`; identity without one."""
    if "applied_transform" not in meta:
        return np.eye(4)
    return np.linalg.inv(_rigid(_matrix(meta["applied_transform"], "applied_transform", file), "applied_transform", file))


def _read_frame(frame: Any, meta: dict[str, Any], file: Path, undo: np.ndarray, data_factor: int, held_out: bool | None) -> RawView:
    """One entry of `frames`."""
    if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str) or "transform_matrix" not in frame:
        raise SceneError(f"{file} is malformed: every frame needs the keys 'file_path' and 'transform_matrix'")
    name = PurePosixPath(frame["file_path"].replace("\\", "/"))
    what = f"transform_matrix of {name}"
    pose = undo @ _rigid(_matrix(frame["transform_matrix"], what, file), what, file)
    pose[:3, 1:3] *= -1  # OpenGL to OpenCV: y and z of the camera point the other way
    path, remaining_factor = None, float(data_factor)
    if data_factor > 1:
        path = find_photo([file.parent], str(name.parent.with_name(f"{name.parent.name}_{data_factor}") / name.name)) if name.parent.name else None
        remaining_factor = 1.0 if path is not None else remaining_factor
    path = path or find_photo([file.parent], str(name))
    if path is None:
        raise SceneError(f"photo {name} of {file} is missing: looked in {file.parent / name.parent} with and without extension")
    return RawView(str(name), path, pose, _camera(frame, meta, path, file), remaining_factor, None, held_out)


def _camera(frame: dict[str, Any], meta: dict[str, Any], path: Path, file: Path) -> pycolmap.Camera:
    """Intrinsics of a frame as an OPENCV camera; what stands in the frame goes before what stands in the file."""

    def number(key: str, default: float | None = None) -> float | None:
        value = frame.get(key, meta.get(key, default))
        if value is not None and (not isinstance(value, (int, float)) or not math.isfinite(value)):
            raise SceneError(f"{file} is malformed: {key} must be a finite number, got {value!r}")
        return value

    model = frame.get("camera_model", meta.get("camera_model", "OPENCV"))
    unsupported = [key for key in ("k3", "k4") if number(key)]
    if model not in _PERSPECTIVE or unsupported or frame.get("is_fisheye", meta.get("is_fisheye", False)):
        found = f"camera model {model}" + (f" with {', '.join(unsupported)}" if unsupported else "")
        raise SceneError(f"{found} in {file} is not supported (only perspective with k1, k2, p1, p2): undistort the photos first")
    width, height = number("w"), number("h")
    if width is None or height is None:
        try:
            with Image.open(path) as photo:  # reads the header only
                width, height = photo.size
        except OSError as error:
            raise SceneError(f"photo {path} is corrupt or not an image ({error}): replace it or remove it from {file.name}") from error
    fx, fy = number("fl_x"), number("fl_y")
    if fx is None:
        angle_x, angle_y = number("camera_angle_x"), number("camera_angle_y")
        if angle_x is None or not 0 < angle_x < math.pi:
            raise SceneError(f"{file} is malformed: expected fl_x or camera_angle_x (radians), for the file or for each frame")
        fx = 0.5 * width / math.tan(0.5 * angle_x)
        fy = 0.5 * height / math.tan(0.5 * angle_y) if angle_y is not None and 0 < angle_y < math.pi else fx
    fy = fx if fy is None else fy
    if not (width >= 1 and height >= 1 and fx > 0 and fy > 0):
        raise SceneError(f"{file} is malformed: w, h, fl_x and fl_y must be positive, got {width}, {height}, {fx}, {fy}")
    distortion = [number(key, 0.0) for key in ("k1", "k2", "p1", "p2")]
    params = [fx, fy, number("cx", width / 2), number("cy", height / 2), *distortion]
    return pycolmap.Camera(model="OPENCV", width=int(width), height=int(height), params=params)


def _read_points(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(points (P, 3) float64, colours (P, 3) uint8; mid-grey without) of a PLY point cloud."""
    if not path.is_file():
        raise SceneError(f"the point cloud {path} (ply_file_path) is missing")
    try:
        vertex = plyfile.PlyData.read(str(path))["vertex"]
        points = np.stack([np.asarray(vertex[axis], dtype=np.float64) for axis in "xyz"], axis=1)
    except (plyfile.PlyParseError, ValueError, KeyError, IndexError, UnicodeDecodeError, OSError, MemoryError) as error:
        raise SceneError(f"the point cloud {path} is not a readable PLY with x, y, z ({error})") from error
    if not len(points):
        raise SceneError(f"the point cloud {path} has no points: export it again, or remove ply_file_path to start from random ones")
    names = {prop.name for prop in vertex.properties}
    if not {"red", "green", "blue"} <= names:
        return points, np.full(points.shape, 128, np.uint8)
    colors = np.stack([np.asarray(vertex[channel]) for channel in ("red", "green", "blue")], axis=1)
    if colors.dtype.kind == "f":  # Open3D can write colours in [0, 1]
        colors = np.nan_to_num(colors).clip(0, 1) * 255 + 0.5
    return points, colors.clip(0, 255).astype(np.uint8)

"""Checks a COLMAP model's files before pycolmap reads them.

COLMAP's binary reader trusts the counts in its files: a cut or foreign file makes it allocate terabytes and abort the process, which
Python cannot catch. So the records are walked first (format: https://colmap.github.io/format.html) and every count is compared with
the bytes that are left. Text files need no walk, pycolmap raises on them; only the camera models are looked at.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pycolmap

from ..errors import SceneError

SUPPORTED_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
FILES = ("cameras", "images", "points3D")


def check_model_files(folder: Path, suffix: str) -> None:
    """Raise SceneError unless the three files of `folder` (suffix .bin or .txt) can be read whole and their cameras are supported."""
    if suffix == ".txt":
        _check_cameras_txt(folder / "cameras.txt")
        return
    cameras = _walk_cameras(folder / "cameras.bin")
    images = _walk_images(folder / "images.bin", cameras)
    _walk_points(folder / "points3D.bin", images)


class _Walker:
    """A position in a file's bytes; asking for more than is left raises SceneError."""

    def __init__(self, path: Path):
        self.path, self.position = path, 0
        try:
            self.data = path.read_bytes()
        except OSError as error:
            raise SceneError(f"cannot read {path}: {error.strerror or error}") from error

    def fail(self, what: str) -> SceneError:
        return SceneError(f"{self.path} is truncated or not a COLMAP file: {what}. Export the model again")

    def take(self, layout: struct.Struct, what: str) -> tuple:
        end = self.position + layout.size
        if end > len(self.data):
            raise self.fail(f"it ends inside {what} ({len(self.data)} bytes)")
        values = layout.unpack_from(self.data, self.position)
        self.position = end
        return values

    def skip(self, count: int, size: int, what: str) -> int:
        """Skip `count` records of `size` bytes; returns where they started."""
        start = self.position
        if count * size > len(self.data) - start:
            raise self.fail(f"it announces {count} {what} but has {len(self.data) - start} bytes left")
        self.position = start + count * size
        return start

    def name(self) -> str:
        end = self.data.find(b"\0", self.position)
        if end < 0:
            raise self.fail("it ends inside a photo's name")
        try:
            name = self.data[self.position : end].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fail("a photo's name is not UTF-8") from error
        self.position = end + 1
        return name

    def finish(self, count: int, what: str) -> None:
        if self.position != len(self.data):
            raise self.fail(f"{len(self.data) - self.position} bytes follow its {count} {what}")


_COUNT = struct.Struct("<Q")
_CAMERA = struct.Struct("<IiQQ")  # id, model, width, height; then the parameters, float64
_IMAGE = struct.Struct("<I7dI")  # id, wxyz, translation, camera id; then the name, a count, and (x, y, point id) each
_POINT = struct.Struct("<Q3d3BdQ")  # id, xyz, rgb, error, track length; then (image id, keypoint index) each


def _walk_cameras(path: Path) -> set[int]:
    file = _Walker(path)
    (count,) = file.take(_COUNT, "the number of cameras")
    file.skip(count, _CAMERA.size, "cameras")
    file.position = _COUNT.size
    models = {int(model.value): name for name, model in pycolmap.CameraModelId.__members__.items()}
    ids = set()
    for _ in range(count):
        camera_id, model_id, width, height = file.take(_CAMERA, "a camera")
        model = models.get(model_id, f"number {model_id}")
        check_camera_model(model, path)
        if not (0 < width < 1 << 20 and 0 < height < 1 << 20):
            raise file.fail(f"camera {camera_id} has size {width} x {height}")
        if camera_id in ids:
            raise file.fail(f"camera {camera_id} comes twice")
        ids.add(camera_id)
        file.skip(len(pycolmap.Camera.create_from_model_name(camera_id, model, 1.0, 1, 1).params), 8, "camera parameters")
    file.finish(count, "cameras")
    return ids


def _walk_images(path: Path, cameras: set[int]) -> dict[int, int]:
    """Returns the number of keypoints of each image id."""
    file = _Walker(path)
    (count,) = file.take(_COUNT, "the number of photos")
    file.skip(count, _IMAGE.size, "photos")
    file.position = _COUNT.size
    keypoints: dict[int, int] = {}
    for _ in range(count):
        image_id, *_pose, camera_id = file.take(_IMAGE, "a photo's pose")
        name = file.name()
        if camera_id not in cameras:
            raise file.fail(f"photo {name!r} has camera {camera_id}, which cameras.bin lacks")
        if image_id in keypoints:
            raise file.fail(f"photo {image_id} comes twice")
        (keypoints[image_id],) = file.take(_COUNT, "a photo's keypoints")
        file.skip(keypoints[image_id], 24, f"keypoints of {name!r}")
    file.finish(count, "photos")
    return keypoints


def _walk_points(path: Path, keypoints: dict[int, int]) -> None:
    file = _Walker(path)
    (count,) = file.take(_COUNT, "the number of points")
    file.skip(count, _POINT.size, "points")
    file.position = _COUNT.size
    starts, lengths = [], []
    for _ in range(count):
        *_, track_length = file.take(_POINT, "a point")
        starts.append(file.skip(track_length, 8, "observations of a point"))
        lengths.append(track_length)
    file.finish(count, "points")
    if not keypoints or not sum(lengths):
        return
    # All tracks at once: 8 bytes each, at offsets that no integer type is aligned to.
    within = np.arange(sum(lengths)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    offsets = np.repeat(starts, lengths) + 8 * within
    tracks = np.frombuffer(file.data, np.uint8)[offsets[:, None] + np.arange(8)].view("<u4")
    ids = np.array(sorted(keypoints), np.int64)
    counts = np.array([keypoints[i] for i in ids.tolist()], np.uint64)
    nearest = np.searchsorted(ids, tracks[:, 0]).clip(0, len(ids) - 1)
    wrong = np.flatnonzero((ids[nearest] != tracks[:, 0]) | (tracks[:, 1] >= counts[nearest]))
    if len(wrong):
        image_id, keypoint_idx = tracks[wrong[0]].tolist()
        raise file.fail(f"a point is observed in keypoint {keypoint_idx} of photo {image_id}, which images.bin lacks")


def check_camera_model(model: str, where: Path) -> None:
    """Raise SceneError unless `model` (COLMAP's name) is one that is undistorted here."""
    if model not in SUPPORTED_MODELS:
        raise SceneError(
            f"camera model {model} in {where} is not supported (only {', '.join(SUPPORTED_MODELS)}): "
            f"run COLMAP's image_undistorter and load its output"
        )


def _check_cameras_txt(path: Path) -> None:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SceneError(f"cannot read {path}: {error}") from error
    for line in lines:
        tokens = line.split()
        if tokens and not line.lstrip().startswith("#"):
            if len(tokens) < 5:
                raise SceneError(f"{path} is truncated or not a COLMAP file: expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS, got {line.strip()[:60]!r}")
            check_camera_model(tokens[1], path)

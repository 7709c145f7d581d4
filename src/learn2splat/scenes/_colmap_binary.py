"""Binary COLMAP models. Every count is compared with the bytes that are left before anything is allocated for it; memory is that of the result."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import SceneError
from ._camera import MODEL_NAMES, Camera, camera_from_colmap, num_parameters
from ._colmap_files import NO_POINTS, ColmapImage, ColmapModel, ColmapPoints, damaged, known_track_lengths
from ._names import name_of

_COUNT = struct.Struct("<Q")
_CAMERA = struct.Struct("<IiQQ")  # id, model, width, height; then the parameters, float64
_IMAGE = struct.Struct("<I7dI")  # id, wxyz, translation, camera id; then the name, a count, and (x, y, point id) each
_POINT = np.dtype([("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track_length", "<u8")])  # then (image id, keypoint) each
_KEYPOINT = np.dtype([("xy", "<f8", 2), ("point_id", "<u8")])
_NO_POINT = np.uint64(2**64 - 1)  # the id of keypoints that belong to no point
_LONGEST_NAME = 1 << 12  # bytes
_BLOCK = 1 << 25  # bytes of points3D.bin that are looked at together


def read_binary(folder: Path, *, points: bool = True, keypoints: bool = False) -> ColmapModel:
    """The model; without `points` its cameras and photos alone, with `keypoints` also where photos see the points.

    Raises:
        SceneError: a file is cut, foreign, or has cameras that are not supported.
    """
    cameras = _read_cameras(folder / "cameras.bin")
    images = _read_images(folder / "images.bin", cameras, keypoints)
    file = folder / "points3D.bin"
    return ColmapModel(cameras, images, _read_points(file, [image.image_id for image in images]) if points and file.is_file() else NO_POINTS)


def count_images(path: Path) -> int:
    """How many photos images.bin announces; 0 if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return _COUNT.unpack(file.read(_COUNT.size))[0]
    except (OSError, struct.error):
        return 0


class _Reader:
    """A file read from front to back; asking for more than is left raises SceneError."""

    def __init__(self, path: Path, file: BinaryIO):
        self.path, self.file = path, file
        self.left = os.fstat(file.fileno()).st_size

    def take(self, size: int, what: str) -> bytes:
        data = self.file.read(size) if size <= self.left else b""
        if len(data) < size:
            raise damaged(self.path, f"it ends inside {what}")
        self.left -= size
        return data

    def unpack(self, layout: struct.Struct, what: str) -> tuple:
        return layout.unpack(self.take(layout.size, what))

    def count(self, size: int, what: str) -> int:
        """A count of records of at least `size` bytes each."""
        (count,) = self.unpack(_COUNT, f"the number of {what}")
        if count * size > self.left:
            raise damaged(self.path, f"it announces {count} {what} but has {self.left} bytes left")
        return count

    def name(self) -> str:
        data = bytearray()
        while (byte := self.take(1, "a photo's name")) != b"\0":
            data += byte
            if len(data) > _LONGEST_NAME:
                raise damaged(self.path, f"a photo's name is longer than {_LONGEST_NAME} bytes")
        try:
            return name_of(bytes(data))
        except UnicodeDecodeError as error:
            raise damaged(self.path, "a photo's name is not text") from error

    def finish(self, count: int, what: str) -> None:
        if self.left:
            raise damaged(self.path, f"{self.left} bytes follow its {count} {what}")


def _open(path: Path) -> _Reader:
    try:
        return _Reader(path, open(path, "rb", buffering=1 << 16))  # closed by the caller
    except OSError as error:
        raise SceneError(f"cannot read {path}: {error.strerror or error}") from error


def _read_cameras(path: Path) -> dict[int, Camera]:
    reader = _open(path)
    with reader.file:
        count = reader.count(_CAMERA.size, "cameras")
        cameras: dict[int, Camera] = {}
        for _ in range(count):
            camera_id, model_id, width, height = reader.unpack(_CAMERA, "a camera")
            model = MODEL_NAMES[model_id] if 0 <= model_id < len(MODEL_NAMES) else f"number {model_id}"
            params = np.frombuffer(reader.take(8 * num_parameters(model, path), "camera parameters"), "<f8")
            if camera_id in cameras:
                raise damaged(path, f"camera {camera_id} comes twice")
            cameras[camera_id] = camera_from_colmap(model, width, height, params)
        reader.finish(count, "cameras")
    return cameras


def _read_images(path: Path, cameras: dict[int, Camera], keep_xy: bool) -> list[ColmapImage]:
    reader = _open(path)
    with reader.file:
        count = reader.count(_IMAGE.size, "photos")
        images: dict[int, ColmapImage] = {}
        for _ in range(count):
            image_id, *pose, camera_id = reader.unpack(_IMAGE, "a photo's pose")
            name = reader.name()
            if camera_id not in cameras:
                raise damaged(path, f"photo {name!r} has camera {camera_id}, which cameras.bin lacks")
            if image_id in images:
                raise damaged(path, f"photo {image_id} comes twice")
            num_keypoints = reader.count(_KEYPOINT.itemsize, f"keypoints of {name!r}")
            keypoints = np.frombuffer(reader.take(num_keypoints * _KEYPOINT.itemsize, "keypoints"), _KEYPOINT)
            keypoints = keypoints[keypoints["point_id"] != _NO_POINT]
            point_ids, xy = keypoints["point_id"].astype(np.uint64), keypoints["xy"].copy() if keep_xy else None
            images[image_id] = ColmapImage(image_id, name, np.array(pose[:4]), np.array(pose[4:]), camera_id, point_ids, xy)
        reader.finish(count, "photos")
    return list(images.values())


def _read_points(path: Path, image_ids: list[int]) -> ColmapPoints:
    reader = _open(path)
    known = np.array(sorted(image_ids), np.uint32)
    with reader.file:
        count = reader.count(_POINT.itemsize, "points")
        ids, lengths = np.empty(count, np.uint64), np.empty(count, np.int64)
        xyz, rgb = np.empty((count, 3)), np.empty((count, 3), np.uint8)
        done, rest = 0, b""
        while done < count:
            data = rest + reader.take(min(_BLOCK, reader.left), "a point")
            starts, lengths_here, end = _records(data, count - done)
            if not len(starts) and not reader.left:
                raise damaged(path, f"it ends inside a point ({done} of {count} read)")
            rest = data[end:]
            raw = np.frombuffer(data, np.uint8)
            rows = slice(done, done + len(starts))
            for first in range(0, len(starts), 1 << 16):  # in parts: the positions of bytes take 8 bytes each
                part = slice(first, first + (1 << 16))
                records = raw[starts[part, None] + np.arange(_POINT.itemsize)].view(_POINT)[:, 0]
                at = slice(done + first, done + first + len(records))
                ids[at], xyz[at], rgb[at] = records["id"], records["xyz"], records["rgb"]
                lengths[at] = _lengths_of_known(raw, starts[part], lengths_here[part], known)
            done = rows.stop
        reader.left += len(rest)
        reader.finish(count, "points")
    return ColmapPoints.sorted(ids, xyz, rgb, lengths)


def _records(data: bytes, most: int) -> tuple[np.ndarray, np.ndarray, int]:
    """(starts, track lengths) of the points that lie whole in `data`, at most `most` of them, and where the last ends."""
    length_at = struct.Struct("<Q").unpack_from
    fixed, size = _POINT.itemsize, len(data)
    starts, lengths, position = [], [], 0
    while len(starts) < most and position + fixed <= size:
        (length,) = length_at(data, position + fixed - 8)
        end = position + fixed + 8 * length
        if end > size:
            break
        starts.append(position)
        lengths.append(length)
        position = end
    return np.array(starts, np.int64), np.array(lengths, np.int64), position


def _lengths_of_known(raw: np.ndarray, starts: np.ndarray, lengths: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Track lengths without the observations in photos that the model lacks."""
    total = int(lengths.sum())
    if not total:
        return lengths
    # 8 bytes for each observation, at offsets that no integer type is aligned to; the first 4 are the photo.
    within = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    offsets = np.repeat(starts + _POINT.itemsize, lengths) + 8 * within
    image_ids = raw[offsets[:, None] + np.arange(4)].view("<u4")[:, 0]
    return known_track_lengths(image_ids, lengths, known)

"""Point clouds in PLY files: where a run starts when the poses come without points of their own."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import plyfile

from ..errors import SceneError

CLOUD_NAMES = ("sparse_pc.ply", "points3D.ply", "points3d.ply", "pointcloud.ply", "point_cloud.ply")
_COLOURS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4", "double": "f8"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8"},
}
_MAX_HEADER = 1 << 16  # bytes


def read_cloud(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(points (P, 3) float64, colours (P, 3) uint8; mid-grey without).

    Colours are scaled by their type and range: 8 and 16 bits over the range of the type, floats in [0, 1], or in [0, 255] where they exceed 1.

    Raises:
        SceneError: the file is missing, damaged, no PLY, or has no points.
    """
    if not path.is_file():
        raise SceneError(f"the point cloud {path} is missing")
    try:
        vertex = _vertices(path)
        points = np.stack([vertex[axis].astype(np.float64) for axis in "xyz"], axis=1)
        names = next((names for names in _COLOURS if set(names) <= set(vertex.dtype.names or ())), None)
        colors = np.stack(_to_bytes([vertex[name] for name in names]), axis=1) if names and len(points) else np.full(points.shape, 128, np.uint8)
    except (plyfile.PlyParseError, ValueError, KeyError, IndexError, TypeError, OSError, OverflowError, MemoryError) as error:
        raise SceneError(f"the point cloud {path} is not a readable PLY with x, y, z ({error})") from error
    if not len(points):
        raise SceneError(f"the point cloud {path} has no points: export it again, or remove it to start from random ones")
    return points, colors


def is_splat(path: Path) -> bool:
    """Whether a PLY holds Gaussians and not a plain cloud."""
    try:
        with open(path, "rb") as file:
            return b"opacity" in file.read(_MAX_HEADER).partition(b"end_header")[0]
    except OSError:
        return False


def _to_bytes(channels: list[np.ndarray]) -> list[np.ndarray]:
    if all(channel.dtype == np.uint8 for channel in channels):
        return channels
    if all(channel.dtype.kind in "iu" for channel in channels):
        largest = max(int(channel.max()) for channel in channels)
        top = 255 if largest <= 255 else 65535  # a wide type that holds bytes is as common as one that is used (LAS: 16 bits)
        return [((channel.clip(0, top).astype(np.float32) * np.float32(255 / top)) + np.float32(0.5)).astype(np.uint8) for channel in channels]
    cleaned = [np.nan_to_num(channel.astype(np.float32), nan=0.5) for channel in channels]
    largest = max(float(channel.max()) for channel in cleaned)
    top = 1.0 if largest <= 1 else 255.0 if largest <= 255 else 65535.0
    return [((channel.clip(0, top) * np.float32(255 / top)) + np.float32(0.5)).astype(np.uint8) for channel in cleaned]


def _vertices(path: Path) -> np.ndarray:
    """The rows of the element `vertex`: mapped into memory where they are plain binary numbers, else through plyfile."""
    with open(path, "rb") as file:
        head = file.read(_MAX_HEADER)
        size = file.seek(0, 2)
    start = head.find(b"end_header")
    start = head.find(b"\n", start) + 1 if start >= 0 else 0
    if not head.startswith(b"ply") or not start:
        raise ValueError("expected a header from 'ply' to 'end_header'")
    encoding, elements = _parse_header(head[:start].decode("ascii", "replace"))
    # plyfile fills a whole table with lists before it looks for rows: a header of 100 bytes must not take all memory.
    promised = sum(2 * count * len(fields) if encoding == "ascii" else _bytes_of(count, fields) for _, count, fields in elements)
    if promised > size - start:
        raise ValueError(f"its header promises at least {promised} bytes of rows, and {size - start} follow")
    before = 0
    for name, count, fields in elements:
        plain = all(kind in _TYPES for kind, _ in fields)
        if name == "vertex" and encoding != "ascii" and plain and count and len({field for _, field in fields}) == len(fields):
            order = "<" if encoding == "binary_little_endian" else ">"
            dtype = np.dtype([(field, order + _TYPES[kind]) for kind, field in fields])
            with open(path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return np.frombuffer(mapped, dtype, count, start + before)
        if not plain:
            break
        before += _bytes_of(count, fields)
    return np.asarray(plyfile.PlyData.read(str(path))["vertex"].data)


def _bytes_of(count: int, fields: list[tuple[str, str]]) -> int:
    """Of `count` rows, at least: a list has one byte for its length."""
    return count * sum(np.dtype(_TYPES[kind]).itemsize if kind in _TYPES else 1 for kind, _ in fields)


def _parse_header(text: str) -> tuple[str, list[tuple[str, int, list[tuple[str, str]]]]]:
    """(encoding, [(element, count, [(type, property)])]); a list has the type "list"."""
    encoding, elements = "", []
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["format"]:
            encoding = words[1]
        elif words[:1] == ["element"]:
            count = int(words[2])
            if count < 0:
                raise ValueError(f"it has {count} rows of {words[1]}")
            elements.append((words[1], count, []))
        elif words[:1] == ["property"]:
            elements[-1][2].append((words[1], words[-1]))
    return encoding, elements

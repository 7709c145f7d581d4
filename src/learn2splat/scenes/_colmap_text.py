"""Text COLMAP models, as COLMAP, RealityScan, Metashape and people's own scripts write them.

Columns may be separated by any blanks, photo names may hold some, a photo may lack its second line (its keypoints), numbers may be spelled
"-nan(ind)", and the encoding may be that of a Western Windows.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import SceneError
from ._camera import Camera, camera_from_colmap, num_parameters
from ._colmap_files import NO_POINTS, ColmapImage, ColmapModel, ColmapPoints, damaged, known_track_lengths
from ._text import decode_text, number, read_text

_ANNOUNCED = re.compile(r"#\s*Number of \w+:\s*(\d+)")
_IMAGE_FIELDS = 10  # IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME


def read_text_model(folder: Path, *, points: bool = True, keypoints: bool = False) -> ColmapModel:
    """The model; without `points` its cameras and photos alone, with `keypoints` also where photos see the points.

    Raises:
        SceneError: a file is cut, foreign, or has cameras that are not supported.
    """
    cameras = _read_cameras(folder / "cameras.txt")
    images = _read_images(folder / "images.txt", cameras, keypoints)
    file = folder / "points3D.txt"
    return ColmapModel(cameras, images, _read_points(file, [image.image_id for image in images]) if points and file.is_file() else NO_POINTS)


def count_images(path: Path) -> int:
    """How many photos images.txt seems to hold; 0 if it cannot be read."""
    try:
        return sum(_is_image(line) for line in read_text(path).splitlines())
    except SceneError:
        return 0


def _read_cameras(path: Path) -> dict[int, Camera]:
    cameras: dict[int, Camera] = {}
    for line in _data_lines(read_text(path)):
        tokens = line.split()
        try:
            camera_id, model, width, height = int(tokens[0]), tokens[1], number(tokens[2]), number(tokens[3])
            count = num_parameters(model, path)
            params = np.array([number(token) for token in tokens[4 : 4 + count]])
        except SceneError:
            raise
        except (ValueError, IndexError) as error:
            raise damaged(path, f"expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS, got {line[:60]!r}") from error
        if len(params) < count or not (np.isfinite([width, height]).all() and abs(width) + abs(height) < 2**62):
            raise damaged(path, f"expected a size and {count} parameters of a {model} camera, got {line[:60]!r}")
        if camera_id in cameras:
            raise damaged(path, f"camera {camera_id} comes twice")
        cameras[camera_id] = camera_from_colmap(model, int(width), int(height), params)
    return cameras


def _read_images(path: Path, cameras: dict[int, Camera], keep_xy: bool) -> list[ColmapImage]:
    text = read_text(path)
    images: dict[int, ColmapImage] = {}
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    at = 0
    while at < len(lines):
        line = lines[at].strip()
        at += 1
        if not line:
            continue
        fields = line.split(None, _IMAGE_FIELDS - 1)
        if not _is_image(line):
            raise damaged(path, f"expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, got {line[:60]!r}")
        image_id, camera_id, name = int(fields[0]), int(fields[8]), fields[9]
        if not 0 <= image_id < 1 << 32:
            raise damaged(path, f"photo {name!r} has the id {image_id}")
        if camera_id not in cameras:
            raise damaged(path, f"photo {name!r} has camera {camera_id}, which cameras.txt lacks")
        if image_id in images:
            raise damaged(path, f"photo {image_id} comes twice")
        point_ids = _keypoints(lines[at]) if at < len(lines) else np.zeros(0, np.uint64)
        if point_ids is not None:
            at += 1
        elif not _is_image(lines[at]):
            raise damaged(path, f"expected the keypoints (X Y POINT3D_ID ...) of {name!r} or the next photo, got {lines[at].strip()[:60]!r}")
        pose = np.array([number(field) for field in fields[1:8]])
        xy = _positions(lines[at - 1]) if keep_xy and point_ids is not None and len(point_ids) else np.zeros((0, 2)) if keep_xy else None
        images[image_id] = ColmapImage(image_id, name, pose[:4], pose[4:], camera_id, np.zeros(0, np.uint64) if point_ids is None else point_ids, xy)
    _require_whole(path, text, len(images))
    return list(images.values())


def _is_image(line: str) -> bool:
    """Whether a line is that of a photo: an id, seven numbers, an id, a name; and not one of keypoints, which has columns in threes."""
    fields = line.split(None, _IMAGE_FIELDS - 1)
    if len(fields) < _IMAGE_FIELDS or line.lstrip().startswith("#"):
        return False
    try:
        int(fields[0]), int(fields[8]), [number(field) for field in fields[1:8]]
    except ValueError:
        return False
    return _keypoints(line) is None


def _keypoints(line: str) -> np.ndarray | None:
    """Ids (K,) of the points on a line of keypoints, an empty line included; None if the line is something else."""
    tokens = line.split()
    if len(tokens) % 3:
        return None
    try:
        ids = np.array([int(token) for token in tokens[2::3]], np.int64)
        if tokens:
            number(tokens[0]), number(tokens[-2])
    except (ValueError, OverflowError):
        return None
    return ids[ids >= 0].astype(np.uint64)


def _positions(line: str) -> np.ndarray:
    """(K, 2) px, of the keypoints of a line whose ids `_keypoints` returns."""
    rows = np.array([number(token) for token in line.split()]).reshape(-1, 3)
    return rows[rows[:, 2] >= 0, :2]


def _read_points(path: Path, image_ids: list[int]) -> ColmapPoints:
    """Line by line: some of these files are a gigabyte."""
    ids, xyz, rgb = array("Q"), array("d"), array("f")
    lengths, observed = array("q"), array("q")
    last = b""
    announced = None
    try:
        with open(path, "rb") as file:
            for raw in file:
                last = raw
                if raw.lstrip().startswith(b"#"):
                    match = _ANNOUNCED.search(decode_text(raw))
                    announced = int(match[1]) if match else announced
                    continue
                tokens = raw.split()
                if not tokens:
                    continue
                ids.append(int(tokens[0]))
                xyz.extend((_coordinate(tokens[1]), _coordinate(tokens[2]), _coordinate(tokens[3])))
                rgb.extend((_coordinate(tokens[4]), _coordinate(tokens[5]), _coordinate(tokens[6])))
                track = tokens[8::2]
                lengths.append(len(track))
                observed.extend(map(int, track))
    except OSError as error:
        raise SceneError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, IndexError, OverflowError) as error:
        raise damaged(path, f"expected POINT3D_ID X Y Z R G B ERROR TRACK, got {last[:60].decode('latin-1').strip()!r}") from error
    _require_whole(path, last.decode("latin-1"), len(ids), announced)
    track_lengths = known_track_lengths(np.array(observed, np.int64), np.array(lengths, np.int64), np.array(sorted(image_ids), np.int64))
    points = np.frombuffer(xyz, np.float64).reshape(-1, 3) if len(xyz) else np.zeros((0, 3))
    colors = _colours(np.frombuffer(rgb, np.float32).reshape(-1, 3)) if len(rgb) else np.zeros((0, 3), np.uint8)
    return ColmapPoints.sorted(np.array(ids, np.uint64), points, colors, track_lengths)


def _coordinate(token: bytes) -> float:
    try:
        return float(token)
    except ValueError:
        return number(token.decode("latin-1"))


def _colours(values: np.ndarray) -> np.ndarray:
    """(P, 3) uint8 of what converters write: 0 to 255, 16 bits where a number exceeds that, or fractions of 1."""
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).clip(0, 65535)
    largest = float(values.max())
    if largest > 255:
        values = values * np.float32(255 / 65535)
    elif largest <= 1 and bool((values % 1).any()):
        values = values * np.float32(255)
    return (values + np.float32(0.5)).astype(np.uint8)


def _data_lines(text: str) -> Iterator[str]:
    return (line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))


def _require_whole(path: Path, text: str, count: int, announced: int | None = None) -> None:
    """A file that ends in the middle of a line, with fewer entries than it announces, was cut. (Fewer alone are the work of somebody's editor.)"""
    if announced is None:
        match = _ANNOUNCED.search(text)
        announced = int(match[1]) if match else None
    if announced is not None and count < announced and not text.endswith("\n"):
        raise damaged(path, f"it announces {announced} entries, has {count} and ends in the middle of a line")

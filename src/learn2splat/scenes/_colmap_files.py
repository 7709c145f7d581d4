"""The three files of a COLMAP model, binary or text, as arrays (format: https://colmap.github.io/format.html).

Read here and not by pycolmap, because COLMAP trusts the counts in its files (a cut or foreign one makes it allocate terabytes and abort the process,
which Python cannot catch), because it makes an object of every point (a gigabyte for some millions), and because it refuses what other programs
write: photos without a second line, names of a code page, "-nan(ind)". What a file holds is checked against the bytes it has; what is merely odd
about one photo is left to the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import SceneError
from ._camera import Camera

FILES = ("cameras", "images", "points3D")


@dataclass(frozen=True)
class ColmapImage:
    """A photo of a model: its pose as written, camera from world."""

    image_id: int
    name: str
    quat: np.ndarray  # (4,) wxyz, as written
    translation: np.ndarray  # (3,)
    camera_id: int
    point_ids: np.ndarray  # (K,) uint64, ids of the points seen at its keypoints, unordered
    xy: np.ndarray | None = None  # (K, 2) px of these keypoints; None: not asked for


@dataclass(frozen=True)
class ColmapPoints:
    """All points of a model, in order of their ids."""

    ids: np.ndarray  # (P,) uint64
    xyz: np.ndarray  # (P, 3) float64
    rgb: np.ndarray  # (P, 3) uint8
    track_lengths: np.ndarray  # (P,) int64, photos that the model lacks not counted

    @classmethod
    def sorted(cls, ids: np.ndarray, xyz: np.ndarray, rgb: np.ndarray, track_lengths: np.ndarray) -> ColmapPoints:
        if len(ids) > 1 and not (ids[1:] > ids[:-1]).all():
            order = np.argsort(ids, kind="stable")
            ids, xyz, rgb, track_lengths = ids[order], xyz[order], rgb[order], track_lengths[order]
        return cls(ids, xyz, rgb, track_lengths)


NO_POINTS = ColmapPoints(np.zeros(0, np.uint64), np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0, np.int64))


@dataclass(frozen=True)
class ColmapModel:
    """What the three files say."""

    cameras: dict[int, Camera]
    images: list[ColmapImage]
    points: ColmapPoints


def damaged(path: Path, what: str) -> SceneError:
    """The error for a file that is not what its name says."""
    return SceneError(f"{path} is truncated or not a COLMAP file: {what}. Export the model again")


def known_track_lengths(image_ids: np.ndarray, lengths: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Lengths (P,) of tracks without the observations in photos that the model lacks.

    Args:
        image_ids: all tracks one after the other.
        lengths: (P,), how many of them belong to each point.
        known: ids of the photos of the model, ascending.
    """
    if not len(image_ids):
        return lengths
    nearest = np.searchsorted(known, image_ids).clip(0, max(len(known) - 1, 0))
    there = known[nearest] == image_ids if len(known) else np.zeros(len(image_ids), bool)
    if there.all():
        return lengths
    return np.bincount(np.repeat(np.arange(len(lengths)), lengths)[there], minlength=len(lengths))

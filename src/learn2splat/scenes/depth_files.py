"""Depth maps that a scene brings: files of a LiDAR phone, a depth camera or a network, as arrays at the size that they have.

16-bit PNG (1/1000 of a unit, unless the scene says otherwise), float TIFF and npy (units of the poses). Nothing in a file is unpickled, and nothing
is allocated before its size is known to be that of a photo.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import SceneError
from ._camera import MAX_SIZE, Camera

FOLDERS = ("depth", "depths")
SUFFIXES = (".png", ".tif", ".tiff", ".npy")
MILLI = 1e-3  # Of a whole number: depth cameras write millimetres.
MAX_PIXELS = 1 << 28


@dataclass(frozen=True)
class DepthFile:
    """The depth map of a photo, not read yet.

    Attributes:
        camera: of the photo as it was taken, lens included.
        unit: units of the poses per number in the file; None: by its type.
        missing: the scene names it, but there is none.
    """

    path: Path
    camera: Camera
    unit: float | None = None
    missing: bool = False

    def read(self) -> np.ndarray:
        """(h, w) float64, units of the files of the scene; NaN where there is no depth: 0, negative, not finite.

        Raises:
            SceneError: it is missing, damaged or no depth map.
        """
        if self.missing:
            raise SceneError(f"depth map {self.path} is missing: copy the depth maps too")
        values = _read_npy(self.path) if self.path.suffix.lower() == ".npy" else _read_picture(self.path)
        depth = values.astype(np.float64) * (self.unit if self.unit is not None else MILLI if values.dtype.kind in "ui" else 1.0)
        height, width = depth.shape
        if abs(width / height / (self.camera.width / self.camera.height) - 1) > 0.03:
            photo = f"{self.camera.width} x {self.camera.height}"
            raise SceneError(f"depth map {self.path} has {width} x {height} px, not the shape of its photo ({photo}): is it cropped or turned?")
        with np.errstate(invalid="ignore"):
            depth[~((depth > 0) & np.isfinite(depth))] = np.nan
        return depth


def find_depths(root: Path, photos: list[Path | None]) -> list[Path | None]:
    """For every photo the file of its name, with any of the suffixes, in a folder depth/ (depths/) beside its folder or in `root`."""
    known: dict[Path, dict[str, Path]] = {}
    found: list[Path | None] = []
    for photo in photos:
        places = [] if photo is None else [base / name for base in dict.fromkeys((photo.parent.parent, root)) for name in FOLDERS]
        for place in places:
            if place not in known:
                entries = sorted(place.iterdir()) if place.is_dir() else []
                known[place] = {path.stem.casefold(): path for path in entries if path.suffix.lower() in SUFFIXES}
        files = (known[place].get(photo.stem.casefold()) for place in places)
        found.append(next((path for path in files if path is not None), None))
    return found


def _read_npy(path: Path) -> np.ndarray:
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError) as error:  # whatever its header may hold
        raise SceneError(f"depth map {path} is not a readable npy file ({str(error).splitlines()[0][:80]})") from error
    shape = mapped.shape[:2] if mapped.ndim == 3 and mapped.shape[2] == 1 else mapped.shape
    if len(shape) != 2 or mapped.dtype.kind not in "fui" or not 0 < mapped.size <= MAX_PIXELS:
        raise SceneError(f"depth map {path} must be numbers of shape (height, width), got {mapped.dtype} of shape {mapped.shape}")
    return np.array(mapped).reshape(shape)


def _read_picture(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            if max(picture.size) > MAX_SIZE or picture.size[0] * picture.size[1] > MAX_PIXELS:
                raise SceneError(f"depth map {path} announces {picture.size[0]} x {picture.size[1]} px")
            if not (picture.mode.startswith("I") or picture.mode == "F"):
                raise SceneError(
                    f"depth map {path} is a picture of mode {picture.mode}, expected 16-bit grey or float: coloured and 8-bit ones are to look at"
                )
            return np.array(picture)
    except SceneError:
        raise
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise SceneError(f"depth map {path} cannot be read ({str(error).splitlines()[0][:80]})") from error

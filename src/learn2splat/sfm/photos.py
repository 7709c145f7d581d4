"""The photos of a folder as COLMAP is to see them: upright, 8 bits, with the focal length that EXIF tells, grouped by the camera that took them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..errors import SceneError
from ..scenes import _photos
from ..scenes._names import NOT_PHOTOS, PHOTO_SUFFIXES

KEPT_SUFFIXES = (".jpg", ".jpeg", ".png")  # of undistorted photos; those of other kinds become .jpg
MAX_DEPTH = 3  # of folders of photos
_FILM_DIAGONAL = 43.27  # mm, of 36 x 24: what "focal length in 35 mm film" refers to
_EXIF_IFD, _MAKE, _MODEL, _FOCAL, _FOCAL_35, _PLANE_X, _PLANE_UNIT = 0x8769, 0x010F, 0x0110, 0x920A, 0xA405, 0xA20E, 0xA210
_UNITS = {2: 25.4, 3: 10.0, 4: 1.0}  # mm


@dataclass(frozen=True)
class Photo:
    """A photo that can be read.

    Attributes:
        name: below the folder, with slashes: what COLMAP calls it.
        size: (width, height) upright, px.
        focal: px, from EXIF; None if it does not say.
        camera: equal for photos that are taken to be of one camera with one focal length.
    """

    name: str
    path: Path
    size: tuple[int, int]
    focal: float | None
    camera: tuple

    @property
    def kept_name(self) -> str:
        """What it is called once it is undistorted."""
        path = Path(self.name)
        return self.name if path.suffix.lower() in KEPT_SUFFIXES else path.with_suffix(".jpg").as_posix()


def find_photos(folder: Path) -> list[Path]:
    """The photos in a folder and in those below it, in order of names; folders of masks, depths and the like left out."""
    found: list[Path] = []
    level = [folder]
    for _ in range(MAX_DEPTH):
        entries = [entry for place in level for entry in place.iterdir() if not entry.name.startswith(".")]
        found += [entry for entry in entries if entry.suffix.lower() in PHOTO_SUFFIXES and entry.is_file()]
        level = [entry for entry in entries if entry.is_dir() and entry.name.lower() not in NOT_PHOTOS]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def open_photo(folder: Path, path: Path) -> Photo:
    """From the header alone.

    Raises:
        UnusablePhoto: it is damaged.
        SceneError: nobody here reads its format.
    """
    with _photos._opened(path) as file:
        if file.mode.startswith(("I", "F")):
            raise _photos.UnusablePhoto(f"its mode is {file.mode}, expected 8 bits per channel")
        exif = file.getexif()
        width, height = file.size
        if exif.get(_photos._ORIENTATION, 1) in (5, 6, 7, 8):
            width, height = height, width
        more = exif.get_ifd(_EXIF_IFD)
    focal = _focal(more, width, height)
    made = tuple(str(exif.get(tag, "")).strip(" \0") for tag in (_MAKE, _MODEL))
    parent = path.relative_to(folder).parent.as_posix()
    camera = (parent, tuple(sorted((width, height))) if focal else (width, height), width > height, *made, round(focal or 0, 1))
    return Photo(path.relative_to(folder).as_posix(), path, (width, height), focal, camera)


def read_pixels(photo: Photo) -> np.ndarray:
    """(H, W, 3 or 4) uint8, upright; four channels where it has alpha.

    Raises:
        UnusablePhoto: it is damaged.
    """
    with _photos._opened(photo.path) as file:
        has_alpha = "A" in file.getbands() or "transparency" in file.info
        return np.array(ImageOps.exif_transpose(file).convert("RGBA" if has_alpha else "RGB"))


def grey_of(pixels: np.ndarray, long_side: int) -> tuple[np.ndarray, float]:
    """(grey (H, W) uint8 of at most `long_side` px, what is transparent is white; by which factor it was shrunk, at least 1)."""
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:].astype(np.float32) / 255
        pixels = (pixels[..., :3] * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8)
    grey = Image.fromarray(pixels).convert("L")
    ratio = max(1.0, max(grey.size) / long_side)
    if ratio > 1:
        grey = grey.resize((round(grey.width / ratio), round(grey.height / ratio)), Image.Resampling.LANCZOS)
    return np.ascontiguousarray(grey), ratio


def require_photos(folder: Path) -> list[Path]:
    """
    Raises:
        SceneError: there is no such folder, or there are fewer than three photos in it.
    """
    if not folder.is_dir():
        raise SceneError(f"{folder} is no folder: give the one that the photos are in")
    paths = find_photos(folder)
    if len(paths) < 3:
        raise SceneError(f"{len(paths)} photos in {folder} ({', '.join(PHOTO_SUFFIXES)}): poses need at least 3, a good splat 20 or more")
    return paths


def _focal(exif: dict, width: int, height: int) -> float | None:
    """px; from the focal length in 35 mm film, else from that of the lens and the resolution of the sensor."""
    try:
        film = float(exif.get(_FOCAL_35) or 0)
        if film > 0:
            return film / _FILM_DIAGONAL * math.hypot(width, height)
        lens, per_unit, unit = (float(exif.get(tag) or 0) for tag in (_FOCAL, _PLANE_X, _PLANE_UNIT))
        focal = lens * per_unit / _UNITS[int(unit)]
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return focal if math.isfinite(focal) and 0.2 * max(width, height) < focal < 20 * max(width, height) else None  # resized photos keep the tag

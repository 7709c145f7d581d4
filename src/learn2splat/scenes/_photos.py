"""Photos: finding a file by the name a model gives it, decoding, removing lens distortion, shrinking.

Photos are shrunk with PIL's HAMMING filter. BOX (an area average) takes whole pixels only and so moves detail by up to 0.2 px where the ratio
is no whole number (measured on spots of known position, 250 -> 120 px; HAMMING: 0.03 px), an error of calibration as far as a splat is
concerned. LANCZOS is as exact and crisper, but overshoots at edges: halos, clipped at 0 and 255, that no splat can fit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pycolmap
from PIL import Image, UnidentifiedImageError

from ..errors import SceneError

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MAX_ASPECT_ERROR = 0.02  # images_8 of a 1-px-cropped photo is off by up to 8 px of 600; a photo turned by 90 degrees by far more

Item, Result = TypeVar("Item"), TypeVar("Result")


def find_photo(folders: Sequence[Path], name: str) -> Path | None:
    """The file called `name` in the first folder that has it; another extension, or none in `name`, will do. None if there is none."""
    for folder in folders:
        path = folder / name
        if path.suffix and path.is_file():
            return path
    for folder in folders:
        path = folder / name
        stems = [path.with_suffix("")] if path.suffix.lower() in PHOTO_SUFFIXES else [path]  # "r_0.5" has no extension
        for stem in stems:
            for suffix in PHOTO_SUFFIXES:
                for candidate in (stem.with_name(stem.name + suffix), stem.with_name(stem.name + suffix.upper())):
                    if candidate.is_file():
                        return candidate
    return None


def decode(path: Path) -> tuple[np.ndarray, bool]:
    """(photo (H, W, 3) uint8, whether it had alpha). Alpha is composed on white: `c * a + 255 * (1 - a)`, as NeRF does."""
    try:
        with Image.open(path) as file:
            if file.mode.startswith(("I", "F")):
                raise SceneError(f"photo {path} has mode {file.mode}, expected 8 bits per channel: convert it to 8-bit PNG or JPEG")
            has_alpha = "A" in file.getbands() or "transparency" in file.info
            if not has_alpha:
                return np.asarray(file.convert("RGB")), False
            rgba = np.asarray(file.convert("RGBA")).astype(np.float32)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        if isinstance(error, SceneError):
            raise
        # PIL signals damage by any of these; a cut file is "image file is truncated" (LOAD_TRUNCATED_IMAGES stays off).
        raise SceneError(f"photo {path} is corrupt or not an image ({error}): replace it or remove it from the model") from error
    alpha = rgba[..., 3:] / 255
    return (rgba[..., :3] * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8), True


def load_photo(path: Path, camera: pycolmap.Camera, *, data_factor: float, long_side: int | None) -> tuple[np.ndarray, np.ndarray, bool]:
    """One undistorted photo at its final size, and its pinhole intrinsics.

    Args:
        camera: intrinsics of the photo at the size of the model (which `images_4/` is not); of a supported model.
        data_factor: shrink by this, on top of what the file is already smaller than `camera`.
        long_side: then shrink until the longest side is at most this; never enlarge.

    Returns:
        (H, W, 3) uint8; K (3, 3) float64 px; whether the file had alpha.
    """
    photo, has_alpha = decode(path)
    height, width = photo.shape[:2]
    camera = pycolmap.Camera(camera.todict())
    if (width, height) != (camera.width, camera.height):
        if abs(width * camera.height / (height * camera.width) - 1) > MAX_ASPECT_ERROR:
            expected = f"its camera {camera.width} x {camera.height}"
            raise SceneError(f"photo {path} has {width} x {height} px but {expected}: the photo is not the one of the model")
        camera.rescale(width, height)
    if not camera.is_undistorted():
        # Before shrinking: the warp interpolates, and its blur is smallest at full size. Default options crop blank borders away.
        bitmap, camera = pycolmap.undistort_image(pycolmap.UndistortCameraOptions(), pycolmap.Bitmap.from_array(photo), camera)
        photo = bitmap.to_array()
        height, width = photo.shape[:2]
    size = (max(1, round(width / data_factor)), max(1, round(height / data_factor)))
    if long_side is not None and max(size) > long_side:
        ratio = long_side / max(size)
        size = (max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio)))
    if size != (width, height):
        photo = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.HAMMING))
    K = camera.calibration_matrix()
    K[0] *= size[0] / width
    K[1] *= size[1] / height
    return photo, K, has_alpha


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`[function(item) for item in items]` on all cores; PIL and pycolmap release the interpreter lock."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))

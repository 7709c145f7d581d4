"""Photos and their masks: decoding, turning, removing lens distortion, shrinking.

Photos are shrunk with PIL's HAMMING filter. BOX (an area average) takes whole pixels only and so moves detail by up to 0.2 px where the ratio
is no whole number (measured on spots of known position, 250 -> 120 px; HAMMING: 0.03 px), an error of calibration as far as a splat is
concerned. LANCZOS is as exact and crisper, but overshoots at edges: halos, clipped at 0 and 255, that no splat can fit.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..errors import SceneError
from ._camera import Camera, undistort
from ._masks import SIDEWAYS, TURNS, VISIBLE, combined, fitting, read_mask, shrink_mask

MAX_ASPECT_ERROR = 0.02  # images_8 of a 1-px-cropped photo is off by up to 8 px of 600; a photo turned by 90 degrees by far more
# A photo may have so many pixels whatever its size in bytes (PIL's own limit), ...
PIXELS_ALWAYS = 178_956_970
PIXELS_PER_BYTE = 100  # ... and beyond that as many as this: a JPEG of one colour has about 60, a bomb thousands.
DRAFT_FROM = 60_000_000  # px: larger JPEGs are decoded at a half, a quarter or an eighth where that is still twice what is asked for
LEAST_LEFT = 0.001  # of the pixels, after the lens was removed
_ORIENTATION = 0x0112  # the EXIF tag
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")
_RAW_SUFFIXES = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2")

Item, Result = TypeVar("Item"), TypeVar("Result")


class UnusablePhoto(Exception):
    """A photo that can only be left out; the message is a clause that says why."""


@dataclass(frozen=True)
class LoadedPhoto:
    """A photo as it is fitted.

    Attributes:
        image: (H, W, 3) uint8.
        K: (3, 3) float64, px of `image`.
        mask: (H, W) bool, true where the photo is fitted; None: everywhere.
        has_alpha: the file had an alpha channel.
        turned: it was turned as its EXIF orientation says.
        ambiguous: EXIF says that it is upside down or mirrored, which its size cannot confirm; it was left as it is stored.
        shrunk_from: its longer side in px before `long_side` shrank it, 0 if it did not.
    """

    image: Tensor
    K: np.ndarray
    mask: Tensor | None
    has_alpha: bool
    turned: bool
    ambiguous: bool
    shrunk_from: int


def load_photo(
    path: Path,
    camera: Camera,
    *,
    data_factor: float,
    long_side: int | None,
    mask: Path | None = None,
    alpha_hides: bool = True,
    background: float | None = None,
) -> LoadedPhoto:
    """One undistorted photo at its final size.

    Args:
        camera: intrinsics of the photo at the size of the model (which `images_4/` is not).
        data_factor: shrink by this, on top of what the file is already smaller than `camera`.
        long_side: then shrink until the longest side is at most this; never enlarge.
        mask: path of an image that is black where the photo is to be ignored.
        alpha_hides: what is transparent is masked, unless there is a background.
        background: grey level in [0, 1] on which alpha is composed.

    Raises:
        UnusablePhoto: it is damaged, or not the one of the model.
        SceneError: it is of a format that nobody reads here, or its mask is unreadable or leaves nothing.
    """
    decoded = _decode(path, camera, None if long_side is None or camera.is_distorted else int(long_side * data_factor))
    image, alpha = decoded.rgb, decoded.alpha
    visible = None
    if alpha is not None and background is not None:
        weight = alpha[..., None].astype(np.float32) / 255
        image = (image * weight + 255 * background * (1 - weight) + 0.5).astype(np.uint8)
    elif alpha is not None and alpha_hides:
        visible = alpha >= 128
    if mask is not None:
        visible = combined(visible, fitting(read_mask(mask), image.shape[:2], decoded.exif, mask, path))
    width, height = decoded.full_size
    camera = camera.at_size(image.shape[1], image.shape[0])
    if camera.is_distorted:
        # Before shrinking: the warp interpolates, and its blur is smallest at full size. Default options crop blank borders away.
        if visible is not None and not visible.all():
            grey = np.repeat((visible * np.uint8(255))[..., None], 3, axis=2)
            visible = _without_lens(grey, camera)[0][..., 0] >= VISIBLE
        elif visible is not None:
            visible = None
        image, camera = _without_lens(image, camera)
        width, height = camera.width, camera.height
    size = (max(1, round(width / data_factor)), max(1, round(height / data_factor)))
    shrunk_from = 0
    if long_side is not None and max(size) > long_side:
        shrunk_from = max(size)
        ratio = long_side / shrunk_from
        size = (max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio)))
    visible = None if visible is None else shrink_mask(visible, size)
    if visible is not None and not visible.any():
        raise SceneError(f"photo {path} has no visible pixel: its mask or alpha hides all of it; remove it, or load the scene with --no-masks")
    return LoadedPhoto(
        image=torch.from_numpy(shrink(image, size)),
        K=camera.at_size(*size).K(),
        mask=None if visible is None or visible.all() else torch.from_numpy(np.array(visible)),
        has_alpha=alpha is not None,
        turned=decoded.turned,
        ambiguous=decoded.exif in (2, 3, 4),
        shrunk_from=shrunk_from,
    )


def shrink(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 at `size` (width, height)."""
    if size == (image.shape[1], image.shape[0]):
        return np.array(image)  # a copy: PIL's arrays are read-only
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.HAMMING))


def photo_size(path: Path) -> tuple[int, int]:
    """(width, height) as stored, from the header.

    Raises:
        UnusablePhoto: it is damaged.
    """
    with _opened(path) as file:
        return file.size


@dataclass(frozen=True)
class _Decoded:
    rgb: np.ndarray  # (H, W, 3) uint8
    alpha: np.ndarray | None  # (H, W) uint8
    exif: int  # orientation
    turned: bool
    full_size: tuple[int, int]  # (width, height) of the file; huge JPEGs are decoded smaller


def _decode(path: Path, camera: Camera, wanted: int | None) -> _Decoded:
    """The pixels of a photo of `camera`; `wanted`: the longer side that is enough, in px."""
    with _opened(path) as file:
        if file.mode.startswith(("I", "F")):
            raise SceneError(f"photo {path} has mode {file.mode}, expected 8 bits per channel: convert it to 8-bit PNG or JPEG")
        (width, height), exif = file.size, file.getexif().get(_ORIENTATION, 1)
        turned = _fits_turned(width, height, exif, camera)
        if wanted is not None and file.format == "JPEG" and width * height > DRAFT_FROM:
            share = min(1.0, 2 * wanted / max(width, height))
            file.draft("RGB", (max(1, int(width * share)), max(1, int(height * share))))
        has_alpha = "A" in file.getbands() or "transparency" in file.info
        picture = file.convert("RGBA" if has_alpha else "RGB")
        if turned:
            picture, width, height = picture.transpose(TURNS[exif]), height, width
    pixels = np.asarray(picture)
    return _Decoded(pixels[..., :3], pixels[..., 3] if has_alpha else None, exif, turned, (width, height))


def _fits_turned(width: int, height: int, exif: int, camera: Camera) -> bool:
    """Whether the photo must be turned as EXIF says: only where its stored size does not fit to the camera and the turned one does."""
    if abs(width * camera.height / (height * camera.width) - 1) <= MAX_ASPECT_ERROR:
        return False
    if exif in SIDEWAYS and abs(height * camera.height / (width * camera.width) - 1) <= MAX_ASPECT_ERROR:
        return True
    raise UnusablePhoto(f"its size is {width} x {height} px but its camera {camera.width} x {camera.height}: the photo is not the one of the model")


def _without_lens(image: np.ndarray, camera: Camera) -> tuple[np.ndarray, Camera]:
    try:
        flat, pinhole = undistort(image, camera)
    except Exception as error:  # whatever COLMAP thinks of coefficients that fold the photo over
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnusablePhoto(f"its lens distortion cannot be removed ({reason})") from error
    if flat.shape[0] * flat.shape[1] < LEAST_LEFT * image.shape[0] * image.shape[1]:
        raise UnusablePhoto(f"its lens distortion is so strong that {flat.shape[1]} x {flat.shape[0]} px are left: calibrate the camera again")
    return flat, pinhole


_opening = threading.Lock()


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image file, its size checked against its bytes; errors of PIL become UnusablePhoto."""
    head = b""
    try:
        with open(path, "rb") as raw:
            head = raw.read(16)
            _require_readable(path, head)
            bytes_in_file = raw.seek(0, os.SEEK_END)
            raw.seek(0)
            with _opening:  # PIL has one limit for the whole process, and 200-megapixel phones are beyond it
                limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
                try:
                    file = Image.open(raw)
                finally:
                    Image.MAX_IMAGE_PIXELS = limit
            with file:
                pixels = file.size[0] * file.size[1]
                if pixels > max(PIXELS_ALWAYS, PIXELS_PER_BYTE * bytes_in_file):
                    raise UnusablePhoto(f"its {bytes_in_file} bytes claim to hold {file.size[0]} x {file.size[1]} px")
                yield file
    except (SceneError, UnusablePhoto):
        raise
    except Exception as error:
        # PIL signals damage by a dozen types; a cut file is "image file is truncated" (LOAD_TRUNCATED_IMAGES stays off).
        if _is_heif(head):
            raise SceneError(f"photo {path} is HEIC and pillow-heif cannot read it ({error}): convert the photos to JPEG") from error
        known = "no format that is known" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
        raise UnusablePhoto(f"it is corrupt or not an image ({known})") from error


def _require_readable(path: Path, head: bytes) -> None:
    """HEIC and AVIF through pillow-heif where it is installed; camera raws not at all."""
    if _is_heif(head):
        if head[8:10] == b"av" and ".avif" in Image.registered_extensions():
            return
        try:
            import pillow_heif
        except ImportError:
            raise SceneError(f"photo {path} is HEIC (or AVIF), as phones write it: convert the photos to JPEG, or pip install pillow-heif") from None
        pillow_heif.register_heif_opener()
    elif path.suffix.lower() in _RAW_SUFFIXES:
        raise SceneError(f"photo {path} is a camera raw: develop the photos to JPEG or 8-bit PNG")


def _is_heif(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`[function(item) for item in items]` on all cores; PIL and pycolmap release the interpreter lock."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))

"""Masks: which pixels of a photo are fitted and scored. They come as images beside the photos, black where a photo is to be ignored.

Names that are understood for `images/cam0/001.jpg`, in `masks/` or `mask/` beside or in images/, or `masks_N/` for images_N/: `cam0/001.jpg.png`
(COLMAP), `cam0/001.png` and `cam0/001.jpg` (nerfstudio, Brush), `cam0/001_mask.png` (Metashape), `cam0/001.jpg.mask.png` (RealityScan); the last two
beside the photo as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..errors import SceneError
from ._names import PHOTO_SUFFIXES, key_of
from ._notes import Notes

FOLDERS = ("masks", "mask", "Masks", "Mask")
_TURN = Image.Transpose
TURNS = {5: _TURN.TRANSPOSE, 6: _TURN.ROTATE_270, 7: _TURN.TRANSVERSE, 8: _TURN.ROTATE_90}  # by EXIF orientation
SIDEWAYS = tuple(TURNS)
VISIBLE = 252  # of 255, after interpolation: a pixel that holds a hundredth of something masked is masked


class MaskFinder:
    """Finds the masks of a scene's photos by their names, in any case, and remembers whether there are any that belong to none."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[Path, dict[str, Path]] = {}
        self._folders: set[Path] = set()  # of masks
        self._without: list[str] = []
        self._found = 0

    def of(self, name: str, photo: Path, folder: Path) -> Path | None:
        """The mask of a photo that lies in or below `folder` (images/), if there is one; `name`: for notes."""
        inside = photo.relative_to(folder) if folder in photo.parents else Path(photo.name)
        number = folder.name.partition("_")[2]
        names = [f"masks_{number}"] * number.isdigit() + list(FOLDERS)
        tops = [folder.parent] * (folder != self.root) + [folder, self.root]
        places = [place for top in dict.fromkeys(tops) for name in names if self._is_masks(place := top / name)]
        looked = [self._first(place / part, beside=False) for place in places for part in dict.fromkeys((inside, Path(inside.name)))]
        found = next((path for path in looked if path is not None), None) or self._first(photo, beside=True)
        if found is None:
            self._without.append(name)
        else:
            self._found += 1
        return found

    def note(self, notes: Notes) -> None:
        """Tell of photos without a mask where there is a folder of masks: they count whole, which may not be what was meant."""
        if self._folders and not self._found:
            where = ", ".join(str(folder) for folder in sorted(self._folders))
            notes.say(f"no mask in {where} is named after a photo (as a.png or a.jpg.png for a.jpg): all pixels count")
        elif self._found:
            for name in self._without:
                notes.about("{photos}: without a mask, all pixels count", name)

    def _is_masks(self, place: Path) -> bool:
        if place in self._folders:
            return True
        if place.is_dir():
            self._folders.add(place)
            return True
        return False

    def _first(self, photo: Path, *, beside: bool) -> Path | None:
        """The first file that is named as a mask of `photo` would be; beside the photo itself only names that say so."""
        listing = self._listings.get(photo.parent)
        if listing is None:
            listing = self._listings[photo.parent] = {key_of(path.name): path for path in _files_in(photo.parent)}
        return next((listing[key] for name in _candidates(photo, beside) if (key := key_of(name)) in listing), None)


def _files_in(folder: Path) -> list[Path]:
    try:
        return [path for path in sorted(folder.iterdir()) if path.suffix.lower() in PHOTO_SUFFIXES]
    except OSError:
        return []


def _candidates(photo: Path, beside: bool) -> Iterable[str]:
    stem, name = photo.stem, photo.name
    for suffix in (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"):
        for base in (f"{name}.mask", f"{stem}.mask", f"{stem}_mask", f"{name}_mask") + ((name, stem) if not beside else ()):
            yield base + suffix


def is_mask_name(path: Path) -> bool:
    """Whether a file beside photos is named as a mask and not as a photo."""
    return path.suffix.lower() in PHOTO_SUFFIXES and path.stem.lower().endswith((".mask", "_mask"))


def read_mask(path: Path) -> np.ndarray:
    """(H, W) bool, true where the photo counts. What is darker than half of the brightest is black: some write 0 and 1.

    Raises:
        SceneError: it is no readable image.
    """
    try:
        with Image.open(path) as file:
            if file.mode.startswith(("I", "F")):
                values = np.asarray(file).astype(np.float32)
            else:
                values = np.asarray(file.convert("L"))
                if "A" in file.getbands() and values.min() == values.max():  # the mask is in the alpha channel
                    values = np.asarray(file.getchannel("A"))
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError, MemoryError) as error:
        raise SceneError(f"the mask {path} is corrupt or not an image ({error}): replace it, or load the scene with --no-masks") from error
    return values > 0.5 * float(values.max())


def fitting(values: np.ndarray, shape: tuple[int, int], turn: int, path: Path, photo: Path) -> np.ndarray:
    """A mask at the size (height, width) of its photo; `turn`: the EXIF orientation of the photo.

    Raises:
        SceneError: it has another shape, so that it cannot be of this photo.
    """
    if values.shape == shape:
        return values
    height, width = values.shape
    if turn in SIDEWAYS and abs(width * shape[1] / (height * shape[0]) - 1) < 0.02:  # made of the photo as it is stored, which was turned
        values = np.asarray(Image.fromarray(values).transpose(TURNS[turn]))
        height, width = values.shape
    if abs(width * shape[0] / (height * shape[1]) - 1) > 0.02:
        found = f"{width} x {height} px, its photo {photo.name} {shape[1]} x {shape[0]}"
        raise SceneError(f"the mask {path} has {found}: it is not of this photo; replace it, or load the scene with --no-masks")
    return np.asarray(Image.fromarray(values).resize((shape[1], shape[0]), Image.Resampling.NEAREST))


def combined(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    """Visible in both; None: visible everywhere."""
    return b if a is None else a if b is None else a & b


def shrink_masks(masks: Sequence[Tensor] | None, sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, ...] | None:
    """Masks of a scene, for photos that were shrunk to `sizes` (width, height)."""
    return None if masks is None else tuple(torch.from_numpy(np.array(shrink_mask(mask.numpy(), size))) for mask, size in zip(masks, sizes))


def shrink_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool at `size` (width, height): a pixel counts if all that the shrunk photo took it from does."""
    if size == (mask.shape[1], mask.shape[0]):
        return mask
    return np.asarray(Image.fromarray(mask * np.uint8(255)).resize(size, Image.Resampling.HAMMING)) >= VISIBLE

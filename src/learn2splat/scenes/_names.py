"""From the name that a model gives a photo to its file, for every format: one resolver.

In this order: the name as it is, with backslashes as slashes; with another extension of photos; then, among the files below the given folders, the
one that shares the longest end of its path with the name, spelled in another Unicode form or case if need be. A fallback counts only if it is
unique, and no two names may end at one file. Names that lead out of the scene's folder are not followed unless the caller allows it.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import SceneError
from ._notes import Notes
from ._text import decode_text

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif")
MAX_FILES = 1_000_000  # looked through below the folders: a scene that lies in a home directory must not be searched for ever
# Folders that hold other pictures of the same names.
NOT_PHOTOS = ("masks", "mask", "depth", "depths", "normals", "renders", "checkpoint", "thumbnails", "segmentation", "confidence", "__macosx")


@dataclass(frozen=True)
class _File:
    path: Path
    parts: tuple[str, ...]  # below the folder, as they are
    keys: tuple[str, ...]  # the same, as they are compared


class Finder:
    """Finds files below `folders`, all of which belong to the scene in `root`."""

    def __init__(self, root: Path, folders: Sequence[Path], *, allow_outside: bool = False, suffixes: Sequence[str] = PHOTO_SUFFIXES) -> None:
        self.root, self.folders, self.allow_outside, self.suffixes = root, list(folders), allow_outside, tuple(suffixes)
        self.ambiguous: set[str] = set()  # names that several files would serve, or several names one file
        self._by_end: dict[str, list[_File]] | None = None  # last key without extension -> files

    def find_all(self, names: Iterable[str], notes: Notes) -> dict[str, Path | None]:
        """Name -> file, None where there is none. Fallbacks are noted.

        Raises:
            SceneError: a name leads to a file outside of the scene's folder, and `allow_outside` is off.
        """
        names = list(dict.fromkeys(names))
        found: dict[str, Path | None] = dict.fromkeys(names)
        taken: set[str] = set()
        for stage in (self.exactly, self.with_another_extension, self._by_longest_end):
            guesses = {name: path for name in names if found[name] is None and (path := stage(name)) is not None}
            hits = Counter(_identity(path) for path in guesses.values())
            for name, path in guesses.items():
                if stage == self.exactly or (_identity(path) not in taken and hits[_identity(path)] == 1):
                    found[name] = path
                    if stage == self._by_longest_end:
                        notes.about("found {photos} under another path or spelling than the one of the model", name)
                else:
                    self.ambiguous.add(name)
            taken |= {_identity(path) for path in found.values() if path is not None}
        for name in names:
            if found[name] is None and (outside := self._outside(name)) is not None:
                raise SceneError(
                    f"{name} names a file outside of the scene's folder {self.root}: add --allow-outside to read {outside}, if you trust the scene"
                )
        return found

    def exactly(self, name: str) -> Path | None:
        """The file of just this name."""
        path = cleaned(name)
        return next((at for at in self._places(path) if path.suffix and is_file(at)), None)

    def with_another_extension(self, name: str) -> Path | None:
        """The file of this name with another extension of photos, or with one where the name has none."""
        path = cleaned(name)
        for place in self._places(path):
            stem = place.with_suffix("") if path.suffix.lower() in self.suffixes else place  # "r_0.5" has no extension
            for suffix in self.suffixes:
                for other in (stem.with_name(stem.name + suffix), stem.with_name(stem.name + suffix.upper())):
                    if is_file(other):
                        return other
        return None

    def files(self) -> list[Path]:
        """All photos below the folders."""
        return [file.path for files in self._index().values() for file in files]

    def _places(self, name: PurePosixPath) -> list[Path]:
        """Where a file of this name may be: below each folder, unless that leaves the scene."""
        if not name.name or "\0" in name.name:
            return []
        places = [Path(os.path.normpath(folder / name)) for folder in self.folders]
        return [place for place in places if self.allow_outside or self._is_inside(place)]

    def _is_inside(self, place: Path) -> bool:
        return any(_is_below(place, base) for base in (self.root, *self.folders))

    def _outside(self, name: str) -> Path | None:
        """The existing file outside of the scene that a name leads to."""
        path = cleaned(name)
        places = [Path(os.path.normpath(folder / path)) for folder in self.folders] if path.name else []
        return next((place for place in places if is_file(place) and not self._is_inside(place)), None)

    def _by_longest_end(self, name: str) -> Path | None:
        parts = [part for part in cleaned(name).parts if part not in ("/", "..")]
        if not parts:
            return None
        keys = tuple(key_of(part) for part in parts)
        best, best_rank = [], (0, 0, 0)
        for file in self._index().get(self._stem(keys[-1]), ()):
            shared = _shared_end((*keys[:-1], self._stem(keys[-1])), (*file.keys[:-1], self._stem(file.keys[-1])))
            # Of equally long ends the one spelled exactly as the name, extension included, goes before those that only count as the same.
            rank = (shared, _shared_end(tuple(parts), file.parts), int(keys[-1] == file.keys[-1]))
            if rank > best_rank:
                best, best_rank = [file], rank
            elif rank == best_rank:
                best.append(file)
        if len(best) > 1:
            self.ambiguous.add(name)
        return best[0].path if len(best) == 1 else None

    def _stem(self, key: str) -> str:
        stem, suffix = os.path.splitext(key)
        return stem if suffix in self.suffixes else key

    def _index(self) -> dict[str, list[_File]]:
        if self._by_end is None:
            self._by_end, seen, count = {}, set(), 0
            for folder in self.folders:
                for path in _walk(folder):
                    if path.suffix.lower() not in self.suffixes or _identity(path) in seen:
                        continue
                    seen.add(_identity(path))
                    parts = path.relative_to(folder).parts
                    file = _File(path, parts, tuple(key_of(part) for part in parts))
                    self._by_end.setdefault(self._stem(file.keys[-1]), []).append(file)
                    count += 1
                    if count >= MAX_FILES:
                        return self._by_end
        return self._by_end


def cleaned(name: str) -> PurePosixPath:
    """A name as a path: backslashes are slashes, a drive letter is dropped."""
    slashed = name.replace("\\", "/")
    if len(slashed) > 2 and slashed[0].isalpha() and slashed[1:3] == ":/":
        slashed = slashed[2:]
    return PurePosixPath(slashed)


def name_of(data: bytes) -> str:
    """A name as bytes of a binary file: UTF-8, or the code page of a Western Windows."""
    return decode_text(data) if data else ""


def key_of(part: str) -> str:
    """One part of a path as it is compared: composed Unicode, case folded; names on disk that are not UTF-8 are taken for the Western code page."""
    if any("\udc80" <= character <= "\udcff" for character in part):
        part = os.fsencode(part).decode("cp1252", "replace")
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", part).casefold())


def _shared_end(a: Sequence[str], b: Sequence[str]) -> int:
    count = 0
    for left, right in zip(reversed(a), reversed(b)):
        if left != right:
            break
        count += 1
    return count


def _walk(folder: Path) -> Iterable[Path]:
    """Files below a folder, in sorted order; links are followed, none twice."""
    visited = set()
    for top, folders, files in os.walk(folder, followlinks=True):
        identity = _identity(Path(top))
        if identity in visited:
            folders[:] = []
            continue
        visited.add(identity)
        folders[:] = sorted(name for name in folders if not (name.startswith(".") or name.lower() in NOT_PHOTOS or is_shrunk_folder(name)))
        yield from (Path(top) / name for name in sorted(files) if not name.startswith("."))  # "._a.jpg" of a Mac is no photo


def is_shrunk_folder(name: str) -> bool:
    """images_2, images_4, ..."""
    return name.startswith("images_") and name.removeprefix("images_").isdigit()


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # longer than the file system takes
        return False


def _identity(path: Path) -> str:
    return os.path.realpath(path)


def _is_below(path: Path, folder: Path) -> bool:
    absolute = Path(os.path.abspath(path))
    return absolute.is_relative_to(os.path.abspath(folder))

"""Where the parts of a scene are: models, photos, as the programs that make them lay them out.

| made by | model | photos |
|---|---|---|
| COLMAP, 3DGS, Metashape | `sparse/0` (`sparse/1` ... where mapping fell apart), `sparse` | `images/` |
| COLMAP's undistorter | `dense/0/sparse`, `undistorted/sparse` | `images/` beside it |
| nerfstudio | `transforms.json`, else `colmap/sparse/0` | `images/` |
| RealityScan | the folder itself | `images/`, or beside the model's files |
| WebODM, Polycam, own scripts | a folder somewhere below | `images/`, `input/`, ..., or beside the model's files |
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import SceneError
from . import _colmap_binary, _colmap_text
from ._colmap_files import FILES
from ._names import PHOTO_SUFFIXES, is_shrunk_folder
from ._notes import Notes

IMAGE_FOLDERS = ("images", "Images", "image", "input", "rgb", "color", "frames", "photos", "imgs", "undistorted_images", "corrected_images")
MAX_DEPTH = 4  # of folders below the scene that are looked through
MAX_FOLDERS = 2000
_ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".xz", ".bz2")


@dataclass(frozen=True)
class FoundModel:
    """A COLMAP model: its folder, and ".bin" or ".txt"."""

    folder: Path
    suffix: str

    def count(self) -> int:
        """How many photos it says it has."""
        return {".bin": _colmap_binary, ".txt": _colmap_text}[self.suffix].count_images(self.folder / f"images{self.suffix}")


def find_model(root: Path, notes: Notes | None = None, *, deeper: bool = False) -> FoundModel | None:
    """The COLMAP model of the scene in `root`, None without one: in sparse/0, sparse or `root` itself; `deeper`: in any folder below.

    Raises:
        SceneError: one is there but lacks files.
    """
    incomplete: list[SceneError] = []
    places = [_subfolders(root / "sparse"), [root / "sparse"], [root], _numbered(root)]
    for group in _grouped_below(root) if deeper else places:
        models = [model for folder in group if (model := _model_in(folder, incomplete)) is not None]
        if models:
            counts = [model.count() for model in models] if len(models) > 1 else [0]
            best = models[max(range(len(models)), key=lambda i: (counts[i], -i))]
            if len(models) > 1 and notes is not None:
                parts = ", ".join(f"{model.folder.name} with {count}" for model, count in zip(models, counts))
                notes.say(f"the reconstruction fell into {len(models)} models ({parts} photos): took {best.folder.name}, which has most")
            return best
    if incomplete:
        raise incomplete[0]
    return None


def find_transforms(root: Path) -> list[tuple[Path, bool | None]]:
    """[(file, held_out)] to read: `root` itself if it is a file, transforms.json, or NeRF-synthetic's train and test files.

    transforms_val.json serves as the test split where there is no transforms_test.json, else it is not read.
    """
    if root.is_file():
        return [(root, None)]
    if (root / "transforms.json").is_file():
        return [(root / "transforms.json", None)]
    train, test, val = (root / f"transforms_{split}.json" for split in ("train", "test", "val"))
    if not train.is_file():
        return []
    held_out = test if test.is_file() else val
    return [(train, False), (held_out, True)] if held_out.is_file() else [(train, None)]


def find_transforms_below(root: Path) -> list[tuple[Path, bool | None]]:
    """`find_transforms` of the first folder below `root` that has any."""
    return next((found for folder in _folders_below(root) if (found := find_transforms(folder))), [])


def image_folders(root: Path, model: Path) -> list[Path]:
    """Folders of photos that belong to a model, the nearest first; those without any photo are not among them."""
    parents = [model, *model.parents]
    inside = [parent for parent in parents if parent == root or root in parent.parents]
    near = (inside if model == root or root in model.parents else []) + parents[:3] + [root]
    folders = [parent / name for parent in dict.fromkeys(near) for name in IMAGE_FOLDERS]
    unique: dict[str, Path] = {}
    for folder in folders:
        if folder.is_dir():
            unique.setdefault(os.path.realpath(folder), folder)
    return list(unique.values())


def holds_photos(folder: Path) -> bool:
    """Whether there is a photo in a folder, or in one below it."""
    for place in (folder, *_folders_below(folder)):
        if any(Path(name).suffix.lower() in PHOTO_SUFFIXES for name in _names_in(place)):
            return True
    return False


def no_scene(root: Path) -> SceneError:
    """What to say of a path in which no scene was found."""
    if root.is_file():
        if root.suffix.lower() in _ARCHIVES or _starts_with(root, (b"PK\x03\x04", b"Rar!", b"7z\xbc\xaf", b"\x1f\x8b")):
            return SceneError(f"{root} is an archive: unpack it first, and give the folder")
        return SceneError(f"{root} is no scene: expected a folder with a COLMAP model or a transforms.json")
    archive = next((name for name in sorted(_names_in(root)) if Path(name).suffix.lower() in _ARCHIVES), None)
    hint = "Did you pass images/?" + (f" Plain photos get their poses by: learn2splat sfm {root}" if holds_photos(root) else "")
    hint = f"There is {archive}: unpack it first" if archive else hint
    return SceneError(
        f"no COLMAP model in {root}: looked for cameras.bin and cameras.txt in sparse/0, sparse, the folder itself and those below, "
        f"and for transforms.json. {hint}"
    )


def _model_in(folder: Path, incomplete: list[SceneError]) -> FoundModel | None:
    for suffix in (".bin", ".txt"):
        missing = [f"{name}{suffix}" for name in FILES[:2] if not (folder / f"{name}{suffix}").is_file()]
        if not missing:
            return FoundModel(folder, suffix)
        if missing[0] != f"cameras{suffix}":
            incomplete.append(SceneError(f"the COLMAP model in {folder} lacks {', '.join(missing)}: copy the whole model"))
    return None


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted((path for path in folder.iterdir() if path.is_dir()), key=_natural)
    except OSError:
        return []


def _numbered(root: Path) -> list[Path]:
    """0, 1, ...: the models of a folder sparse/ that was given itself."""
    return [folder for folder in _subfolders(root) if folder.name.isdigit()]


def _natural(path: Path) -> tuple[int, str]:
    return (int(path.name) if path.name.isdigit() and len(path.name) < 9 else 1 << 30, path.name)


def _grouped_below(root: Path) -> Iterable[list[Path]]:
    """Folders below root, those with one parent and numbers for names together: the models of one mapping."""
    groups: dict[Path, list[Path]] = {}
    for folder in _folders_below(root):
        groups.setdefault(folder.parent if folder.name.isdigit() else folder, []).append(folder)
    return groups.values()


def _folders_below(root: Path) -> Iterable[Path]:
    """Breadth first, in order of names; hidden folders and shrunk photos left out."""
    level, seen = [root], 0
    for _ in range(MAX_DEPTH):
        level = [folder for parent in level for folder in _subfolders(parent) if not (folder.name.startswith(".") or is_shrunk_folder(folder.name))]
        for folder in level:
            seen += 1
            if seen > MAX_FOLDERS:
                return
            yield folder


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _starts_with(path: Path, magic: tuple[bytes, ...]) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(4).startswith(magic)
    except OSError:
        return False

"""`load_scene`: one function for all input formats."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from ..errors import SceneError
from ._apps import read_app
from ._assemble import assemble, check_options
from ._colmap import read_colmap
from ._find import find_model, find_transforms, find_transforms_below, holds_photos, no_scene
from ._notes import Notes
from ._raw import LoadOptions, RawModel
from ._transforms import read_transforms
from .scene import Scene


def load_scene(
    path: str | os.PathLike,
    *,
    long_side: int | None = None,
    data_factor: int = 1,
    test_every: int = 8,
    masks: bool = True,
    background: str | None = None,
    allow_outside: bool = False,
    observations: bool = False,
) -> Scene:
    """Read posed photos into the normalised frame (docs/conventions.md).

    Reads a COLMAP folder (in sparse/0, sparse, the folder itself or one below; .bin or .txt; SIMPLE_PINHOLE, PINHOLE, SIMPLE_RADIAL, RADIAL, OPENCV,
    FULL_OPENCV; photos in images/ or beside), transforms.json (NeRF-synthetic, instant-ngp, nerfstudio), raw data of Polycam, or a project of OpenSfM
    or WebODM. A folder with the first two is read as COLMAP, unless the model lies deeper than the transforms.json.

    Args:
        path: the folder, or a transforms.json.
        long_side: px, shrink every photo until its longest side is at most this; photos are never enlarged. 0: leave them as they are.
            Default: 1600, with a note, unless a `data_factor` is given.
        data_factor: shrink by this factor first, using images_2/, images_4/ ... where they exist.
        test_every: photo 0 and every `test_every`-th of the sorted names are held out; 0: all are fitted, and scores are
            those of every 8th. transforms_{train,test}.json and train_filenames,
            test_filenames of a transforms.json bring their own split.
        masks: leave out of the fit and of scores what masks (folder masks/, mask_path) or a transparent photo hide.
        background: "white" or "black", compose transparent photos on it. Default: white for NeRF-synthetic scenes; others ignore what is transparent.
        allow_outside: read photos that the model names outside of the scene's folder.
        observations: also keep where photos see the points (`Scene.observations`): they can then be triangulated anew from some of the photos.

    Returns:
        A `Scene`. What had to be left out, guessed or mended (a photo that is missing or sees none of the points, a name in another case) is told by
        a UserWarning for each kind and by `Scene.warnings`.

    Raises:
        SceneError: the model is missing, damaged or unsupported, or fewer than two of its photos can be used.
        OptionError: an argument makes no sense.
    """
    options = LoadOptions(long_side, data_factor, test_every, masks, background, allow_outside, observations)
    check_options(options)
    root = Path(path)
    if not root.exists():
        raise SceneError(f"no such folder: {root}. Expected a folder with a COLMAP model or a transforms.json")
    scene = assemble(_read(root, options), options)
    for note in scene.warnings:
        warnings.warn(note, stacklevel=2)
    return scene


def lacks_poses(path: Path) -> bool:
    """Whether `path` is a folder of photos and nothing says where they were taken from."""
    if not path.is_dir() or not holds_photos(path):
        return False
    options = LoadOptions(None, 1, 8, True, None, False)
    try:
        if find_model(path, deeper=True) or find_transforms(path) or find_transforms_below(path) or read_app(path, options, Notes()):
            return False
        return find_model(path) is None
    except SceneError:  # a scene that is damaged: loading it says how
        return False


def _read(root: Path, options: LoadOptions) -> RawModel:
    """The first format that is there: COLMAP and transforms.json at their usual places, then either of them deeper."""
    notes = Notes()
    if root.is_file():
        if root.suffix.lower() != ".json":
            raise no_scene(root)
        return read_transforms(root, find_transforms(root), options, notes)
    for deeper in (False, True):
        model = find_model(root, notes, deeper=deeper)
        if model is not None:
            return read_colmap(root, model, options, notes)
        transforms = find_transforms_below(root) if deeper else find_transforms(root)
        if transforms:
            return read_transforms(root, transforms, options, notes)
        app = None if deeper else read_app(root, options, notes)
        if app is not None:
            return app
    raise no_scene(root)

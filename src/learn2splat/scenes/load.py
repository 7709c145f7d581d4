"""`load_scene`: one function for all input formats."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import OptionError, SceneError
from ._assemble import assemble
from ._colmap import find_model, read_colmap
from ._transforms import find_transforms, read_transforms
from .scene import Scene


def load_scene(path: str | os.PathLike, *, long_side: int | None = None, data_factor: int = 1, test_every: int = 8) -> Scene:
    """Read posed photos into the normalised frame (docs/conventions.md).

    Reads a COLMAP folder (sparse/0, sparse or the folder itself; .bin or .txt; SIMPLE_PINHOLE, PINHOLE, SIMPLE_RADIAL, RADIAL, OPENCV;
    photos in images/) or transforms.json (NeRF-synthetic, instant-ngp, nerfstudio). A folder with both is read as COLMAP.

    Args:
        path: the folder, or a transforms.json.
        long_side: px, shrink every photo until its longest side is at most this; photos are never enlarged.
        data_factor: shrink by this factor first, using images_2/, images_4/ ... where they exist.
        test_every: photo 0 and every `test_every`-th of the sorted names are held out. transforms_{train,test}.json bring their own split.

    Returns:
        A `Scene`. Photos that see none of the points are left out (a photo without overlap would only be fitted by floaters in front of
        it): a UserWarning and `Scene.warnings` name them.

    Raises:
        SceneError: the model or a photo is missing, damaged, unsupported, or has too little in it to fit.
        OptionError: an argument makes no sense.
    """
    if data_factor < 1 or int(data_factor) != data_factor:
        raise OptionError(f"data_factor must be a whole number of at least 1, got {data_factor}")
    root = Path(path)
    if not root.exists():
        raise SceneError(f"no such folder: {root}. Expected a folder with a COLMAP model or a transforms.json")
    model = find_model(root) if root.is_dir() else None
    if model is not None:
        raw = read_colmap(root, *model, int(data_factor))
    else:
        transforms = find_transforms(root)
        if not transforms:
            raise SceneError(
                f"no COLMAP model in {root}: looked for cameras.bin and cameras.txt in sparse/0, sparse and the folder itself, "
                f"and for transforms.json. Did you pass images/?"
            )
        raw = read_transforms(root, transforms, int(data_factor))
    return assemble(raw, long_side=long_side, test_every=test_every)

"""The data sets of the field in the folders that they are published in, with the photo sizes of docs/method.md section 6.

| suite | folders | photos in `--protocol paper` (height x width) |
|---|---|---|
| `mipnerf360` | `<scene>/images*`, `sparse/0` | 520 x 780 |
| `llff` (nerf_llff_data) | `<scene>/images*`, `sparse/0` | 756 x 1008 |
| `dtu` | `scan*/images`, `sparse/0` (undistorted by COLMAP) | 1162 x 1554 |
| `dl3dv` | `<hash>/transforms.json` or `<hash>/nerfstudio/transforms.json`, images_4 or images | 256 x 448 or 512 x 960 |
| `re10k` (pixelSplat) | `*.torch`, `index.json`, or these in `test/` | 512 x 960 |
| `colmap` | every folder below with a COLMAP model | as they are |

Photos are shrunk until they cover the size, then cropped around the middle. Every `test_every`-th photo is held out, unless an index file of
pixelSplat, MVSplat or DepthSplat says which are context and which are targets. Where there are no points (RealEstate10K; DL3DV without a point cloud)
the paper starts from a feed-forward network; here, a run then starts from random points on the rays of the context photos, which is far worse: such
numbers compare optimizers with each other, not with the paper's.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..errors import Learn2SplatError, OptionError, SceneError
from ..scenes import Scene, load_scene
from ..scenes._find import find_model
from ..scenes._names import PHOTO_SUFFIXES
from ..scenes._photos import UnusablePhoto, photo_size
from ..scenes.adapt import cover_and_crop, with_random_points
from ..scenes.context import context_scene
from ..scenes.re10k import find_chunks, load_re10k
from ..scenes.views import Index, choose_views
from .executors import SceneSource

MAX_DEPTH = 3  # Of folders that are looked through for COLMAP models.
RANDOM_POINTS = 50_000  # About as many as a feed-forward start has (docs/method.md section 4); --max-points draws from them.
RANDOM_DEPTHS = (1.0, 100.0)  # In distances between the outermost cameras: pixelSplat's near and far planes.

MIPNERF360 = ("bicycle", "bonsai", "counter", "flowers", "garden", "kitchen", "room", "stump", "treehill")
LLFF = ("fern", "flower", "fortress", "horns", "leaves", "orchids", "room", "trex")


@dataclass(frozen=True)
class Suite:
    """`find`: data folder -> (name, path) of each scene; `sizes`: published (height, width), the first by default."""

    find: Callable[[Path], list[tuple[str, Path]]]
    sizes: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class SuiteIndex:
    """An evaluation index: scene -> (context, target), sorted positions; `context_views` of every scene; `digest` of all, to name results by."""

    scenes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    context_views: int
    digest: str


@dataclass(frozen=True)
class Views:
    """The split of a suite's scenes: held out by position, or from an index; `context_views` None is the dense setting."""

    test_every: int = 8
    context_views: int | None = None
    index: SuiteIndex | None = None


def suite_sources(name: str, data: Path, views: Views, size: tuple[int, int] | None, long_side: int | None) -> list[SceneSource]:
    """What workers load. Of the scenes in `data`, those in the index where there is one.

    Args:
        size: (height, width) by covering and cropping, or None: shrunk to `long_side`.

    Raises:
        OptionError: an unknown suite.
        SceneError: the folder has no scene of the suite.
    """
    if name not in SUITES:
        raise OptionError(f"unknown suite {name!r}: choose one of {', '.join(SUITES)}")
    if not data.is_dir():
        raise SceneError(f"no such folder: {data}. Give the folder of the data set with --data")
    found = SUITES[name].find(data.resolve())
    if views.index is not None:
        found = [(scene, path) for scene, path in found if scene in views.index.scenes]
    if not found:
        wanted = "scene of the index" if views.index is not None else "scene"
        raise SceneError(f"no {wanted} of {name} in {data}: its layout is described in learn2splat.bench.suites")
    return [SceneSource(scene, partial(load_suite_scene, name, scene, path, views, size, long_side)) for scene, path in found]


def load_suite_scene(suite: str, name: str, path: Path, views: Views, size: tuple[int, int] | None, long_side: int | None) -> Scene:
    """One scene of a suite: photos, views, size, points."""
    if suite == "re10k":
        scene = load_re10k(path, name, test_every=views.test_every)
        width, height = scene.size(0)
        if size is None and long_side is not None and max(width, height) > long_side:
            ratio = long_side / max(width, height)
            size = (max(1, round(height * ratio)), max(1, round(width * ratio)))
    else:
        shrink_to = (long_side or 0) if size is None else 0
        sparse = views.context_views is not None
        factor = _data_factor(path, size, long_side)
        scene = load_scene(path, long_side=shrink_to, data_factor=factor, test_every=views.test_every, observations=sparse)
    scene = with_split(replace(scene, name=name), views)
    scene = scene if size is None else cover_and_crop(scene, *size)
    return scene if len(scene.points) else with_random_points(scene, RANDOM_POINTS, RANDOM_DEPTHS)


def with_split(scene: Scene, views: Views) -> Scene:
    """The scene with its context and target views.

    Raises:
        OptionError: the index names photos that are not there, or there are too few for so many context views.
    """
    if views.index is None:
        return scene if views.context_views is None else context_scene(scene, *choose_views(scene, views.context_views))
    return context_scene(scene, *Index(dict(views.index.scenes)).views_of(scene))


def read_suite_index(path: Path) -> SuiteIndex:
    """`{scene: {"context": [...], "target": [...]}}`; scenes that are null take no part.

    Raises:
        OptionError: unreadable, empty, a view that is both, or scenes with different numbers of context views.
    """
    index = {scene: views for scene, views in Index.read(path).scenes.items() if views is not None}
    counts = {len(context) for context, _ in index.values()}
    if len(counts) != 1:
        raise OptionError(f"the scenes in {path} must all have the same number of context views, got {sorted(counts)}: use a file for each")
    return SuiteIndex(index, counts.pop(), hashlib.blake2b(json.dumps(index, sort_keys=True).encode(), digest_size=6).hexdigest())


def _data_factor(root: Path, size: tuple[int, int] | None, long_side: int | None) -> int:
    """The largest N of an images_N/ whose photos are still large enough; without images/, the smallest N there is."""
    sizes = {factor: found for factor in (8, 4, 2) if (found := _photo_size(root / f"images_{factor}"))}
    for factor, (width, height) in sizes.items():
        if (width >= size[1] and height >= size[0]) if size is not None else (long_side is not None and max(width, height) >= long_side):
            return factor
    return min(sizes, default=1) if not (root / "images").is_dir() else 1


def _photo_size(folder: Path) -> tuple[int, int] | None:
    """(width, height) of the first photo in the folder; None without one that can be read."""
    photos = sorted(p for p in folder.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES) if folder.is_dir() else []
    try:
        return photo_size(photos[0])
    except (UnusablePhoto, SceneError, IndexError):
        return None


def _named(names: tuple[str, ...], data: Path) -> list[tuple[str, Path]]:
    return [(name, data / name) for name in names if (data / name).is_dir()]


def _dtu(data: Path) -> list[tuple[str, Path]]:
    return [(path.name, path) for path in sorted(data.iterdir()) if path.is_dir() and re.fullmatch(r"(dtu_)?scan_?\d+", path.name)]


def _dl3dv(data: Path) -> list[tuple[str, Path]]:
    found = []
    for path in sorted(p for p in data.iterdir() if p.is_dir()):
        inside = [folder for folder in (path, path / "nerfstudio") if (folder / "transforms.json").is_file()]
        found += [(path.name, inside[0])] if inside else []
    return found


def _re10k(data: Path) -> list[tuple[str, Path]]:
    test = data / "test"
    return list(find_chunks(test if test.is_dir() else data).items())


def _colmap(data: Path) -> list[tuple[str, Path]]:
    """Every folder with a model, named by its path below `data`; not those inside another one's."""
    found = []

    def visit(folder: Path, depth: int) -> None:
        try:
            has_model = find_model(folder) is not None
        except Learn2SplatError:  # an incomplete model: its own row fails with a sentence
            has_model = True
        if has_model:
            found.append(("_".join(folder.relative_to(data).parts) or data.name, folder))
        elif depth < MAX_DEPTH:
            for inner in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
                visit(inner, depth + 1)

    visit(data, 0)
    return found


SUITES: dict[str, Suite] = {
    "mipnerf360": Suite(partial(_named, MIPNERF360), ((520, 780),)),
    "llff": Suite(partial(_named, LLFF), ((756, 1008),)),
    "dtu": Suite(_dtu, ((1162, 1554),)),
    "dl3dv": Suite(_dl3dv, ((256, 448), (512, 960))),
    "re10k": Suite(_re10k, ((512, 960),)),
    "colmap": Suite(_colmap),
}

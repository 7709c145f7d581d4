"""The folder that `fit` writes and that `eval` and `render` read.

point_cloud.ply   the Gaussians, 3DGS layout, input frame of the scene
config.json       options, scene, versions, machine, command
metrics.json      the last numbers and the curve
renders/          each held-out photo and its render side by side
report.html       all of it to look at
checkpoint/       for --resume (learn2splat.fitting.checkpoint)
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from ..bench.page import png
from ..errors import CheckpointError, SceneError
from ..files import atomic_write, file_name, read_json
from ..fitting import FitResult, PhotoScore, rendered
from ..fitting.checkpoint import remove_checkpoint
from ..gaussians import Gaussians, load_offset, load_splat, save_ply, transform_gaussians
from ..gaussians.formats import SOG_META
from ..optimizers.world import World
from ..scenes import Scene, load_scene
from ..scenes.scene import EPS2D
from .common import note, to_json

T = TypeVar("T")
WRITER = "learn2splat fit"
LOADING = ("masks", "background", "allow_outside")  # options of load_scene that are kept in config.json besides those that it always had
PLY, CONFIG, METRICS, RENDERS, CHECKPOINT = "point_cloud.ply", "config.json", "metrics.json", "renders", "checkpoint"
REPORT = "report.html"


def metrics(result: FitResult) -> dict[str, object]:
    """The last line of `fit --json`: exactly these names."""
    return {
        "optimizer": result.optimizer,
        "psnr": result.psnr,
        "best_psnr": result.best_psnr,
        "ssim": result.ssim,
        "steps": result.steps,
        "seconds": result.seconds,
        "num_gaussians": len(result.gaussians),
        "curve": [asdict(point) for point in result.curve],
    }


def save_gaussians(folder: Path, scene: Scene, gaussians: Gaussians) -> None:
    """Write the PLY in the input frame; its header and config.json say by how much that is shifted."""
    in_input_frame = transform_gaussians(gaussians, scene.to_normalised.inverse())
    save_ply(folder / PLY, in_input_frame, offset=scene.offset)


def in_scene(gaussians: Gaussians, path: Path, scene: Scene) -> Gaussians:
    """Gaussians as they stand in the file at `path`, in the normalised frame of the scene that they belong to."""
    return transform_gaussians(gaussians, scene.frame_of(load_offset(path), gaussians.means.median(dim=0).values))


def save_metrics(folder: Path, result: FitResult, scores: list[PhotoScore], renders: list[str]) -> None:
    """`metrics`, and besides why the run ended, where its time went, what changed when, the score of every photo, and which files are in renders/."""
    more = {
        "ended": result.ended,
        "diverged": result.diverged,
        "interrupted": result.interrupted,
        "time": time_shares(result),
        "changes": [asdict(change) for change in result.changes],
        "photos": [asdict(score) for score in scores],
        "renders": renders,
    }
    atomic_write(folder / METRICS, to_json({**metrics(result), **more}, indent=1))


def time_shares(result: FitResult) -> dict[str, float]:
    """Where the seconds of the run went."""
    rest = max(0.0, result.seconds - result.update_seconds - result.growth_seconds)
    return {"render_loss_gradients": rest, "update": result.update_seconds, "growth": result.growth_seconds}


def save_renders(folder: Path, scene: Scene, gaussians: Gaussians) -> None:
    """One PNG per held-out photo: the photo on the left, the render on the right."""
    names = dict(zip(scene.test_idx, render_names(scene)))
    for i, render, photo in rendered(scene, gaussians, scene.test_idx):
        atomic_write(folder / RENDERS / names[i], png(torch.cat([photo, render], dim=1)))


def render_names(scene: Scene) -> list[str]:
    """A file name for each held-out photo: its position among the photos, which no other has, and its name for whoever looks at the folder."""
    stems = {i: re.sub(r"\.[A-Za-z]{3,4}$", "", scene.image_names[i]) for i in scene.test_idx}
    return [f"{i:05d}_{file_name(stem)[:60]}.png" for i, stem in stems.items()]


def remove_result(folder: Path) -> None:
    """Remove what `fit` has written beside the configuration, and nothing else: a folder is removed only where that leaves it empty."""
    with suppress(OSError, ValueError, AttributeError, TypeError):
        names = read_json(folder / METRICS).get("renders", [])
        for name in names:
            if file_name(name) == name:  # none that leads elsewhere
                (folder / RENDERS / name).unlink(missing_ok=True)
    for old in (PLY, METRICS, REPORT):
        (folder / old).unlink(missing_ok=True)
    remove_checkpoint(folder / CHECKPOINT)
    with suppress(OSError):
        (folder / RENDERS).rmdir()


def open_scene(path: Path, long_side: int | None, data_factor: int, test_every: int, **more: object) -> Scene:
    """`load_scene` (`more`: its other options), with its warnings as plain lines on stderr."""
    return with_notes(partial(load_scene, path, long_side=long_side, data_factor=data_factor, test_every=test_every, **more))


def with_notes(load: Callable[[], T]) -> T:
    """What `load` returns; its warnings, and those that a scene carries, as plain lines on stderr, each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        loaded = load()
    for text in dict.fromkeys([*(str(warning.message) for warning in caught), *getattr(loaded, "warnings", ())]):
        note(f"note: {text}")
    return loaded


def load_config(folder: Path) -> dict:
    """
    Raises:
        CheckpointError: `folder` is not one that `fit` has written.
    """
    path = folder / CONFIG
    try:
        config = read_json(path)
        _check_config(config)
    except FileNotFoundError:
        raise CheckpointError(f"no result in {folder}: expected {CONFIG}, written by learn2splat fit --out {folder}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is unreadable ({error}): fit the scene again with --overwrite") from error
    return config


def _check_config(config: dict) -> None:
    """Raises KeyError, TypeError or ValueError where something that `eval` or `render` needs is missing or not what `fit` writes."""
    scene = config["scene"]
    if not isinstance(config["options"]["optimizer"], str):
        raise TypeError("options have no optimizer")
    for key, kinds in (("path", str), ("long_side", (int, type(None))), ("data_factor", int), ("test_every", int)):
        if not isinstance(scene[key], kinds):
            raise TypeError(f"{key} is {scene[key]!r}")
    for kind in ("context", "target"):
        positions = scene.get("views", {}).get(kind, [0])
        if not positions or not all(isinstance(i, int) and i >= 0 for i in positions):
            raise TypeError(f"{kind} views are {positions!r}")


def splat_path(path: Path) -> Path | None:
    """The splat that `path` names: itself if it is a file (or a folder with the pictures of a SOG), None if it should be a folder of `fit`."""
    return path if path.is_file() or (path / SOG_META).is_file() else None


def open_splat(path: Path) -> Gaussians:
    """`load_splat`, with its warnings as plain lines on stderr; the PLY of a folder of `fit`. In the frame of the file.

    Raises:
        CheckpointError: the folder holds no result.
    """
    if splat_path(path) is None and path.is_dir():
        load_config(path)
        if not (path / PLY).exists():
            raise CheckpointError(f"no {PLY} in {path}: its fit has not ended yet, go on with learn2splat fit ... --resume")
        path = path / PLY
    return with_notes(partial(load_splat, path))


def load_result(folder: Path, scene_path: Path | None, device: torch.device) -> tuple[dict, Scene, Gaussians]:
    """(config, the scene as it was loaded for the fit, the saved Gaussians in its frame).

    `scene_path` says where the photos are now, if they have moved since.
    """
    config = load_config(folder)
    in_input_frame = open_splat(folder)
    saved = config["scene"]
    path = Path(saved["path"]) if scene_path is None else scene_path
    if not path.exists():
        raise SceneError(f"the scene of {folder} is no longer at {path}: say where it is with --scene")
    more = {name: saved[name] for name in LOADING if name in saved}
    scene = open_scene(path, saved["long_side"], saved["data_factor"], saved["test_every"], **more)
    if "views" in saved:  # the sparse setting
        context, target = (tuple(saved["views"][kind]) for kind in ("context", "target"))
        if max(*context, *target) >= len(scene):
            raise SceneError(
                f"{folder} was fitted to photo {max(*context, *target)} of {scene.name}, which has {len(scene)}: were photos taken away?"
            )
        scene = replace(scene, train_idx=context, test_idx=target)
    scene = World(saved.get("world_frame", "normalised"), saved.get("eps2d", EPS2D)).scene(scene)
    return config, scene, in_scene(in_input_frame, folder / PLY, scene).to(device)

"""Which photos of a scene are fitted and which are held out, and the index files that remember it.

An index file is that of pixelSplat, MVSplat and DepthSplat: `{scene: {"context": [...], "target": [...]}}`, positions among the sorted photos.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ..errors import OptionError, SceneError
from ..files import read_json, to_json
from ..scenes import Scene
from .store import write_once

CHOICE_SEED = 0  # Of the first context view; not an option, so that everyone gets the same views.


def with_views(scene: Scene, context_views: int | None, index: Path) -> Scene:
    """The scene with the views of the setting: those in the file `index` if it exists, else chosen and written there.

    Args:
        context_views: None: all train photos are context (dense).

    Raises:
        OptionError: more context views than train photos, or fewer than 2.
        SceneError: the file is damaged or belongs to another version of the scene.
    """
    if index.exists():
        context, target = read_index(index, scene)
    else:
        context = scene.train_idx if context_views is None else choose_context(scene, context_views)
        target = scene.test_idx
        write_once(index, lambda: to_json({scene.name: {"context": list(context), "target": list(target)}}) + "\n")
    return replace(scene, train_idx=tuple(context), test_idx=tuple(target))


def choose_context(scene: Scene, count: int) -> list[int]:
    """`count` train photos whose cameras cover the scene: one by `CHOICE_SEED`, then always the one farthest from those chosen; sorted."""
    if not 2 <= count <= len(scene.train_idx):
        raise OptionError(f"context views must be 2 to {len(scene.train_idx)} (the photos of {scene.name} that are not held out), got {count}")
    centres = scene.camtoworlds[list(scene.train_idx), :3, 3].double()
    chosen = [int(torch.randint(len(centres), (), generator=torch.Generator().manual_seed(CHOICE_SEED)))]
    while len(chosen) < count:
        nearest = torch.cdist(centres, centres[chosen]).amin(1)
        nearest[chosen] = -1.0  # cameras in one place: none twice
        chosen.append(int(nearest.argmax()))
    return sorted(scene.train_idx[i] for i in chosen)


def read_index(path: Path, scene: Scene) -> tuple[list[int], list[int]]:
    """(context, target) of the scene in an index file."""
    try:
        entry = read_json(path)[scene.name]
        context, target = [int(i) for i in entry["context"]], [int(i) for i in entry["target"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SceneError(f"{path} holds no views of {scene.name} ({error!r}): delete it to choose them again, in another --out") from error
    if not context or not target or set(context) & set(target) or not set(context + target) <= set(range(len(scene))):
        raise SceneError(f"{path} does not fit to {scene.name} with {len(scene)} photos: give the photos that it was made for, or another --out")
    return context, target

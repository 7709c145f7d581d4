"""Which photos of a scene a comparison fits and which it holds out, and the index file that remembers it (`scenes/views.py` has the format)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..errors import OptionError, SceneError
from ..files import to_json
from ..scenes import Scene
from ..scenes.context import context_scene
from ..scenes.views import Index, choose_views
from .protocol import Protocol
from .store import write_once


def with_views(scene: Scene, protocol: Protocol, file: Path) -> Scene:
    """The scene with the views of the setting: those in the index `file` if it exists, else chosen and written there.

    Raises:
        OptionError: more context views than photos.
        SceneError: the file is damaged or belongs to another version of the scene.
    """
    if file.exists():
        try:
            context, target = Index.read(file).views_of(scene)
        except OptionError as error:
            raise SceneError(f"{file} does not fit: {error}. Give the photos that it was made for, or another --out") from error
    elif protocol.chooses_views:
        context, target = choose_views(scene, protocol.context_views)
    else:
        context, target = scene.train_idx, scene.test_idx
    write_once(file, lambda: to_json(Index({scene.name: (tuple(context), tuple(target))}).to_json()) + "\n")
    if protocol.chooses_views:
        return context_scene(scene, context, target)
    return replace(scene, train_idx=tuple(context), test_idx=tuple(target))

"""`learn2splat index SCENE`: which photos of scenes are context and which are held out between them, in the format of pixelSplat and DepthSplat."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..errors import OptionError
from ..files import atomic_write, clashing, to_json
from ..scenes.views import TARGETS, Index, choose_views
from . import result as saved
from .common import Command, Flag, MaybeInt, note

LONG_SIDE = 64  # px: where the cameras stand is all that is asked
ScenePaths = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SCENE [SCENE ...]", help_behavior_hint="")]


@dataclass(frozen=True)
class MakeIndex(Command):
    """Choose context photos and held-out photos between them, for fit and bench with --setting sparse --index FILE.

    A window in the middle of the photos, sorted by name; contexts by farthest point in it; held-out photos evenly over the rest."""

    scenes: ScenePaths
    """Folders with photos and camera poses (COLMAP or transforms.json)."""
    out: Path
    """The file to write, a .json. A scene that has too few photos is null in it: skipped."""
    context_views: int = 8
    """Photos that are fitted."""
    targets: int = TARGETS
    """Photos that are held out."""
    window: MaybeInt = None
    """Photos of the sorted ones that both are taken from: 40 of DL3DV, 200 of RealEstate10K. Default: 5 per context photo, fewer where
    neighbouring context photos would be more than 15 degrees apart."""
    overwrite: Flag = False
    """Replace the file."""

    def run(self) -> None:
        if self.out.exists() and not self.overwrite:
            raise OptionError(f"{self.out} exists: add --overwrite, or choose another --out")
        if self.context_views < 1 or self.targets < 1 or (self.window is not None and self.window <= self.context_views):
            raise OptionError(
                "--context-views and --targets must be at least 1, and --window larger than --context-views, "
                f"got {self.context_views}, {self.targets} and {self.window}"
            )
        scenes: dict[str, tuple[tuple[int, ...], tuple[int, ...]] | None] = {}
        lines = []
        for path in self.scenes:
            scene = saved.open_scene(path, LONG_SIDE, 1, 8)
            if clashing([*scenes, scene.name]):
                raise OptionError(f"two scenes are called {scene.name}, or nearly: rename one folder, an index goes by names")
            scenes[scene.name] = None
            if len(scene) <= self.context_views:
                note(f"note: {scene.name} has {len(scene)} photos, too few for {self.context_views} context views: null")
                continue
            context, target = choose_views(scene, self.context_views, targets=self.targets, window=self.window)
            scenes[scene.name] = (context, target)
            angle = scene.view_angle(context)
            apart = "" if angle is None else f", {angle:.1f} degrees apart"
            lines.append(f"{scene.name}: context {', '.join(map(str, context))}{apart}; held out {', '.join(map(str, target))}")
        atomic_write(self.out, to_json(Index(scenes).to_json(), indent=1) + "\n")
        print("\n".join(lines))

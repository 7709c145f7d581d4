"""`learn2splat sfm PHOTOS`: poses for plain photos, through COLMAP, written as a scene that `fit` takes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.prompt import Confirm

from ..errors import SceneError
from ..files import file_name, to_json
from ..sfm import Outcome, SfmStopped, reconstruct
from ..sfm.pairs import Matching
from .common import Command, Flag, Interrupted, MaybePath, note, stop_on_signals
from .display import Display

PhotosPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PHOTOS", help_behavior_hint="")]
NAMED = 5  # photos that a note names


@dataclass(frozen=True)
class Sfm(Command):
    """Find out where plain photos were taken from (structure from motion, by COLMAP), and write a scene for learn2splat fit."""

    photos: PhotosPath
    """Folder of photos of one thing or place: 20 to 200 of them, with much overlap."""
    out: MaybePath = None
    """Folder for the scene: images/ without lens distortion, sparse/0. Default: out/PHOTOS-scene."""
    matching: Matching = "auto"
    """Which photos are compared: exhaustive (all with all), retrieval (those that look alike), sequential (frames of a video with the next ones);
    auto: by their number and names."""
    overwrite: Flag = False
    """Begin again. Without it, a run that was stopped goes on, and a finished one is left as it is."""
    json: Flag = False
    """Print the outcome as one line of JSON, alone on stdout."""

    def run(self) -> None:
        out = self.out or default_scene(self.photos)
        outcome = find_poses(self.photos, out, self.matching, self.overwrite)
        if self.json:
            print(to_json({**outcome.__dict__, "scene": str(out)}))
        else:
            print(f"Scene in {out}. To go on:")
            print(f"  learn2splat fit {out}")


def default_scene(photos: Path) -> Path:
    """out/garden-scene for photos in garden/, or in garden/images/."""
    folder = photos.resolve()
    name = folder.parent.name if folder.name.lower() in ("images", "input", "photos") and folder.parent.name else folder.name
    return Path("out") / f"{file_name(name)}-scene"


def find_poses(photos: Path, out: Path, matching: Matching, overwrite: bool = False) -> Outcome:
    """`reconstruct`, with its progress and its outcome on stderr.

    Raises:
        Interrupted: by Ctrl-C or SIGTERM; the same call goes on.
    """
    with stop_on_signals() as should_stop, SfmProgress() as progress:
        try:
            outcome = reconstruct(photos, out, matching=matching, overwrite=overwrite, on_progress=progress, should_stop=should_stop)
        except SfmStopped:
            raise Interrupted(f"stopped; what was found so far is in {out}, and the same command goes on") from None
    for line in outcome_lines(outcome):
        note(line)
    return outcome


def outcome_lines(outcome: Outcome) -> list[str]:
    """What there is to say of an outcome: the number of poses first, then what went wrong."""
    number = len(outcome.registered)
    readable = outcome.num_photos - len(outcome.bad)
    lines = [f"{number} of {outcome.num_photos} photos have a pose, {outcome.num_points} points, mean error {outcome.error:.2f} px"]
    if len(outcome.models) > 1:
        sizes = ", ".join(map(str, outcome.models[1:]))
        lines.append(
            f"note: the photos fell into {len(outcome.models)} parts that no photo joins: took the largest, of {number} photos; left out were {sizes}"
        )
    for name, why in list(outcome.bad.items())[:NAMED]:
        lines.append(f"note: {name} was left out: {why}")
    if len(outcome.bad) > NAMED:
        lines.append(f"note: {len(outcome.bad) - NAMED} more photos cannot be read")
    if outcome.lost:
        names = ", ".join(outcome.lost[:NAMED]) + (", ..." if len(outcome.lost) > NAMED else "")
        lines.append(f"note: {len(outcome.lost)} photos have no pose (blurred, or with too little in common with the others): {names}")
    if number < 0.5 * readable:
        lines.append("note: less than half of the photos have a pose: photos with more overlap between them would help")
    if number < 12:
        lines.append(f"note: {number} photos are few: a splat is good near them only; 20 or more make a scene to walk around in")
    return lines


def scene_of_photos(photos: Path, agreed: bool) -> Path:
    """The scene of plain photos for a command that needs one: found now, or before; where nobody has agreed to that, a terminal is asked.

    Raises:
        SceneError: nobody agrees.
    """
    out = default_scene(photos)
    if not agreed:
        where = f"no poses with the photos in {photos}"
        if not _can_ask():
            raise SceneError(f"{where}: add --sfm to find them first, or run learn2splat sfm {photos}")
        if not Confirm.ask(f"There are {where}. Find them now, into {out}?", console=Console(stderr=True), default=True):
            raise SceneError(f"{where}: learn2splat sfm {photos} finds them")
    find_poses(photos, out, "auto")
    return out


def _can_ask() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


class SfmProgress(Display):
    """Call it with (what is done, how many of it, of how many). In a terminal a bar per stage."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(console)
        columns = (TextColumn("{task.description:<24}"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeElapsedColumn())
        self.live = Progress(*columns, console=self.console, expand=True)
        self.tasks: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self.console.is_terminal:
            if stage not in self.tasks:
                self.tasks[stage] = self.live.add_task(stage, total=total)
            self.live.update(self.tasks[stage], completed=done, total=total)
        elif done == total or self.line_is_due():
            self.line(f"{stage}  {done}/{total}")

"""Running a comparison: all optimizers of one scene and seed side by side in this process, in short slices, from the same start with the same views.

Slices are what makes the clocks fair: whatever else the machine does hurts all alike, and their order changes, because other programs have rhythms
too. Seconds count optimization only; the first steps, which import, allocate and start threads, are made once and thrown away before. Such a *group*
(one scene, one seed, all optimizers) is what one process or one machine runs; groups know nothing of each other and share only the folder of results.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import OptionError
from ..files import clashing, file_name, locked
from ..fitting.measure import measured_step_seconds
from ..initializers import make_start, sparse_start
from ..machine import commit, machine, portable_command
from ..scenes import Scene
from ..threads import num_threads
from .lane import Lane, LaneProgress, Start
from .page import png
from .protocol import SLICE_SECONDS, Protocol, parse_contenders
from .store import CellFile, write_once
from .views import with_views

SHARED_SECONDS = 60.0  # for which another seed may be writing what all share
_commit = functools.cache(commit)  # The code of this process stays that of its start, whatever is checked out meanwhile.


@dataclass(frozen=True)
class GroupProgress:
    """Where a group is. `ended`: the optimizer whose run has just ended, if one has."""

    scene: str
    seed: int
    lanes: tuple[LaneProgress, ...]
    ended: str | None


def run_bench(
    scenes: Iterable[Scene],
    optimizers: Sequence[str],
    protocol: Protocol,
    out: Path,
    *,
    seeds: int = 1,
    **options: Any,
) -> bool:
    """Run every cell (scene, optimizer, seed) that is not finished in `out` yet, group after group.

    Args:
        scenes: loaded as `protocol` says (long side, held-out photos); may be a generator, one is in memory at a time.
        seeds: so many, from 0.

    The other arguments and `options`, the result and what is raised are those of `run_group`; besides:

    Raises:
        OptionError: no seeds, or two scenes of one name.
    """
    parse_contenders(list(optimizers), protocol.budget)
    if seeds < 1:
        raise OptionError(f"seeds must be at least 1, got {seeds}")
    known: list[str] = []
    for scene in scenes:
        known.append(scene.name)
        if clashing(known):
            raise OptionError(f"two scenes are called {scene.name}, or nearly: rename one folder, results are stored by name")
        for seed in range(seeds):
            if not run_group(scene, seed, optimizers, protocol, out, **options):
                return False
    return True


def run_group(
    scene: Scene,
    seed: int,
    optimizers: Sequence[str],
    protocol: Protocol,
    out: Path,
    *,
    command: Sequence[str] = (),
    save_every: float = 30.0,
    on_progress: Callable[[GroupProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> bool:
    """Run the cells of one scene and seed, those that are not finished in `out` yet.

    Args:
        scene: as it was loaded; the views of the setting are chosen here, or read where a group of this scene has chosen them.
        optimizers: names as for `Contender.parse`.
        command: written into the results, so that a reader can repeat them.
        save_every: seconds between checkpoints of the runs under way.
        on_progress: called after every slice.
        should_stop: asked before every step; if true, everything is saved and the next call goes on.

    Returns:
        False if it was stopped.

    Raises:
        OptionError: another process is running this group in `out`.
        OptionError, CheckpointError: an optimizer cannot be made, or a cell in `out` is of other photos, weights or code.
        BackendError: the device of the protocol is not there.
        SaveError: the results cannot be written.

    An optimizer that fails or diverges is a row of the results and not an error.
    """
    contenders = parse_contenders(list(optimizers), protocol.budget)
    device = protocol.torch_device()
    folder = out / protocol.key / file_name(scene.name)
    mine = (f"*/seed{seed}.checkpoint/.*.partial", f"*/.seed{seed}-*.partial")  # Other processes run other seeds in the same folder.
    with locked(folder, f".seed{seed}.lock", mine):
        with locked(folder, leftovers=(".views.json.*", ".photo.png.*"), wait=SHARED_SECONDS):  # these all seeds share
            scene = with_views(scene, protocol, folder / "views.json")
            shown = scene.test_idx[len(scene.test_idx) // 2]
            write_once(folder / "photo.png", lambda: png(scene.image(shown)))
        generator = torch.Generator().manual_seed(seed)
        options = {"max_points": protocol.max_points, "generator": generator}
        if protocol.context_views is None:
            gaussians, _ = make_start(scene, protocol.init, **options)
        else:
            scene, gaussians, _ = sparse_start(scene, protocol.init, **options)
        gaussians = gaussians.to(device)
        about = {"machine": {**machine(), "native_threads": num_threads()}, "commit": _commit(), "command": portable_command(command)}
        timed = protocol.planned and protocol.budget.seconds is not None
        step_seconds = measured_step_seconds(scene, gaussians) if timed else None
        start = Start(scene, gaussians, seed, protocol, about, shown if seed == 0 else None, step_seconds)
        files = [CellFile(out, protocol.key, scene.name, contender.label, seed) for contender in contenders]
        lanes = [Lane(start, contender, order, file) for order, (contender, file) in enumerate(zip(contenders, files))]
        group = _Group(start, lanes, on_progress or (lambda progress: None), should_stop or (lambda: False))
        return group.run(save_every)


class _Group:
    """The cells of one scene and seed, each in its lane."""

    def __init__(self, start: Start, lanes: list[Lane], report: Callable[[GroupProgress], None], stop: Callable[[], bool]) -> None:
        self.start, self.lanes, self.report, self.stop = start, lanes, report, stop

    def run(self, save_every: float) -> bool:
        """To the end of all cells; False if stopped."""
        self._tell(None)
        for lane in self.lanes:
            if not lane.ended:
                lane.begin()
                if lane.ended:
                    self._tell(lane)
                if self.stop():  # nothing lost: what has begun goes on from its start, or from the checkpoint that it had
                    return False
        turn, saved, order, first = 0.0, self._seconds(), random.Random(self.start.seed), self.lanes[0]
        while waiting := [lane for lane in self.lanes if not lane.ended]:
            turn = max(turn, min(lane.seconds for lane in waiting)) + SLICE_SECONDS
            for lane in order.sample(waiting, len(waiting)):
                if self._reference_failed():
                    lane.fail(RuntimeError(f"{first.contender.label} failed, whose time is the budget of all"))
                else:
                    measured = first.reference and not first.ended and lane is not first  # then nobody is ahead of the measure of all
                    lane.run_until(min(turn, first.seconds) if measured else turn, self._limit(), self.stop)
                self._tell(lane)
                if self.stop():
                    self._save()
                    return False
            if self._seconds() - saved >= save_every:
                self._save()
                saved = self._seconds()
        return True

    def _limit(self) -> float | None:
        """Seconds that every run gets, as far as they are known yet."""
        budget, reference = self.start.protocol.budget, self.lanes[0]
        if budget.reference is None or not reference.ended or not reference.steps:
            return budget.seconds
        return reference.seconds * budget.steps / reference.steps  # one that diverged would have gone on at its pace

    def _reference_failed(self) -> bool:
        """Whether there is no time to measure the others by."""
        first = self.lanes[0]
        return first.reference and first.ended and (first.status == "failed" or not first.steps)

    def _seconds(self) -> float:
        return sum(lane.seconds for lane in self.lanes)

    def _save(self) -> None:
        for lane in self.lanes:
            lane.save()

    def _tell(self, lane: Lane | None) -> None:
        first, limit = self.lanes[0], self._limit()
        if limit is None and first.reference and first.steps:
            limit = first.seconds * self.start.protocol.budget.steps / first.steps  # at its pace until now
        lanes = tuple(each.progress(limit) for each in self.lanes)
        self.report(GroupProgress(self.start.scene.name, self.start.seed, lanes, lane.contender.label if lane and lane.ended else None))

"""Running a comparison: all optimizers of one scene and seed side by side in this process, in short slices, from the same start with the same views.

Slices are what makes the clocks fair: whatever else the machine does hurts all alike. Seconds count optimization only; the first steps, which
import, allocate and start threads, are made once and thrown away before.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from ..errors import CheckpointError, OptionError, SaveError
from ..fit import FitRun, rendered
from ..fit.checkpoint import fingerprint, has_checkpoint, rule_fingerprint
from ..fit.files import atomic_write
from ..gaussians import Gaussians, init_from_points
from ..machine import commit, machine
from ..scenes import Scene
from .page import png
from .protocol import SLICE_SECONDS, WARM_UP_STEPS, Contender, Protocol, file_name, is_mark, parse_contenders, passed_mark
from .store import CellFile, Point
from .views import with_views


def run_bench(
    scenes: Iterable[Scene],
    optimizers: Sequence[str],
    protocol: Protocol,
    out: Path,
    *,
    seeds: int = 1,
    command: Sequence[str] = (),
    save_every: float = 30.0,
    on_progress: Callable[[str, bool], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> bool:
    """Run every cell (scene, optimizer, seed) that is not finished in `out` yet.

    Args:
        scenes: loaded as `protocol` says (long side, held-out photos); may be a generator, one is in memory at a time.
        optimizers: names as for `Contender.parse`.
        seeds: so many, from 0.
        command: written into the results, so that a reader can repeat them.
        save_every: seconds between checkpoints of the runs under way.
        on_progress: (text, whether a cell has just ended).
        should_stop: asked before every step; if true, everything is saved and the next call goes on.

    Returns:
        False if it was stopped.

    Raises:
        OptionError, CheckpointError: an optimizer cannot be made, or a finished cell in `out` is of other photos or other weights.
        SaveError: the results cannot be written.

    An optimizer that fails or diverges is a row of the results and not an error.
    """
    contenders = parse_contenders(list(optimizers), protocol.budget)
    if seeds < 1:
        raise OptionError(f"seeds must be at least 1, got {seeds}")
    progress, stop = on_progress or (lambda text, ended: None), should_stop or (lambda: False)
    about = {"machine": machine(), "commit": commit(), "command": list(command)}
    known: set[str] = set()
    for loaded in scenes:
        if loaded.name in known:
            raise OptionError(f"two scenes are called {loaded.name}: rename one folder, results are stored by name")
        known.add(loaded.name)
        folder = out / protocol.key / file_name(loaded.name)
        scene = with_views(loaded, protocol.context_views, folder / "views.json")
        shown = scene.test_idx[len(scene.test_idx) // 2]
        photo = folder / "photo.png"
        if not photo.exists():
            atomic_write(photo, png(scene.image(shown)))
        for seed in range(seeds):
            start = init_from_points(scene.points, scene.colors, max_points=protocol.max_points, generator=torch.Generator().manual_seed(seed))
            group = _Group(scene, start, protocol, contenders, seed, out, about, shown if seed == 0 else None)
            if not group.run(progress, stop, save_every):
                return False
    return True


class _Group:
    """The cells of one scene and seed."""

    def __init__(
        self, scene: Scene, start: Gaussians, protocol: Protocol, contenders: list[Contender], seed: int, out: Path, about: dict, shown: int | None
    ) -> None:
        self.scene, self.protocol, self.seed = scene, protocol, seed
        self.lanes = [_Lane(scene, start, protocol, contender, order, seed, out, about, shown) for order, contender in enumerate(contenders)]

    def run(self, progress: Callable[[str, bool], None], stop: Callable[[], bool], save_every: float) -> bool:
        """To the end of all cells; False if stopped."""
        waiting = [lane for lane in self.lanes if not lane.ended]
        for lane in waiting:
            lane.begin()
        turn = 0.0
        saved = sum(lane.seconds for lane in self.lanes)
        while waiting := [lane for lane in self.lanes if not lane.ended]:
            turn = max(turn, min(lane.seconds for lane in waiting)) + SLICE_SECONDS
            for lane in waiting:
                if self._reference_failed():
                    lane.fail(RuntimeError(f"{self.lanes[0].contender.label} failed, whose time is the budget of all"))
                else:
                    lane.run_until(turn, self._limit(), stop)
                if lane.ended:
                    progress(f"{self.scene.name} seed {self.seed}  {lane.text()}", True)
                if lane is self.lanes[0] and self.protocol.budget.reference:
                    turn = min(turn, lane.seconds) if lane.ended else lane.seconds  # nobody is ahead of the measure of all
                if stop():
                    self._save()
                    return False
            progress(f"{self.scene.name} seed {self.seed}  " + "  ".join(lane.text() for lane in self.lanes), False)
            now = sum(lane.seconds for lane in self.lanes)
            if now - saved >= save_every:
                self._save()
                saved = now
        return True

    def _limit(self) -> float | None:
        """Seconds that every run gets, as far as they are known yet."""
        budget, reference = self.protocol.budget, self.lanes[0]
        if budget.reference is None or not reference.ended:
            return budget.seconds
        return reference.seconds * budget.steps / reference.steps  # one that diverged would have gone on at its pace

    def _reference_failed(self) -> bool:
        """Whether there is no time to measure the others by."""
        return self.protocol.budget.reference is not None and self.lanes[0].ended and (self.lanes[0].status == "failed" or not self.lanes[0].steps)

    def _save(self) -> None:
        for lane in self.lanes:
            lane.save()


class _Lane:
    """One cell under way, or finished before."""

    def __init__(
        self,
        scene: Scene,
        start: Gaussians,
        protocol: Protocol,
        contender: Contender,
        order: int,
        seed: int,
        out: Path,
        about: dict,
        shown: int | None,
    ) -> None:
        """`order`: place among the contenders, 0 is the reference of a budget that has one; `shown`: the photo whose renders are kept."""
        self.scene, self.start, self.protocol, self.contender, self.seed, self.shown = scene, start, protocol, contender, seed, shown
        self.file = CellFile(out, protocol.key, scene.name, contender.label, seed)
        self.reference = protocol.budget.reference is not None and order == 0
        self.fit: FitRun | None = None
        rule = contender.make()
        identity = {**fingerprint(scene, start), **rule_fingerprint(rule)}
        old = self.file.read()
        self.ended = old is not None and old.finished
        self.seconds, self.steps, self.status, self.quality = 0.0, 0, "waiting", ""
        if self.ended:
            if old.header["identity"] != identity:
                changed = next(key for key, value in identity.items() if old.header["identity"].get(key) != value)
                raise CheckpointError(f"{self.file.path} holds a result with other values of {changed}: give another --out, or delete that file")
            self.seconds, self.steps, self.status = old.end["seconds"], old.end["steps"], old.status
        sizes = sorted({scene.size(i) for i in range(len(scene))})
        self.header = {
            "protocol": protocol.describe(),
            "scene": {"name": scene.name, "photo_sizes": sizes, "context": len(scene.train_idx), "held_out": len(scene.test_idx),
                      "gaussians": len(start), "shown_photo": None if shown is None else scene.image_names[shown]},
            "optimizer": {"label": contender.label, "spec": contender.spec, "order": order},
            "seed": seed,
            "identity": identity,
            **about,
        }  # fmt: skip

    def begin(self) -> None:
        """Warm up, then start the cell or go on from its checkpoint."""
        resume = has_checkpoint(self.file.checkpoint) and self.file.path.exists() and self.file.read().end is None
        if not resume:
            self.file.drop_checkpoint()
            self.file.append("cell", **self.header, load=_load_average())
        try:
            self._make_run(None, False, WARM_UP_STEPS)
            for _ in range(WARM_UP_STEPS):
                self.fit.advance()
            budget = self.protocol.budget
            self._make_run(self.file.checkpoint, resume, None if budget.reference and not self.reference else budget.steps)
        except (SaveError, CheckpointError):
            raise
        except Exception as error:  # whatever an optimizer of someone's own may raise: it is a row of the table
            self.fail(error)
            return
        if resume:
            self.file.append("rewind", step=self.fit.step, machine=self.header["machine"], commit=self.header["commit"], load=_load_average())
        self._update()

    def _make_run(self, checkpoint: Path | None, resume: bool, steps: int | None) -> None:
        self.fit = FitRun(
            self.scene,
            self.start,
            self.contender.make(),
            steps=steps,
            horizon=self.protocol.budget.steps,
            views_per_step=self.protocol.views_per_step,
            seed=self.seed,
            checkpoint=checkpoint,
            resume=resume,
        )

    def run_until(self, turn: float, limit: float | None, stop: Callable[[], bool]) -> None:
        """Steps until the run's own clock shows `turn` seconds or the run is over. `limit`: seconds that end it."""
        if not self.reference:
            self.fit.max_seconds = limit
        try:
            while not stop():
                if (self.fit.step == 0 and not self.fit.curve) or self.fit.finished:
                    self._score()
                if self.fit.finished or self.fit.seconds >= turn:
                    break
                before = self.fit.seconds
                self.fit.advance()
                if self.fit.diverged:
                    self.file.append("rewind", step=self.fit.step)
                elif is_mark(self.fit.step) or passed_mark(before, self.fit.seconds):
                    self._score()
        except SaveError:
            raise
        except Exception as error:  # see begin
            self.fail(error)
            return
        self._update()
        if self.fit.finished:
            self._end("diverged" if self.fit.diverged else "done")

    def _score(self) -> None:
        """Append the quality of now, with a picture where it is kept."""
        fit = self.fit
        if not fit.evaluate():
            return
        point = fit.curve[-1]
        picture = None
        if self.shown is not None:
            _, image, _ = next(rendered(self.scene, fit.gaussians, [self.shown]))
            path = self.file.picture(fit.step)
            atomic_write(path, png(image))
            picture = path.name
        row = Point(fit.step, fit.seconds, fit.cpu_seconds, fit.update_seconds, point.psnr, point.ssim, picture)
        self.file.append("point", **asdict(row))
        self.quality = f"{point.psnr:.2f} dB"

    def _update(self) -> None:
        self.seconds, self.steps = self.fit.seconds, self.fit.step

    def fail(self, error: Exception) -> None:
        """End the cell with what went wrong."""
        if self.fit is not None:
            self._update()
        frames = traceback.extract_tb(error.__traceback__)[-1:]
        self._end("failed", error=f"{type(error).__name__}: {error}", where=" ".join(f"{frame.filename}:{frame.lineno}" for frame in frames))

    def _end(self, status: str, **more: object) -> None:
        clocks = {"cpu_seconds": self.fit.cpu_seconds, "update_seconds": self.fit.update_seconds} if self.fit else {}
        self.file.append("end", status=status, steps=self.steps, seconds=self.seconds, **clocks, load=_load_average(), **more)
        self.file.drop_checkpoint()
        self.ended, self.status, self.fit = True, status, None

    def save(self) -> None:
        if self.fit is not None and not self.ended:
            self.fit.save()

    def text(self) -> str:
        """For the progress line: learned 120 steps 8.1 s 24.31 dB"""
        status = "" if self.status in ("waiting", "done") else f" {self.status}"
        return f"{self.contender.label} {self.steps} steps {self.seconds:.1f} s {self.quality}{status}"


def _load_average() -> float | None:
    """Processes that wanted the processor in the last minute: above the number of cores, seconds are those of a crowded machine."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None

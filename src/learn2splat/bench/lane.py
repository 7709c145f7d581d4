"""One cell under way: an optimizer on a scene from a seed, advanced in slices by its group (`run.py`)."""

from __future__ import annotations

import os
import statistics
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace

from ..errors import CheckpointError, SaveError
from ..files import atomic_write
from ..fitting import FitRun, Plan, flat_plan, rendered
from ..fitting.checkpoint import fingerprint, has_checkpoint, rule_fingerprint
from ..gaussians import Gaussians
from ..scenes import Scene
from .lpips import perceptual_scores
from .memory import PeakMemory, TurnsMemory
from .metrics import quality_as
from .page import png
from .protocol import MEMORY_RUNS, WARM_UP_STEPS, Contender, Protocol, is_mark, passed_mark
from .store import CellFile, Point


@dataclass(frozen=True)
class LaneProgress:
    """Where a cell is. `status`: waiting, running, done, diverged or failed; `fraction` of its budget; `psnr` as last scored, or None."""

    label: str
    status: str
    steps: int
    seconds: float
    fraction: float
    psnr: float | None


@dataclass(frozen=True)
class Start:
    """What all optimizers of a group have in common. `about`: machine, commit, command; `shown`: the photo whose renders are kept, or None."""

    scene: Scene
    gaussians: Gaussians
    seed: int
    protocol: Protocol
    about: dict
    shown: int | None
    step_seconds: float | None = None  # measured, for plans whose budget is a time


class Lane:
    """One cell under way, or finished before. `ended`, `status`, `steps` and `seconds` say how far it is."""

    def __init__(self, start: Start, contender: Contender, order: int, file: CellFile) -> None:
        """`order`: place among the contenders; 0 is the reference of a budget that has one.

        Raises:
            CheckpointError: the file holds a cell of other photos, weights or code.
        """
        rule = contender.make()
        start = replace(start, scene=rule.world.scene(start.scene), gaussians=rule.world.splat(start.gaussians, start.scene))
        self.start, self.contender, self.file = start, contender, file
        self.reference = start.protocol.budget.reference is not None and order == 0
        self.fit: FitRun | None = None
        self.memory: int | None = None  # peak bytes: of a run with a plan over its whole length, else of steps of the warm-up
        self._turns: TurnsMemory | None = TurnsMemory(start.gaussians.means.device) if start.protocol.planned else None
        self.plan = start.protocol.plan(start.scene, len(start.gaussians), start.step_seconds, contender)
        identity = {**fingerprint(start.scene, start.gaussians), **rule_fingerprint(rule)}
        old = file.read()
        self.ended = old is not None and old.finished
        self.seconds, self.steps, self.status, self.psnr = 0.0, 0, "waiting", None
        if old is not None and old.status != "failed" and old.header["identity"] != identity:  # what failed is mended, and tried again
            changed = next(key for key, value in identity.items() if old.header["identity"].get(key) != value)
            raise CheckpointError(f"{file.path} holds a result with other values of {changed}: give another --out, or delete that file")
        if self.ended:
            self.seconds, self.steps, self.status = old.end["seconds"], old.end["steps"], old.status
            self.psnr = old.points[-1].psnr if old.points else None
        self.header = {
            "protocol": start.protocol.describe(),
            "scene": _describe(start),
            "optimizer": {"label": contender.label, "spec": contender.spec, "order": order},
            "seed": start.seed,
            "identity": identity,
            **({"plan": self.plan.to_json()} if start.protocol.planned else {}),
            **start.about,
        }

    def begin(self) -> None:
        """Warm up, measure memory, then start the cell or go on from its checkpoint."""
        resume = has_checkpoint(self.file.checkpoint) and (old := self.file.read()) is not None and old.end is None
        if not resume:
            self.file.drop_checkpoint()
            self.file.append("cell", **self.header, load=load_average())
        try:
            self._throw_away_steps()
            if self._turns is None:
                self.memory = self._measure_memory()
            with self._turns or nullcontext():
                self.fit = self._make_run(self.plan, resume)
        except (SaveError, CheckpointError):
            raise
        except Exception as error:  # whatever an optimizer of someone's own may raise: it is a row of the table
            self.fail(error)
            return
        if resume:
            self.file.append("rewind", step=self.fit.step, machine=self.header["machine"], commit=self.header["commit"], load=load_average())
        self._update()
        self.status = "running"

    def _measure_memory(self) -> int | None:
        """Median over several goes: on a CPU one alone is off by up to a third, for freed memory is or is not at hand again."""
        peaks = []
        for _ in range(MEMORY_RUNS):
            with PeakMemory(self.start.gaussians.means.device) as peak:
                self._throw_away_steps()
            peaks.append(peak.bytes)
        return None if None in peaks else int(statistics.median(peaks))

    def _throw_away_steps(self) -> None:
        plan = self.plan
        last = plan.stages[-1]
        run = self._make_run(flat_plan(last.long_side, steps=WARM_UP_STEPS, seconds=None, views_per_step=last.views_per_step))
        for _ in range(WARM_UP_STEPS):
            run.advance()

    def _make_run(self, plan: Plan, resume: bool | None = None) -> FitRun:
        """`resume`: None for a run that keeps no checkpoint."""
        return FitRun(
            self.start.scene,
            self.start.gaussians,
            self.contender.make(),
            plan,
            horizon=self.start.protocol.budget.steps,
            seed=self.start.seed,
            checkpoint=None if resume is None else self.file.checkpoint,
            resume=bool(resume),
        )

    def run_until(self, turn: float, limit: float | None, stop: Callable[[], bool]) -> None:
        """Steps until the run's own clock shows `turn` seconds or the run is over. `limit`: seconds that end it."""
        if not self.reference:
            self.fit.max_seconds = limit
        try:
            with self._turns or nullcontext():
                self._advance(turn, stop)
            self._update()
            if self.fit.finished:
                self._end("diverged" if self.fit.diverged else "done", **perceptual_scores(self.start.scene, self.fit.gaussians))
        except SaveError:
            raise
        except Exception as error:  # see begin
            self.fail(error)

    def _advance(self, turn: float, stop: Callable[[], bool]) -> None:
        while not stop():
            if (self.fit.step == 0 and not self.fit.curve) or self.fit.finished:
                self._score()
            if self.fit.finished or self.fit.seconds >= turn:
                break
            before, tenth = self.fit.seconds, self._tenth()
            self.fit.advance()
            if self.fit.diverged:
                self.file.append("rewind", step=self.fit.step)
            elif is_mark(self.fit.step) or passed_mark(before, self.fit.seconds) or self._tenth() > tenth:
                self._score()

    def _tenth(self) -> int:
        """Tenths of the plan that are over: marks of a run that goes from coarse to fine."""
        return int(10 * self.fit.progress) if self.start.protocol.planned else 0

    def _score(self) -> None:
        """Append the quality of now, with a picture where it is kept."""
        fit, shown = self.fit, self.start.shown
        if not fit.evaluate():
            return
        point = fit.curve[-1]
        picture = None
        if shown is not None:
            _, image, _ = next(rendered(self.start.scene, fit.gaussians, [shown]))
            path = self.file.picture(fit.step)
            atomic_write(path, png(image))
            picture = path.name
        metrics = self.start.protocol.metrics
        psnr, ssim = (point.psnr, point.ssim) if metrics == "ours" else quality_as(metrics, self.start.scene, fit.gaussians)
        row = Point(fit.step, fit.seconds, fit.cpu_seconds, fit.update_seconds, psnr, ssim, picture, point.num_gaussians)
        self.file.append("point", **asdict(row))
        self.psnr = psnr

    def _update(self) -> None:
        self.seconds, self.steps = self.fit.seconds, self.fit.step
        if self._turns is not None:
            self.memory = self._turns.bytes

    def fail(self, error: Exception) -> None:
        """End the cell with what went wrong."""
        if self.fit is not None:
            self._update()
        frames = traceback.extract_tb(error.__traceback__)[-1:]
        self._end("failed", error=f"{type(error).__name__}: {error}", where=" ".join(f"{frame.filename}:{frame.lineno}" for frame in frames))

    def _end(self, status: str, **more: object) -> None:
        names = ("cpu_seconds", "update_seconds", "growth_seconds")
        clocks = {name: getattr(self.fit, name) for name in names} if self.fit else {}
        values = {"status": status, "steps": self.steps, "seconds": self.seconds, **clocks, "peak_bytes": self.memory, "load": load_average()}
        self.file.append("end", **values, **more)
        self.file.drop_checkpoint()
        self.ended, self.status, self.fit = True, status, None

    def save(self) -> None:
        if self.fit is not None and not self.ended:
            self.fit.save()

    def progress(self, limit: float | None) -> LaneProgress:
        """`limit` as for `run_until`."""
        steps = self.start.protocol.budget.steps if self.reference or self.start.protocol.budget.reference is None else None
        parts = [self.steps / steps if steps else 0.0, self.seconds / limit if limit else 0.0]
        return LaneProgress(self.contender.label, self.status, self.steps, self.seconds, 1.0 if self.ended else min(1.0, max(parts)), self.psnr)


def _describe(start: Start) -> dict[str, object]:
    scene = start.scene
    return {
        "name": scene.name,
        "photo_sizes": sorted({scene.size(i) for i in range(len(scene))}),
        "context": len(scene.train_idx),
        "held_out": len(scene.test_idx),
        "gaussians": len(start.gaussians),
        "shown_photo": None if start.shown is None else scene.image_names[start.shown],
    }


def load_average() -> float | None:
    """Processes that wanted the processor in the last minute: above the number of cores, seconds are those of a crowded machine."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None

"""`learn2splat demo`: fit the built-in scene with several optimizers, the same seconds for each; a table in the terminal and a page to look at.

They take turns, as in `bench`: what else runs on the machine slows all alike.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from ..bench import GroupProgress
from ..bench.lane import LaneProgress
from ..errors import OptionError
from ..files import atomic_write, locked
from ..fitting import FitRun, Plan, make_plan, rendered
from ..fitting.measure import measured_step_seconds
from ..gaussians import Gaussians, init_from_points
from ..optimizers import make_optimizer
from ..scenes import Scene, make_procedural_scene
from .bench_progress import BenchProgress
from .common import Command, Interrupted, machine, machine_text, note, portable_command, stop_on_signals, versions_text, weights_text
from .demo_page import TITLE, DemoRun, Moment, demo_page, label
from .plan_table import plan_sentence
from .progress import duration
from .result import PLY, REPORT, save_gaussians

OPTIMIZERS = ("adam", "adam-auto", "learned")
WIDTH, HEIGHT, NUM_POINTS = 400, 300, 4000
SHOWN = (0, 1 / 15, 2 / 15, 4 / 15, 8 / 15, 1)  # shares of the time: with 15 s the start, 1, 2, 4, 8 and 15 s
SCORED = (*SHOWN, 1 / 30, 0.4, 0.75)  # more points for the curves
SLICE = 0.25  # seconds of a turn


@dataclass(frozen=True)
class Demo(Command):
    """Fit the built-in scene with three optimizers and write a report."""

    out: Path = Path("out/demo")
    """Folder for report.html and the splat of the last optimizer."""
    seconds: float = 15.0
    """Seconds of optimization for each optimizer."""
    seed: int = 0
    """Fixes the scene and everything that is random but the number of steps."""

    def run(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise OptionError(f"--seconds must be positive, got {self.seconds}")
        report = self.out / REPORT
        if report.exists():
            if f"<title>{TITLE}</title>" not in report.read_text(errors="replace"):
                raise OptionError(f"{report} is not a report of learn2splat demo: choose another folder for --out")
        elif (self.out / PLY).exists():
            raise OptionError(f"{self.out / PLY} is not of learn2splat demo: choose another folder for --out")
        with locked(self.out), stop_on_signals() as should_stop:
            scene, start, plan, runs = race(self.seed, self.seconds, should_stop)
            marks = [share * self.seconds for share in SHOWN]
            atomic_write(report, demo_page(scene, start, runs, marks, headline(runs), self._facts(scene, plan)))
            save_gaussians(self.out, scene, runs[-1].result.gaussians)
        if should_stop():
            raise Interrupted(f"stopped; {report} shows what was done until then")
        _print_table(runs, marks)
        print(f"Report: {report}")
        print(f"Splat of {runs[-1].name}: {self.out / PLY}, for any splat viewer, such as superspl.at/editor")

    def _facts(self, scene: Scene, plan: Plan) -> dict[str, str]:
        here = machine()
        return {
            "command": " ".join(["learn2splat", *portable_command(sys.argv[1:])]),
            "machine": machine_text(here),
            "versions": versions_text(here),
            "scene": f"{scene.name}, seed {self.seed}: {len(scene)} photos of {WIDTH}x{HEIGHT} px, {len(scene.points)} points",
            "learned": f"weights {weights_text('learned')}" if weights_text("learned") else "untrained: the steps of the hand-made rule nominal",
            "protocol": f"every 8th photo held out; L1 and SSIM loss; density control {plan.density}; the time is that of optimization only",
        }


def race(seed: int, seconds: float, should_stop: Callable[[], bool] = lambda: False) -> tuple[Scene, Gaussians, Plan, list[DemoRun]]:
    """All optimizers on the built-in scene, in turns: the scene, their start, their plan, and what became of them."""
    note("making the scene")
    scene = make_procedural_scene(seed, layout="orbit", width=WIDTH, height=HEIGHT, num_points=NUM_POINTS)
    start = init_from_points(scene.points, scene.colors, generator=torch.Generator().manual_seed(seed))
    sizes = [scene.size(i) for i in scene.train_idx]
    plan = make_plan(sizes, len(start), seconds=seconds, step_seconds=measured_step_seconds(scene, start))
    note(plan_sentence(plan, scene, len(start)))
    lanes = [_Lane(name, scene, start, plan, seed, seconds) for name in OPTIMIZERS]
    with BenchProgress(1) as progress:
        while (going := [lane for lane in lanes if not lane.run.finished]) and not should_stop():
            lane = min(going, key=lambda lane: lane.run.seconds)
            lane.take_turn()
            progress(GroupProgress(scene.name, seed, tuple(lane.progress for lane in lanes), lane.name if lane.run.finished else None))
    return scene, start, plan, [lane.result() for lane in lanes]


class _Lane:
    """One optimizer's run, looked at whenever a mark is passed."""

    def __init__(self, name: str, scene: Scene, start: Gaussians, plan: Plan, seed: int, seconds: float) -> None:
        self.name, self.scene = name, scene
        self.run = FitRun(scene, start, make_optimizer(name), plan, seed=seed)
        self.marks = sorted({share * seconds for share in SCORED})
        self.moments: list[Moment] = []
        self._look()

    @property
    def progress(self) -> LaneProgress:
        status = "diverged" if self.run.diverged else "done" if self.run.finished else "running"
        return LaneProgress(self.name, status, self.run.step, self.run.seconds, self.run.progress, self.run.curve[-1].psnr)

    def take_turn(self) -> None:
        until = self.run.seconds + SLICE
        while self.run.seconds < until and not self.run.finished:
            self.run.advance()
            self._look()

    def result(self) -> DemoRun:
        """Of a run that was stopped, too."""
        self.run.evaluate()
        return DemoRun(self.name, self.run.result(interrupted=not self.run.finished), self.moments)

    def _look(self) -> None:
        """Score and render, if a mark has been passed."""
        passed = [mark for mark in self.marks if self.run.seconds >= mark or self.run.finished]
        if passed:
            self.run.evaluate()
            renders = {i: render for i, render, _ in rendered(self.scene, self.run.gaussians, self.scene.test_idx)}
            self.moments += [Moment(mark, self.run.curve[-1], [renders[i] for i in self.scene.test_idx]) for mark in passed]
            self.marks = self.marks[len(passed) :]


def headline(runs: list[DemoRun]) -> str:
    """What the numbers say: where every run ends, and when the last passes the final PSNR of the best of the others."""
    *others, last = runs
    longest = max(run.result.seconds for run in runs)
    text = f"After {duration(longest)}: {', '.join(f'{run.name} {run.result.psnr:.2f} dB' for run in runs)}."
    rival = max(others, key=lambda run: run.result.psnr)
    passed = next((point for point in last.result.curve if point.psnr >= rival.result.psnr), None)
    if passed is None or passed.seconds >= rival.result.seconds:
        return text
    return f"{text} What {rival.name} has at the end, {last.name} had after {duration(passed.seconds)}."


def _print_table(runs: list[DemoRun], marks: list[float]) -> None:
    table = Table(title="Held-out PSNR (dB) of the built-in scene after so many seconds", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("optimizer", no_wrap=True)
    for name in (*map(label, marks), "SSIM", "steps", "Gaussians"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        values = [run.psnr_at(mark) for mark in marks]
        row = ["-" if value is None else f"{value:.2f}" for value in values]
        table.add_row(run.name, *row, f"{run.result.ssim:.3f}", str(run.result.steps), str(len(run.result.gaussians)))
    Console().print(table)

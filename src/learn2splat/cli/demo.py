"""`learn2splat demo`: fit the built-in scene with several optimizers; a table in the terminal and a page to look at."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from ..errors import OptionError
from ..files import atomic_write
from ..fit import Progress, fit, flat_plan, rendered, score
from ..gaussians import Gaussians, init_from_points
from ..losses import psnr
from ..optimizers import make_optimizer
from ..optimizers.weights import packaged_weights
from ..scenes import Scene, make_procedural_scene
from .common import Command, Interrupted, machine, note, portable_command, stop_on_signals
from .demo_page import TITLE, DemoRun, render_report
from .progress import FitProgress

OPTIMIZERS = ("adam", "adam-auto", "learned")
EVAL_STEPS = (0, 3, 10, 30, 100, 200, 300)
SHOWN_STEPS = (0, 10, 30, 100, 300)
WIDTH, HEIGHT, NUM_POINTS = 160, 120, 2500
MAX_SECONDS = 45.0  # Per optimizer, so that the demo ends soon on any machine.


@dataclass(frozen=True)
class Demo(Command):
    """Fit the built-in scene with three optimizers and write a report."""

    out: Path = Path("out/demo")
    """Folder for report.html."""
    steps: int = 300
    """Steps of each optimizer."""
    seed: int = 0
    """Fixes the scene and everything that is random."""

    def run(self) -> None:
        if self.steps < 1:
            raise OptionError(f"--steps must be at least 1, got {self.steps}")
        report = self.out / "report.html"
        if report.exists() and TITLE not in report.read_text(errors="replace"):
            raise OptionError(f"{report} is not a report of learn2splat demo: choose another folder for --out")
        note("making the scene")
        scene = make_procedural_scene(self.seed, layout="orbit", width=WIDTH, height=HEIGHT, num_points=NUM_POINTS)
        start = init_from_points(scene.points, scene.colors, generator=torch.Generator().manual_seed(self.seed))
        shown = [step for step in SHOWN_STEPS if step < self.steps] + [self.steps]
        runs = [self._fit(scene, start, name, shown) for name in OPTIMIZERS]
        _print_table(runs, shown)
        atomic_write(report, render_report(scene, runs, shown, headline(runs), self._facts(scene)))
        print(f"Report: {report}")

    def _fit(self, scene: Scene, start: Gaussians, name: str, shown: list[int]) -> DemoRun:
        first = scene.test_idx[:1]
        stages: dict[int, tuple[torch.Tensor, float]] = {}

        plan = flat_plan(WIDTH, steps=self.steps, seconds=MAX_SECONDS, views_per_step=8)
        with stop_on_signals() as should_stop, FitProgress(name, plan) as bar:

            def on_step(progress: Progress) -> None:
                bar(progress)
                if progress.step in shown and progress.step not in stages:
                    _, render, photo = next(rendered(scene, progress.gaussians, first))
                    stages[progress.step] = render, float(psnr(render[None], photo[None])[0])

            result = fit(
                scene,
                start,
                make_optimizer(name),
                plan=plan,
                seed=self.seed,
                eval_at=EVAL_STEPS,
                on_step=on_step,
                should_stop=should_stop,
            )
        if result.interrupted:
            raise Interrupted("stopped; the demo writes its report only at the end")
        renders = {i: render for i, render, _ in rendered(scene, result.gaussians, scene.test_idx)}
        return DemoRun(name, result, score(scene, result.gaussians), [renders[i] for i in scene.test_idx], stages)

    def _facts(self, scene: Scene) -> dict[str, str]:
        here = machine()
        untrained = "takes the steps of the hand-made rule nominal: no trained weights are in this package"
        return {
            "command": " ".join(["learn2splat", *portable_command(sys.argv[1:])]),
            "processor": f"{here['cpu']}, {here['threads']} of {here['cores']} cores",
            "versions": f"learn2splat {here['learn2splat']}, torch {here['torch']}, Python {here['python']}, {here['system']}",
            "scene": f"{scene.name}, seed {self.seed}: {len(scene)} photos, {len(scene.points)} points",
            "learned": untrained if packaged_weights() is None else f"weights {packaged_weights()}",
            "protocol": "every 8th photo held out; 8 photos per step; L1 and SSIM loss; no density control; time is optimization only",
        }


def headline(runs: list[DemoRun]) -> str:
    """What the numbers say: where every run ends, and when the last passes the final PSNR of the first."""
    ends = ", ".join(f"{run.name} reaches {run.result.psnr:.2f} dB in {run.result.steps} steps" for run in runs)
    first, last = runs[0], runs[-1]
    passed = next((point for point in last.result.curve if point.psnr >= first.result.psnr), None)
    if passed is None or passed.step >= first.result.steps:
        return f"{ends}."
    return f"{ends}; {last.name} is past {first.name}'s final value by step {passed.step}."


def _print_table(runs: list[DemoRun], shown: list[int]) -> None:
    table = Table(title="Held-out PSNR (dB) of the built-in scene after so many steps", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("optimizer", no_wrap=True)
    for name in (*map(str, shown[:-1]), "end", "SSIM", "steps", "s", "ms/step"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        values = [*(run.psnr_at(step) for step in shown[:-1]), run.result.psnr]
        row = ["-" if value is None else f"{value:.2f}" for value in values]
        table.add_row(run.name, *row, f"{run.result.ssim:.3f}", str(run.result.steps), f"{run.result.seconds:.1f}", f"{run.ms_per_step:.0f}")
    Console().print(table)

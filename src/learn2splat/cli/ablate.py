"""`learn2splat ablate`: meta-train variants with and without each ingredient, and show what becomes of long runs."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from ..errors import OptionError
from ..files import atomic_write, is_ours, locked
from ..meta import find_scenes
from ..meta.ablation import MARKS, OPTIONS, WRITER, Outcome, ablate, table
from ..scenes import Scene, load_scene, make_procedural_scene
from ..scenes.procedural import LAYOUTS
from .common import Command, Interrupted, note, stop_on_signals
from .train import TrainProgress

Globs = Annotated[tuple[str, ...], tyro.conf.arg(metavar="GLOB [GLOB ...]", help_behavior_hint="")]
Paths = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="SCENE [SCENE ...]", help_behavior_hint="")]
LONG_SIDE = 96  # px, of the scenes of the evaluation
FIRST_SEED = 500  # Of procedural scenes to evaluate on; meta-training has those from 1000 on.


@dataclass(frozen=True)
class Ablate(Command):
    """Meta-train variants without and with buffer, rollout, state scale and losses, by both schemes, and compare what they do on long runs.

    Stop it at any moment: the same command goes on. Writes ablation.md and ablation.png."""

    out: Path
    """Folder for the trained weights, the table and the plot."""
    data: Globs = ()
    """Folders of scenes to learn from besides procedural ones, as glob patterns in quotes."""
    scenes: Paths = ()
    """Scenes to evaluate on, none of --data. Default: three procedural ones."""
    meta_steps: int = 150
    """Updates of the weights, per variant."""
    steps: int = 2000
    """Steps of each fit."""
    seeds: int = 3
    """Trainings per variant."""
    max_points: int = 1000
    """Gaussians of each fit at most."""

    def run(self) -> None:
        if min(self.meta_steps, self.seeds, self.max_points) < 1 or not 10 <= self.steps <= MARKS[-1]:
            raise OptionError(f"--meta-steps, --seeds and --max-points must be at least 1, --steps from 10 to {MARKS[-1]}")
        is_ours(self.out, OPTIONS, WRITER)
        torch.set_num_threads(1)  # as for train: tensors are small
        data = find_scenes(self.data)
        shared = [path for path in self.scenes if path.resolve() in data]
        if shared:
            raise OptionError(f"{shared[0]} is in --data and in --scenes: weights are judged on scenes they have not seen")
        scenes = [load_scene(path, long_side=LONG_SIDE) for path in self.scenes] or _procedural()
        options = {"meta_steps": self.meta_steps, "steps": self.steps, "seeds": self.seeds, "max_points": self.max_points}
        with locked(self.out), stop_on_signals() as should_stop, TrainProgress(self.meta_steps) as progress:
            outcomes = ablate(self.out, scenes, data=data, say=note, on_step=progress, should_stop=should_stop, **options)
            stopped = should_stop()
            if outcomes:
                text = table(outcomes)
                atomic_write(self.out / "ablation.md", text + "\n")
                atomic_write(self.out / "ablation.png", plot(outcomes))
        if outcomes:
            print(text)
        if stopped:
            raise Interrupted(f"stopped; everything is saved in {self.out}, the same command goes on")


def _procedural() -> list[Scene]:
    size = {"width": LONG_SIDE, "height": 3 * LONG_SIDE // 4}
    return [make_procedural_scene(FIRST_SEED + i, layout=layout, num_views=24, num_points=2000, **size) for i, layout in enumerate(LAYOUTS)]


def plot(outcomes: list[Outcome]) -> bytes:
    """PNG: PSNR against the step, a line per variant, the range over seeds shaded."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(outcome.variant for outcome in outcomes):
        columns = list(zip(*(outcome.psnr for outcome in outcomes if outcome.variant == name)))
        points = [(mark, column) for mark, column in zip(MARKS, columns) if mark and None not in column]
        steps = [mark for mark, _ in points]
        (line,) = axes.plot(steps, [sum(column) / len(column) for _, column in points], label=name, marker=".")
        axes.fill_between(steps, [min(c) for _, c in points], [max(c) for _, c in points], color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xscale="log", xlabel="step", ylabel="held-out PSNR, dB")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()

"""The progress of a fit on stderr: a live bar in a terminal, a line now and then elsewhere (log files, pipes)."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from ..fit import Plan, Progress

PLAIN_LINE_EVERY = 10.0  # Seconds between two lines when stderr is no terminal, apart from evaluations.
TEXT_WIDTH, BAR_WIDTH = 90, 10  # Columns that the numbers need, and the bar at least.


class FitProgress:
    """A context manager; call it with every `Progress`."""

    def __init__(self, label: str, plan: Plan, console: Console | None = None) -> None:
        self.label, self.plan = label, plan
        self.console = console or Console(stderr=True)
        self.last_line = time.monotonic()
        self.points = 0
        room = self.console.width - TEXT_WIDTH - BAR_WIDTH  # in a narrow terminal the numbers matter more than the name
        self.bar = Bar(
            *([TextColumn("{task.description}")] if len(label) < room else []),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[text]}"),
            console=self.console,
            transient=True,
            expand=True,
        )
        self.task = self.bar.add_task(label, total=1.0, text="starting")

    def __enter__(self) -> FitProgress:
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def __call__(self, progress: Progress) -> None:
        if self.console.is_terminal:
            self.bar.update(self.task, completed=progress.progress, text=self._text(progress))
        elif len(progress.curve) != self.points or time.monotonic() - self.last_line >= PLAIN_LINE_EVERY:
            self.console.print(f"{self.label}  {self._text(progress)}", highlight=False, soft_wrap=True)
            self.last_line = time.monotonic()
        self.points = len(progress.curve)

    def _text(self, progress: Progress) -> str:
        """640 px  30000 Gaussians  step 120  12.3/60 s  loss 0.0712  held-out 24.31 dB"""
        limit = self.plan.seconds if self.plan.seconds is not None else self._expected(progress)
        total = "" if limit is None else f"/{'' if self.plan.seconds is not None else 'about '}{limit:.0f}"
        steps = "" if self.plan.steps is None else f"/{self.plan.steps}"
        words = [f"{self.plan.stages[progress.stage].long_side} px", f"{len(progress.gaussians)} Gaussians", f"step {progress.step}{steps}"]
        words.append(f"{progress.seconds:.1f}{total} s")
        if progress.step:
            words.append(f"loss {progress.loss:.4f}")
        if progress.curve:
            words.append(f"held-out {progress.curve[-1].psnr:.2f} dB")
        return "  ".join(words)

    def _expected(self, progress: Progress) -> float | None:
        """Seconds that a run with a number of steps will take, from those it has made: a step costs as its photos have pixels."""
        plan = self.plan
        if plan.steps is None or progress.step < 5:
            return None
        cost = [stage.views_per_step * stage.long_side**2 for stage in plan.stages]
        bounds = [0.0, *(stage.until for stage in plan.stages)]
        spent = sum(c * max(0.0, min(high, progress.progress) - low) for c, low, high in zip(cost, bounds, bounds[1:]))
        return progress.seconds * sum(c * (high - low) for c, low, high in zip(cost, bounds, bounds[1:])) / spent

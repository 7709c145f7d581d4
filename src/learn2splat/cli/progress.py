"""The progress of a fit on stderr: a live bar in a terminal, a line now and then elsewhere (log files, pipes)."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from ..fit import Progress

PLAIN_LINE_EVERY = 10.0  # Seconds between two lines when stderr is no terminal, apart from evaluations.
TEXT_WIDTH, BAR_WIDTH = 70, 10  # Columns that the numbers need, and the bar at least.


class FitProgress:
    """A context manager; call it with every `Progress`."""

    def __init__(self, label: str, steps: int | None, max_seconds: float | None, console: Console | None = None) -> None:
        """`steps`, `max_seconds`: what ends the run; the bar shows whichever is nearer."""
        self.label, self.steps, self.max_seconds = label, steps, max_seconds
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
            self.bar.update(self.task, completed=self._fraction(progress), text=self._text(progress))
        elif len(progress.curve) != self.points or time.monotonic() - self.last_line >= PLAIN_LINE_EVERY:
            self.console.print(f"{self.label}  {self._text(progress)}", highlight=False, soft_wrap=True)
            self.last_line = time.monotonic()
        self.points = len(progress.curve)

    def _fraction(self, progress: Progress) -> float:
        parts = [progress.step / self.steps if self.steps else 0.0, progress.seconds / self.max_seconds if self.max_seconds else 0.0]
        return min(1.0, max(parts))

    def _text(self, progress: Progress) -> str:
        """step 120/300  12.3 s  9.8 steps/s  loss 0.0712  held-out 24.31 dB"""
        step = f"step {progress.step}" + (f"/{self.steps}" if self.steps is not None else "")
        elapsed = f"{progress.seconds:.1f}" + (f"/{self.max_seconds:g}" if self.max_seconds else "") + " s"
        words = [step, elapsed]
        if progress.step and progress.seconds:
            words += [f"{progress.step / progress.seconds:.1f} steps/s", f"loss {progress.loss:.4f}"]
        if progress.curve:
            words.append(f"held-out {progress.curve[-1].psnr:.2f} dB")
        return "  ".join(words)

"""The progress of a fit on stderr: a live bar in a terminal, a line now and then elsewhere (log files, pipes)."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from ..fitting import Plan, Progress
from .display import Display

WIDE, WIDEST = 115, 145  # Columns from which on a terminal has room for steps and for all there is; the bar takes what is left.
FIRST_ESTIMATE = 5  # Steps after which the time that is left can be told; the first are slower.
STEP_PIXELS = 20_000  # What a photo costs beside its pixels, in pixels; as in the plan.


class FitProgress(Display):
    """Call it with every `Progress`."""

    def __init__(self, label: str, plan: Plan, console: Console | None = None) -> None:
        super().__init__(console)
        self.label, self.plan = label, plan
        self.points = 0
        self.part: tuple[int, bool] | None = None  # of the run, in which steps take about the same time: stage, and whether it is averaged
        self.part_began = (0, 0.0, 0.0)  # step, seconds, work
        self.detail = (self.console.width >= WIDE) + (self.console.width >= WIDEST)
        self.live = Bar(
            *([TextColumn("{task.description}", markup=False)] if self.detail == 2 else []),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[text]}", markup=False),
            console=self.console,
            transient=True,
            expand=True,
        )
        self.task = self.live.add_task(label, total=1.0, text="starting")

    def __call__(self, progress: Progress) -> None:
        part = (progress.stage, progress.progress >= self.plan.average_from)
        if part != self.part:
            self.part, self.part_began = part, (progress.step, progress.seconds, self._work(progress.progress))
        if self.console.is_terminal:
            self.live.update(self.task, completed=progress.progress, text=self._text(progress, self.detail))
        elif len(progress.curve) != self.points or self.line_is_due():
            self.line(f"{self.label}  {self._text(progress, 2)}")
        self.points = len(progress.curve)

    def _text(self, progress: Progress, detail: int) -> str:
        """growing  320/640 px  12400 Gaussians  step 120/300  12 s, about 31 s left  loss 0.0712  held-out 24.31 dB; `detail`: 0 to 2."""
        plan = self.plan
        side, last = plan.stages[progress.stage].long_side, plan.stages[-1].long_side
        words = [phase(plan, progress), f"{side} px" if side == last else f"{side}/{last} px", f"{len(progress.gaussians)} Gaussians"]
        if detail:
            words.append(f"step {progress.step}" + ("" if plan.steps is None else f"/{plan.steps}"))
        left = self._left(progress, detail)
        words.append(", ".join(text for text in (duration(progress.seconds) if detail or not left else "", left) if text))
        if detail == 2 and progress.step:
            words.append(f"loss {progress.loss:.4f}")
        if progress.curve:
            words.append(f"{'held-out ' if detail else ''}{progress.curve[-1].psnr:.2f} dB")
        return "  ".join(word for word in words if word)

    def _left(self, progress: Progress, detail: int) -> str:
        """How long the run will go on: "48 s left" where the plan says so, "about 31 s left" where the steps so far do; empty before that."""
        plan = self.plan
        averaging = progress.progress >= plan.average_from
        if plan.open_ended and not averaging:
            return "until it no longer improves" if detail else "open end"
        by_clock = None if plan.seconds is None or plan.open_ended else max(0.0, plan.seconds - progress.seconds)
        step, seconds, work = self.part_began
        if progress.step - step < FIRST_ESTIMATE and not plan.open_ended:
            step, seconds, work = 0, 0.0, 0.0
        estimate = None
        if (plan.steps is not None or plan.open_ended) and progress.step - step >= FIRST_ESTIMATE and self._work(progress.progress) > work:
            done = self._work(progress.progress)
            estimate = (progress.seconds - seconds) * (self._work(1.0) - done) / (done - work)
        if by_clock is not None and (estimate is None or by_clock <= estimate):
            return f"{duration(by_clock)} left"
        return "" if estimate is None else f"about {duration(estimate)} left"

    def _work(self, progress: float) -> float:
        """What the plan has made until then, in pixels per progress: a step costs as its photos have pixels."""
        costs = [stage.views_per_step * (0.75 * stage.long_side**2 + STEP_PIXELS) for stage in self.plan.stages]
        bounds = [0.0, *(stage.until for stage in self.plan.stages)]
        return sum(cost * max(0.0, min(high, progress) - low) for cost, low, high in zip(costs, bounds, bounds[1:]))


def phase(plan: Plan, progress: Progress) -> str:
    """What happens at this moment, in a word; empty for runs of one phase."""
    if len(plan.stages) == 1 and not plan.growth and plan.average_from >= 1:
        return ""
    if progress.progress >= plan.average_from:
        return "averaging"
    return "growing" if plan.due(progress.progress) < len(plan.growth) else "refining"


def duration(seconds: float) -> str:
    """2.5 s, 48 s, 3 min 20 s, 1 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"

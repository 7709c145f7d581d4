"""The tables of a report, as text with marks: HTML, Markdown and the terminal show the same ones."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from . import stats
from .lpips import PERCEPTUAL
from .stats import Comparison, Pair
from .store import Cell

DASH = "–"
NOT_AVAILABLE = "n/a"
NOTES = {  # What columns mean that do not say it themselves.
    "PSNR": "dB on the held-out photos at the end of the budget, ± standard deviation over seeds (of the mean over scenes)",
    "best": "highest PSNR on the way",
    "log-area": "mean PSNR over the logarithm of steps, up to the steps that all have done: high for who is good early and late",
    "ahead of best rival": "in PSNR at the end, in pairs of one scene and seed; 95 % bootstrap interval, too narrow with few scenes",
    "wins": "scenes with the highest PSNR",
    "ms / step": "milliseconds, of which in rendering, loss and gradients, and in the update rule",
    "cores": "processor time of all threads over wall-clock time",
    "MB": "peak memory beyond the scene: Gaussians, optimizer state, gradients, renders; of a run with a plan over its whole length, "
    "else of steps at its start; the largest of all runs",
    "to {first}'s end": "how many times sooner than {first}'s whole run a run has {first}'s final PSNR; if not all get there, how many",
    "to best rival's end": "the same against the best of the others",
}


@dataclass(frozen=True)
class Table:
    """Rows start with the optimizer. `best`, `second`: (row, column) of the best value of a column and of the one after it."""

    title: str
    head: list[str]
    rows: list[list[str]]
    best: set[tuple[int, int]] = field(default_factory=set)
    second: set[tuple[int, int]] = field(default_factory=set)

    def markdown(self) -> str:
        """With the best in bold and the second in italics."""
        lines = [f"| {' | '.join(self.head)} |", "|---|" + "---:|" * (len(self.head) - 1)]
        for i, row in enumerate(self.rows):
            cells = [f"**{text}**" if (i, k) in self.best else f"*{text}*" if (i, k) in self.second else text for k, text in enumerate(row)]
            lines.append(f"| {' | '.join(text.replace('|', '/') for text in cells)} |")
        return "\n".join(lines)


class _Columns:
    """Collects columns of (text, value) per optimizer, and marks the best two where asked."""

    def __init__(self, title: str, labels: Sequence[str]) -> None:
        self.table = Table(title, ["optimizer"], [[label] for label in labels])

    def add(self, name: str, texts: Sequence[str], values: Sequence[float] | None = None) -> None:
        """`values`: of which the largest is best; NaN takes no part."""
        column = len(self.table.head)
        self.table.head.append(name)
        for row, text in zip(self.table.rows, texts):
            row.append(text)
        levels = sorted({v for v in values or () if not math.isnan(v)}, reverse=True)  # equals share a mark
        if len(levels) > 1:
            self.table.best.update((i, column) for i, v in enumerate(values) if v == levels[0])
        if len(levels) > 2:
            self.table.second.update((i, column) for i, v in enumerate(values) if v == levels[1])


def quality_table(c: Comparison) -> Table:
    """Means over scenes and seeds of how good the renders are."""
    pairs = c.complete()
    columns = _Columns("Quality", c.labels)
    ends = [_over(pairs, lambda pair, label=label: c.last(label, pair)) for label in c.labels]
    columns.add("PSNR", [_end_text(c, label, pairs, *end) for label, end in zip(c.labels, ends)], [mean for mean, _ in ends])

    def add_means(name: str, value: Callable[[Cell], float], digits: int, sign: int) -> None:
        """`sign`: 1 where large is good, -1 where small is, 0 for no ranking."""
        means = [_over(pairs, lambda pair, label=label: _of_ended(c, label, pair, value))[0] for label in c.labels]
        columns.add(name, [number(mean, digits) for mean in means], [sign * mean for mean in means] if sign else None)

    add_means("best", stats.best_psnr, 2, 1)
    add_means("best - end", _degradation, 2, 0)
    add_means("SSIM", last_ssim, 3, 1)
    measured = [name for name in PERCEPTUAL if any(not math.isnan(perceptual(cell, name)) for cell in c.cells.values())]
    for name in measured:
        add_means(PERCEPTUAL[name], lambda cell, name=name: perceptual(cell, name), 3, -1)
    if not measured:  # results of before there was FLIP
        columns.add("LPIPS", [NOT_AVAILABLE] * len(c.labels))
    areas = [_over(pairs, lambda pair, label=label: _area(c, label, pair))[0] for label in c.labels]
    columns.add("log-area", [number(area) for area in areas], areas)
    columns.add("ahead of best rival", [difference_text(stats.difference(c, label)) for label in c.labels])
    count = stats.wins(c)
    columns.add("wins", [f"{count[label]} of {len({scene for scene, _ in pairs})}" for label in c.labels])
    return columns.table


def cost_table(c: Comparison) -> Table:
    """Steps, seconds and memory, and how soon each has what others end with."""
    pairs = c.complete()
    columns = _Columns("Cost", c.labels)
    times = [stats.clocks(c.of(label, pairs)) for label in c.labels]
    for name, key, digits in (("steps", "steps", 0), ("seconds", "seconds", 1)):
        means = [_over(pairs, lambda pair, label=label, key=key: _of_ended(c, label, pair, lambda cell: cell.end[key]))[0] for label in c.labels]
        columns.add(name, [number(mean, digits) for mean in means])
    for name, get in (("ms / step", lambda t: t.step), ("render", lambda t: t.render), ("update", lambda t: t.update)):
        columns.add(name, [DASH if t is None else f"{1000 * get(t):.1f}" for t in times])
    columns.add("cores", [DASH if t is None else f"{t.cpu_share:.2f}" for t in times])
    peaks = [[cell.end["peak_bytes"] for cell in c.of(label, pairs) if cell.end.get("peak_bytes") is not None] for label in c.labels]
    columns.add("MB", [number(max(peak) / 1e6, 0) if peak else NOT_AVAILABLE for peak in peaks])
    first = c.labels[0]
    starts = [stats.head_start(c, label, first) for label in c.labels]
    columns.add(f"to {first}'s end", [head_start_text(start) for start in starts], [_factor(start) for start in starts])
    rivals = [stats.best_rival(c, label) for label in c.labels]
    columns.add(
        "to best rival's end",
        [DASH if rival is None else head_start_text(stats.head_start(c, label, rival)) for label, rival in zip(c.labels, rivals)],
    )
    return columns.table


def notes(c: Comparison, table: Table) -> list[tuple[str, str]]:
    """(column, meaning) of the columns of a table whose names do not say it; LPIPS with why it is not there."""
    first = c.labels[0]
    found = [(name.format(first=first), text.format(first=first)) for name, text in NOTES.items()]
    reasons = "; ".join(sorted({reason for cell in c.cells.values() if cell.end and (reason := cell.end.get("lpips_missing"))}))
    if "LPIPS" in table.head:
        found.append(("LPIPS", f"{NOT_AVAILABLE}: {reasons or 'no run has ended'} (nothing is downloaded)"))
    elif "FLIP" in table.head:
        instead = f"; LPIPS is not here: {reasons} (nothing is downloaded)" if reasons else ""
        found.append(("FLIP", f"what a viewer sees when render and photo alternate, 0 to 1, less is better{instead}"))
    return [(name, text) for name, text in found if name in table.head]


def scenes_table(c: Comparison) -> Table:
    """PSNR at the end, a column per scene, over the seeds that every optimizer has ended."""
    columns = _Columns("PSNR at the end, by scene", c.labels)
    for scene in c.scenes:
        pairs = [pair for pair in c.complete() if pair[0] == scene]
        ends = [_over(pairs, lambda pair, label=label: c.last(label, pair)) for label in c.labels]
        columns.add(scene, [_end_text(c, label, pairs, *end) for label, end in zip(c.labels, ends)], [mean for mean, _ in ends])
    return columns.table


def steps_table(c: Comparison) -> Table:
    """PSNR after so many steps, means over scenes and seeds."""
    return _marks_table(c, "PSNR after so many steps", [(f"{m}", lambda cell, m=m: stats.psnr_at_step(cell, m)) for m in _few(stats.step_marks(c))])


def seconds_table(c: Comparison) -> Table:
    """PSNR after so many seconds, means over scenes and seeds."""
    marks = _few(stats.second_marks(c))
    return _marks_table(c, "PSNR after so many seconds", [(f"{m:g} s", lambda cell, m=m: stats.psnr_at_seconds(cell, m)) for m in marks])


def _marks_table(c: Comparison, title: str, marks: list[tuple[str, Callable[[Cell], float | None]]]) -> Table:
    """A run that was over before a mark has no value there, and then the optimizer has no mean."""
    pairs = c.complete()
    columns = _Columns(title, c.labels)
    for name, value in marks:
        means = []
        for label in c.labels:
            values = [value(cell) for cell in c.of(label, pairs)]
            sound = bool(values) and all(v is not None for v in values)
            means.append(stats.mean_over_scenes(dict(zip(pairs, values)))[0] if sound else math.nan)
        columns.add(name, [number(mean) for mean in means], means)
    return columns.table


def unfinished(c: Comparison) -> list[str]:
    """A sentence for every cell that is not simply done."""
    lines = []
    for (label, scene, seed), cell in sorted(c.cells.items()):
        where = f"{label} on {scene}, seed {seed}"
        if cell.status == "failed":
            lines.append(f"{where}: failed after {cell.end['steps']} steps with {cell.end['error']} ({cell.end['where']})")
        elif cell.status == "diverged":
            lines.append(f"{where}: diverged after {cell.end['steps']} steps; the last finite state is scored")
        elif cell.status == "running":
            step = cell.points[-1].step if cell.points else 0
            lines.append(f"{where}: not finished, last scored at step {step}")
    return lines


def headline(c: Comparison) -> str:
    """What the numbers say, in a sentence."""
    pairs = c.complete()
    sound = {label: mean for label in c.labels if not math.isnan(mean := _over(pairs, lambda pair, label=label: c.last(label, pair))[0])}
    over = f"{_plural(len({scene for scene, _ in pairs}), 'scene')} and {_plural(len({seed for _, seed in pairs}), 'seed')}"
    if len(sound) == len(c.labels) == 1:
        return f"{c.labels[0]} ends at {sound[c.labels[0]]:.2f} dB over {over}: the only optimizer here."
    if len(sound) < 2:
        return "Nothing can be compared yet: " + (
            "no scene and seed has been ended by every optimizer." if not pairs else "too many runs went wrong."
        )
    first = max(sound, key=sound.__getitem__)
    gap = stats.difference(c, first)
    interval = "" if math.isnan(gap.low) else f" (95 % interval {gap.low:.2f} to {gap.high:.2f})"
    verdict = " The interval includes zero: this is no clear difference." if gap.low < 0 < gap.high else ""
    return f"{first} ends at {sound[first]:.2f} dB, {gap.mean:.2f} dB{interval} ahead of {gap.rival}, the next best, over {over}.{verdict}"


def number(value: float, digits: int = 2) -> str:
    return DASH if math.isnan(value) else f"{value:.{digits}f}"


def with_spread(mean: float, spread: float) -> str:
    """24.31 ± 0.05"""
    return number(mean) + ("" if math.isnan(spread) or math.isnan(mean) else f" ± {spread:.2f}")


def head_start_text(start: stats.HeadStart) -> str:
    """8.1x, or 3.2x (2 of 3) where not all runs get there."""
    if not start.reached:
        return DASH
    return f"{start.factor:.1f}x" + ("" if start.reached == start.pairs else f" ({start.reached} of {start.pairs})")


def _factor(start: stats.HeadStart) -> float:
    """For ranking: only of those that always get there."""
    return start.factor if start.reached == start.pairs else math.nan


def difference_text(d: stats.Difference | None) -> str:
    """+0.42 [0.31, 0.55] on adam"""
    if d is None:
        return DASH
    interval = "" if math.isnan(d.low) else f" [{d.low:.2f}, {d.high:.2f}]"
    return f"{d.mean:+.2f}{interval} on {d.rival}"


def _over(pairs: Sequence[Pair], value: Callable[[Pair], float]) -> tuple[float, float]:
    """`stats.mean_over_scenes`; NaN if any value is, because a mean over the rest would be that of easier scenes."""
    values = {pair: value(pair) for pair in pairs}
    return (math.nan, math.nan) if any(map(math.isnan, values.values())) else stats.mean_over_scenes(values)


def _of_ended(c: Comparison, label: str, pair: Pair, value: Callable[[Cell], float]) -> float:
    """`value` of a run that was done or diverged; NaN of one that failed."""
    cell = c.cells[(label, *pair)]
    return value(cell) if cell.finished else math.nan


def _area(c: Comparison, label: str, pair: Pair) -> float:
    cell = c.cells[(label, *pair)]
    return stats.area_under_curve(cell, c.common_steps(pair)) if cell.status == "done" else math.nan


def _degradation(cell: Cell) -> float:
    return stats.best_psnr(cell) - stats.last_psnr(cell)


def perceptual(cell: Cell, name: str) -> float:
    value = (cell.end or {}).get(name)
    return math.nan if value is None else value


def last_ssim(cell: Cell) -> float:
    return cell.points[-1].ssim if cell.points else math.nan


def _end_text(c: Comparison, label: str, pairs: Sequence[Pair], mean: float, spread: float) -> str:
    """The mean, or how many runs went wrong: DIV as in the paper's tables."""
    wrong = [
        f"{name} {count}/{len(pairs)}" for name, status in (("DIV", "diverged"), ("failed", "failed")) if (count := c.count(label, status, pairs))
    ]
    return ", ".join(wrong) if wrong else with_spread(mean, spread)


def _few(marks: Sequence[float]) -> list[float]:
    """The ones and threes of each decade, at most eight, the late ones first; all where that leaves fewer than three."""
    few = [mark for mark in marks if f"{mark:e}"[0] in "13"]
    return list(few if len(few) > 2 else marks)[-8:]


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")


def median_load(c: Comparison) -> float:
    """Of the machines' load averages when the runs started; NaN where unknown."""
    loads = [cell.header["load"] for cell in c.cells.values() if cell.header["load"] is not None]
    return statistics.median(loads) if loads else math.nan

"""The tables of a report, as text with marks: HTML, Markdown and the terminal show the same ones. CSV has one row per cell with all numbers."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from . import stats
from .stats import Comparison, Pair
from .store import Cell

NO_LPIPS = "LPIPS: n/a, because its backbone networks need weights that this package does not ship and does not download."
DASH = "–"


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
        ranked = sorted((i for i, v in enumerate(values or ()) if not math.isnan(v)), key=lambda i: -values[i])
        if len(ranked) > 1:
            self.table.best.add((ranked[0], column))
            if len(ranked) > 2:
                self.table.second.add((ranked[1], column))


def summary_table(c: Comparison) -> Table:
    """Means over scenes and seeds."""
    pairs = c.complete()
    columns = _Columns("Summary", c.labels)
    ends = [_over(pairs, lambda pair, label=label: c.last(label, pair)) for label in c.labels]
    columns.add("PSNR at the end", [_end_text(c, label, pairs, *end) for label, end in zip(c.labels, ends)], [mean for mean, _ in ends])
    for name, value, digits in (("best", stats.best_psnr, 2), ("best - end", _degradation, 2), ("SSIM", _last_ssim, 3)):
        means = [_over(pairs, lambda pair, label=label, value=value: _of_ended(c, label, pair, value))[0] for label in c.labels]
        ranked = [-mean for mean in means] if name == "best - end" else means
        columns.add(name, [number(mean, digits) for mean in means], None if name == "best - end" else ranked)
    columns.add("LPIPS", ["n/a"] * len(c.labels))
    areas = [_over(pairs, lambda pair, label=label: _area(c, label, pair))[0] for label in c.labels]
    columns.add("log-area", [number(area) for area in areas], areas)
    times = [stats.clocks(c.of(label, pairs)) for label in c.labels]
    steps = [_over(pairs, lambda pair, label=label: _of_ended(c, label, pair, lambda cell: float(cell.end["steps"])))[0] for label in c.labels]
    columns.add("steps", [number(mean, 0) for mean in steps])
    for name, get in (("ms / step", lambda t: t.step), ("render", lambda t: t.render), ("update", lambda t: t.update)):
        columns.add(name, [DASH if t is None else f"{1000 * get(t):.1f}" for t in times])
    columns.add("ahead of best rival", [difference_text(stats.difference(c, label)) for label in c.labels])
    count = stats.wins(c)
    columns.add("wins", [f"{count[label]} of {len({scene for scene, _ in pairs})}" for label in c.labels])
    return columns.table


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
    if len(sound) < 2:
        return "Nothing can be compared yet: " + (
            "no scene and seed has been ended by every optimizer." if not pairs else "too many runs went wrong."
        )
    first = max(sound, key=sound.__getitem__)
    gap = stats.difference(c, first)
    interval = "" if math.isnan(gap.low) else f" (95 % interval {gap.low:.2f} to {gap.high:.2f})"
    verdict = " The interval includes zero: this is no clear difference." if gap.low < 0 < gap.high else ""
    return f"{first} ends at {sound[first]:.2f} dB, {gap.mean:.2f} dB{interval} ahead of {gap.rival}, the next best, over {over}.{verdict}"


def to_csv(comparisons: Iterable[Comparison]) -> str:
    """One row per cell; empty where there is no value."""
    comparisons = list(comparisons)
    step_marks = sorted({mark for c in comparisons for mark in stats.step_marks(c)})
    second_marks = sorted({mark for c in comparisons for mark in stats.second_marks(c)})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["protocol", "setting", "budget", "scene", "optimizer", "seed", "status", "psnr_end", "psnr_best", "ssim_end", "log_area", "log_area_until",
         "steps", "seconds", "cpu_seconds", "update_seconds", "gaussians", "long_side", "cpu", "threads", "load", "learn2splat", "torch", "commit",
         *(f"psnr_step_{mark}" for mark in step_marks), *(f"psnr_{mark:g}_seconds" for mark in second_marks)]
    )  # fmt: skip
    for c in comparisons:
        for (label, scene, seed), cell in sorted(c.cells.items()):
            end, protocol, machine = cell.end or {}, c.protocol, cell.header["machine"]
            until = c.common_steps((scene, seed))
            values = [
                protocol["name"], protocol["setting"], protocol["budget"], scene, label, seed, cell.status, stats.last_psnr(cell),
                stats.best_psnr(cell), _last_ssim(cell), stats.area_under_curve(cell, until), until, end.get("steps"), end.get("seconds"),
                end.get("cpu_seconds"), end.get("update_seconds"), cell.header["scene"]["gaussians"], protocol["long_side"], machine["cpu"],
                machine["threads"], cell.header["load"], machine["learn2splat"], machine["torch"], cell.header["commit"],
                *(stats.psnr_at_step(cell, mark) for mark in step_marks), *(stats.psnr_at_seconds(cell, mark) for mark in second_marks),
            ]  # fmt: skip
            writer.writerow(
                "" if v is None or (isinstance(v, float) and math.isnan(v)) else f"{v:.6g}" if isinstance(v, float) else v for v in values
            )
    return out.getvalue()


def number(value: float, digits: int = 2) -> str:
    return DASH if math.isnan(value) else f"{value:.{digits}f}"


def with_spread(mean: float, spread: float) -> str:
    """24.31 ± 0.05"""
    return number(mean) + ("" if math.isnan(spread) or math.isnan(mean) else f" ± {spread:.2f}")


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


def _last_ssim(cell: Cell) -> float:
    return cell.points[-1].ssim if cell.points else math.nan


def _end_text(c: Comparison, label: str, pairs: Sequence[Pair], mean: float, spread: float) -> str:
    """The mean, or how many runs went wrong: DIV as in the paper's tables."""
    wrong = [
        f"{name} {count}/{len(pairs)}" for name, status in (("DIV", "diverged"), ("failed", "failed")) if (count := c.count(label, status, pairs))
    ]
    return ", ".join(wrong) if wrong else with_spread(mean, spread)


def _few(marks: Sequence[float]) -> list[float]:
    """The ones and fives of each decade, at most eight, the late ones first; all where that leaves fewer than three."""
    few = [mark for mark in marks if f"{mark:e}"[0] in "15"]
    return list(few if len(few) > 2 else marks)[-8:]


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")


def median_load(c: Comparison) -> float:
    """Of the machines' load averages when the runs started; NaN where unknown."""
    loads = [cell.header["load"] for cell in c.cells.values() if cell.header["load"] is not None]
    return statistics.median(loads) if loads else math.nan

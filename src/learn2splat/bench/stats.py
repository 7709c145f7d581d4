"""What the stored cells say: values of one run, and means, spreads and paired differences over runs.

A *pair* is a scene and a seed: within it all optimizers had the same start, views and machine, so they are compared pair by pair.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .protocol import marks_up_to
from .store import Cell

RESAMPLES = 4000  # Of the bootstrap: the ends of a 95 % interval are then steady to about 2 % of its width.
Pair = tuple[str, int]


def psnr_at_step(cell: Cell, step: int) -> float | None:
    """PSNR (dB) after exactly `step` steps, where it was measured."""
    return next((point.psnr for point in cell.points if point.step == step), None)


def psnr_at_seconds(cell: Cell, seconds: float) -> float | None:
    """PSNR (dB) of the first state at or after `seconds`; for seconds that are marks, the run was measured there. None if it was over before."""
    return next((point.psnr for point in cell.points if point.seconds >= seconds), None)


def best_psnr(cell: Cell) -> float:
    return max((point.psnr for point in cell.points if not math.isnan(point.psnr)), default=math.nan)


def last_psnr(cell: Cell) -> float:
    return cell.points[-1].psnr if cell.points else math.nan


def area_under_curve(cell: Cell, until: int) -> float:
    """Mean PSNR (dB) over log10(1 + step) from step 0 to `until`, linear between points: early steps count as much as late ones."""
    x = np.log10([1.0 + point.step for point in cell.points])
    y = np.array([point.psnr for point in cell.points])
    end = math.log10(1.0 + until)
    if len(x) == 0 or end <= 0 or x[-1] < end - 1e-9:
        return math.nan
    inside = x < end
    x, y = np.append(x[inside], end), np.append(y[inside], np.interp(end, x, y))
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / end)


def seconds_to(cell: Cell, psnr: float) -> float:
    """Seconds until the run has `psnr` (dB) for the first time, interpolated between points on the axis that charts have; NaN if it never has."""
    before = None
    for point in cell.points:
        if point.psnr >= psnr:
            if before is None or before.psnr >= point.psnr:
                return point.seconds
            part = (psnr - before.psnr) / (point.psnr - before.psnr)
            if before.seconds <= 0:
                return part * point.seconds
            return before.seconds * (point.seconds / before.seconds) ** part
        if not math.isnan(point.psnr):
            before = point
    return math.nan


@dataclass(frozen=True)
class Clocks:
    """Seconds per step of some cells, and what part of a core they got."""

    step: float
    render: float  # views, rendering, loss, gradients
    update: float
    cpu_share: float  # processor seconds (all threads) per second


def clocks(cells: Iterable[Cell]) -> Clocks | None:
    """Over all steps of the cells; None if there is none."""
    known = [cell.end for cell in cells if cell.end is not None and cell.end["steps"]]
    ends = [end for end in known if end.get("cpu_seconds") is not None and end.get("update_seconds") is not None]
    if not ends:
        return None
    steps, seconds = sum(end["steps"] for end in ends), sum(end["seconds"] for end in ends)
    update, cpu = sum(end["update_seconds"] for end in ends), sum(end["cpu_seconds"] for end in ends)
    return Clocks(seconds / steps, (seconds - update) / steps, update / steps, cpu / max(seconds, 1e-9))


@dataclass(frozen=True)
class Comparison:
    """The cells of one protocol, ready for questions. `labels`: optimizers in the order of the command."""

    protocol: dict
    cells: dict[tuple[str, str, int], Cell]  # by label, scene, seed
    labels: tuple[str, ...]
    scenes: tuple[str, ...]

    @property
    def pairs(self) -> list[Pair]:
        """All scenes and seeds of which there is any cell."""
        return sorted({(scene, seed) for _, scene, seed in self.cells})

    def complete(self) -> list[Pair]:
        """The pairs in which every optimizer has come to an end, one way or another: means over other pairs would compare different scenes."""
        return [pair for pair in self.pairs if all((cell := self.cells.get((label, *pair))) and cell.end for label in self.labels)]

    def of(self, label: str, pairs: Iterable[Pair]) -> list[Cell]:
        return [self.cells[(label, *pair)] for pair in pairs]

    def count(self, label: str, status: str, pairs: Iterable[Pair]) -> int:
        return sum(cell.status == status for cell in self.of(label, pairs))

    def last(self, label: str, pair: Pair) -> float:
        """PSNR at the end; NaN for a run that has not done what it should."""
        cell = self.cells.get((label, *pair))
        return last_psnr(cell) if cell is not None and cell.status == "done" else math.nan

    def common_steps(self, pair: Pair) -> int:
        """Steps that every optimizer of the pair has done (those that failed or diverged left out)."""
        cells = [self.cells[(label, *pair)] for label in self.labels if (label, *pair) in self.cells]
        return min((cell.end["steps"] for cell in cells if cell.status == "done"), default=0)


def comparisons(cells: Iterable[Cell]) -> list[Comparison]:
    """One for each protocol in a folder, by name."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.path.parents[2].name, []).append(cell)
    result = []
    for _, group in sorted(groups.items()):
        order: dict[str, int] = {}
        for cell in group:
            place = cell.header["optimizer"]["order"]
            order[cell.label] = min(place, order.get(cell.label, place))
        by_key = {(cell.label, cell.scene, cell.seed): cell for cell in group}
        labels = tuple(sorted(order, key=lambda label: (order[label], label)))
        result.append(Comparison(group[0].header["protocol"], by_key, labels, tuple(sorted({cell.scene for cell in group}))))
    return result


def mean_over_scenes(values: dict[Pair, float]) -> tuple[float, float]:
    """(mean over scenes of the mean over seeds; standard deviation over seeds of the mean over scenes, NaN with fewer than two seeds)."""
    if not values:
        return math.nan, math.nan
    scenes, seeds = sorted({scene for scene, _ in values}), sorted({seed for _, seed in values})
    mean = statistics.mean(statistics.mean(v for (s, _), v in values.items() if s == scene) for scene in scenes)
    full = [seed for seed in seeds if all((scene, seed) in values for scene in scenes)]
    per_seed = [statistics.mean(values[scene, seed] for scene in scenes) for seed in full]
    return mean, statistics.stdev(per_seed) if len(per_seed) > 1 else math.nan


@dataclass(frozen=True)
class Difference:
    """By how much (dB, PSNR at the end) an optimizer is ahead of its best rival, over the pairs that both have done; 95 % interval."""

    rival: str
    mean: float
    low: float
    high: float
    pairs: int


def best_rival(comparison: Comparison, label: str) -> str | None:
    """The best of the others: that with the highest mean PSNR at the end; one of which a run went wrong is none. None where there is no other."""
    means = {}
    for other in comparison.labels:
        values = {pair: comparison.last(other, pair) for pair in comparison.complete()}
        if other != label and values and not any(math.isnan(v) for v in values.values()):
            means[other] = mean_over_scenes(values)[0]
    return max(means, key=means.__getitem__, default=None)


@dataclass(frozen=True)
class HeadStart:
    """How many times sooner than `goal` had it at its end a run has the same PSNR: geometric mean over the `reached` of `pairs` that get there."""

    goal: str
    factor: float
    reached: int
    pairs: int


def head_start(comparison: Comparison, label: str, goal: str) -> HeadStart:
    """Of `label` over `goal` (another label, or the same: then it says how early a run had what it ended with)."""
    factors, pairs = [], comparison.complete()
    for pair in pairs:
        target, cell = comparison.last(goal, pair), comparison.cells[(label, *pair)]
        seconds, whole = seconds_to(cell, target), comparison.cells[(goal, *pair)].end["seconds"]
        if seconds > 0 and 0 < whole / seconds < math.inf:
            factors.append(whole / seconds)
    return HeadStart(goal, statistics.geometric_mean(factors) if factors else math.nan, len(factors), len(pairs))


def difference(comparison: Comparison, label: str) -> Difference | None:
    """Against `best_rival`. None where there is nothing to compare."""
    pairs, rival = comparison.complete(), best_rival(comparison, label)
    if rival is None:
        return None
    by_scene: dict[str, list[float]] = {}
    for pair in pairs:
        gap = comparison.last(label, pair) - comparison.last(rival, pair)
        if not math.isnan(gap):
            by_scene.setdefault(pair[0], []).append(gap)
    if not by_scene:
        return None
    mean = statistics.mean(statistics.mean(gaps) for gaps in by_scene.values())
    low, high = bootstrap_interval(list(by_scene.values()))
    return Difference(rival, mean, low, high, sum(map(len, by_scene.values())))


def bootstrap_interval(by_scene: Sequence[Sequence[float]]) -> tuple[float, float]:
    """95 % percentile interval of the mean over scenes of the mean over seeds: scenes are drawn again, and within them seeds (seeds of one scene
    are no independent samples of scenes). NaN for a single pair, which has no spread."""
    if sum(map(len, by_scene)) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(0)  # the same report from the same results
    scenes = rng.integers(len(by_scene), size=(RESAMPLES, len(by_scene)))
    drawn = np.empty(scenes.shape)
    for k, gaps in enumerate(by_scene):
        again = np.asarray(gaps)[rng.integers(len(gaps), size=(*scenes.shape, len(gaps)))].mean(-1)
        drawn = np.where(scenes == k, again, drawn)
    means = drawn.mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def wins(comparison: Comparison) -> dict[str, int]:
    """In how many scenes each optimizer has the highest mean PSNR at the end over the complete pairs."""
    count = dict.fromkeys(comparison.labels, 0)
    pairs = comparison.complete()
    for scene in sorted({scene for scene, _ in pairs}):
        means = {label: statistics.mean(comparison.last(label, pair) for pair in pairs if pair[0] == scene) for label in comparison.labels}
        sound = {label: mean for label, mean in means.items() if not math.isnan(mean)}
        if sound:
            count[max(sound, key=sound.__getitem__)] += 1
    return count


def step_marks(comparison: Comparison) -> list[int]:
    """The steps at which runs were measured, up to the most that any has done."""
    most = max((cell.points[-1].step for cell in comparison.cells.values() if cell.points), default=0)
    return [int(mark) for mark in marks_up_to(most)]


def second_marks(comparison: Comparison) -> list[float]:
    """The same for seconds."""
    most = max((cell.points[-1].seconds for cell in comparison.cells.values() if cell.points), default=0.0)
    return marks_up_to(most, start=0.1)

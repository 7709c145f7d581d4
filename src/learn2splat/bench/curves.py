"""Curves of a comparison for `chart.line_chart`: one line per optimizer, the mean over seeds with a band from the lowest to the highest."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal

import numpy as np

from .chart import Series
from .page import color
from .stats import Comparison
from .store import Cell

Axis = Literal["step", "seconds"]
GRID = 25  # Places on the axis of seconds at which the curves of several seeds, measured at other times each, are read off and averaged.


def curves(c: Comparison, scene: str, axis: Axis) -> list[Series]:
    """The lines of a scene, colours as in the tables. Optimizers without a point have none."""
    series = []
    for position, label in enumerate(c.labels):
        cells = [cell for (name, where, _), cell in sorted(c.cells.items()) if name == label and where == scene and cell.points]
        if cells:
            series.append(mean_curve(label, color(position), cells, axis))
    return series


def mean_curve(name: str, css_color: str, cells: Sequence[Cell], axis: Axis) -> Series:
    """One line over the cells (seeds), as far as all of them go. Between points, curves are straight on the logarithmic axis."""
    lines = [[(getattr(point, axis), point.psnr) for point in cell.points if not math.isnan(point.psnr)] for cell in cells]
    lines = [line for line in lines if line]
    if len(lines) <= 1:
        return Series(name, css_color, lines[0] if lines else [])
    end = min(line[-1][0] for line in lines)
    if axis == "step":
        grid = sorted({x for line in lines for x, _ in line if x <= end and all(any(x == other for other, _ in each) for each in lines)} | {end})
    else:
        first = max(min((x for x, _ in line if x > 0), default=end) for line in lines)
        grid = [0.0, *np.geomspace(first, end, GRID)] if 0 < first < end else [0.0, end]
    values = [[value_at(line, x) for line in lines] for x in grid]
    mean = [(float(x), statistics.mean(at_x)) for x, at_x in zip(grid, values)]
    return Series(name, css_color, mean, [(float(x), min(at_x), max(at_x)) for x, at_x in zip(grid, values)])


def value_at(line: Sequence[tuple[float, float]], x: float) -> float:
    """PSNR at `x`, straight in log x between points (in x before the first positive one)."""
    after = next((i for i, (at, _) in enumerate(line) if at >= x * (1 - 1e-12)), len(line) - 1)
    (x1, y1), (x0, y0) = line[after], line[max(after - 1, 0)]
    if after == 0 or x >= x1:
        return y1
    part = math.log(x / x0) / math.log(x1 / x0) if x0 > 0 else x / x1
    return y0 + (y1 - y0) * part

"""A line chart as inline SVG: no scripts, colours from the page's style sheet, so it follows light and dark."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 44, 96, 14, 42  # margins in px; the right one holds the names of the lines at the height of their ends
LABEL_HEIGHT = 15
LABEL_LETTERS = 11


@dataclass(frozen=True)
class Series:
    """A named line; `color` is a CSS colour. `band`: (x, low, high) of a shaded strip around it. `dots`: whether its points are marked."""

    name: str
    color: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = ()
    dots: bool = True


def line_chart(series: Sequence[Series], x_label: str, y_label: str, *, log_x: bool, height: int = HEIGHT, from_zero: bool = False) -> str:
    """An `<svg>` of series with at least one point each.

    Args:
        log_x: x = 0 is then drawn at the left edge, one tick before the first positive x.
        height: px; the width is `WIDTH`.
        from_zero: the y axis begins at 0.
    """
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for _, y in s.points] + [y for s in series for _, *ends in s.band for y in ends]
    y_ticks = nice_ticks(0.0 if from_zero else min(ys), max(ys), max(3, round(height / 50)))
    low, high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))
    first = min((x for x in xs if x > 0), default=1.0)
    if log_x:
        x_ticks = [0.0, *log_ticks(first, max(xs))]
        start = math.log10(first) - 0.35
        span = max(math.log10(max(xs)) - start, 1e-9)
    else:
        x_ticks = nice_ticks(0, max(xs), 6)
        start, span = 0.0, max(max(xs), 1e-9)

    def px(x: float) -> float:
        along = (math.log10(x) if x > 0 else start) if log_x else x
        return LEFT + (along - start) / span * (WIDTH - LEFT - RIGHT)

    def py(y: float) -> float:
        return height - BOTTOM - (y - low) / max(high - low, 1e-9) * (height - TOP - BOTTOM)

    right = WIDTH - RIGHT
    out = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(y_label)} against {html.escape(x_label)}">']
    for y in y_ticks:
        out.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>')
        out.append(f'<text x="{LEFT - 7}" y="{py(y) + 4:.1f}" text-anchor="end">{_short(y)}</text>')
    last_tick = -math.inf
    for x in x_ticks:
        if x <= max(xs) * 1.0001 and px(x) - last_tick > 26:
            out.append(f'<text x="{px(x):.1f}" y="{height - BOTTOM + 18}" text-anchor="middle">{x:g}</text>')
            last_tick = px(x)
    out.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{height - BOTTOM}" y2="{height - BOTTOM}"/>')
    out.append(f'<text x="{(LEFT + right) / 2}" y="{height - 6}" text-anchor="middle">{html.escape(x_label)}</text>')
    for s in series:
        if s.band:
            edge = [f"{px(x):.1f},{py(y):.1f}" for x, _, y in s.band] + [f"{px(x):.1f},{py(y):.1f}" for x, y, _ in reversed(s.band)]
            out.append(f'<polygon class="band" points="{" ".join(edge)}" style="fill:{s.color}"/>')
    label_y = _spread([py(s.points[-1][1]) + 4 for s in series], LABEL_HEIGHT, height - BOTTOM + 4)
    for s, at in zip(series, label_y):
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in s.points)
        out.append(f'<polyline points="{path}" style="stroke:{s.color}"/>')
        for x, y in s.points if s.dots else ():
            tip = f"<title>{html.escape(s.name)}: {x:.4g}, {y:.2f}</title>"
            out.append(f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="2.2" style="fill:{s.color}">{tip}</circle>')
        out.append(f'<text class="label" x="{right + 8}" y="{at:.1f}" style="fill:{s.color}">{html.escape(shortened(s.name))}</text>')
    return "".join(out) + "</svg>"


def shortened(name: str) -> str:
    """A name that fits into the right margin."""
    return name if len(name) <= LABEL_LETTERS else name[: LABEL_LETTERS - 1] + "…"


def log_ticks(low: float, high: float) -> list[float]:
    """1, 3, 10, 30, ... that lie within [low, high]."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(max(high, low))) + 1)
    return [tick for e in exponents for tick in (10.0**e, 3 * 10.0**e) if low * 0.999 <= tick <= high * 1.001]


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers from at or below `low` to at or above `high`."""
    rough = max(high - low, 1e-9) / max(count - 1, 1)
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _short(value: float) -> str:
    """20000 as 20k: four digits and more do not fit into the left margin."""
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def _spread(wanted: list[float], gap: float, lowest: float) -> list[float]:
    """Vertical positions at least `gap` apart and above `lowest`, as near to the wanted ones as a pass from the top allows; order kept."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    placed = list(wanted)
    for before, after in pairwise(order):
        placed[after] = max(placed[after], placed[before] + gap)
    overflow = max(0.0, max(placed) - lowest) if placed else 0.0
    return [y - overflow for y in placed]

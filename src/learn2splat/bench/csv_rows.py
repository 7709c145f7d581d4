"""All numbers of a comparison as CSV: one row per cell, empty where there is no value."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable

from . import stats
from .lpips import PERCEPTUAL
from .stats import Comparison
from .store import Cell
from .tables import last_ssim, perceptual


def to_csv(comparisons: Iterable[Comparison]) -> str:
    """The columns of all comparisons; PSNR at the marks of steps and seconds that any run has reached comes last."""
    comparisons = list(comparisons)
    step_marks = sorted({mark for c in comparisons for mark in stats.step_marks(c)})
    second_marks = sorted({mark for c in comparisons for mark in stats.second_marks(c)})
    rows = []
    for c in comparisons:
        for _, cell in sorted(c.cells.items()):
            row = {**_rules(c), **_results(c, cell), **_circumstances(cell)}
            row |= {f"psnr_step_{mark}": stats.psnr_at_step(cell, mark) for mark in step_marks}
            row |= {f"psnr_{mark:g}_seconds": stats.psnr_at_seconds(cell, mark) for mark in second_marks}
            rows.append(row)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(rows[0] if rows else [])
    writer.writerows([_text(value) for value in row.values()] for row in rows)
    return out.getvalue()


def _rules(c: Comparison) -> dict[str, object]:
    p = c.protocol
    names = ("setting", "budget", "suite", "metrics", "context_views", "long_side", "size", "max_points", "views_per_step", "test_every", "device")
    return {"protocol": p["name"], **{name: p.get(name) for name in names}}


def _results(c: Comparison, cell: Cell) -> dict[str, object]:
    pair, end = (cell.scene, cell.seed), cell.end or {}
    until = c.common_steps(pair)
    return {
        "scene": cell.scene,
        "optimizer": cell.label,
        "seed": cell.seed,
        "status": cell.status,
        "psnr_end": stats.last_psnr(cell),
        "psnr_best": stats.best_psnr(cell),
        "ssim_end": last_ssim(cell),
        **{name: perceptual(cell, name) for name in PERCEPTUAL},
        "log_area": stats.area_under_curve(cell, until),
        "log_area_until": until,
        "steps": end.get("steps"),
        "seconds": end.get("seconds"),
        "cpu_seconds": end.get("cpu_seconds"),
        "update_seconds": end.get("update_seconds"),
        "peak_bytes": end.get("peak_bytes"),
        "seconds_to_first": stats.seconds_to(cell, c.last(c.labels[0], pair)),  # ... that the first optimizer of the table ends with
    }


def _circumstances(cell: Cell) -> dict[str, object]:
    machine = cell.header["machine"]
    return {
        "gaussians": cell.header["scene"]["gaussians"],
        **{name: machine[name] for name in ("cpu", "gpu", "threads", "learn2splat", "torch")},
        "load": cell.header["load"],
        "commit": cell.header["commit"],
    }


def _text(value: object) -> object:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, (list, tuple)):
        return "x".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else value

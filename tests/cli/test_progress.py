"""The live bar in a terminal, and plain lines elsewhere."""

import io
import math

from rich.console import Console
from tiny_scenes import blobs

from learn2splat.cli.progress import FitProgress
from learn2splat.fit import CurvePoint, Progress, flat_plan

POINTS = (CurvePoint(0, 0.0, 14.25, 0.3), CurvePoint(10, 2.5, 21.5, 0.5))


def run(terminal: bool, steps=100, max_seconds=None, width=120) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=width, color_system=None)
    with FitProgress("fern adam", flat_plan(256, steps=steps, seconds=max_seconds, views_per_step=8), console) as progress:
        progress(Progress(0, 0.0, math.nan, POINTS[:1], blobs(), 0.0, 0))
        for step in range(1, 11):
            progress(Progress(step, 0.25 * step, 0.2 / step, POINTS[:1], blobs(), step / 100, 0))
        progress(Progress(10, 2.5, 0.02, POINTS, blobs(), 0.1, 0))
    return file.getvalue()


def test_a_terminal_gets_a_live_bar():
    text = run(terminal=True)
    for words in ("fern adam", "256 px", "40 Gaussians", "step 10/100", "2.5/about 25 s", "loss 0.0200", "held-out 21.50 dB", "━"):
        assert words in text


def test_a_narrow_terminal_keeps_the_numbers():
    text = run(terminal=True, steps=1000, max_seconds=60.0, width=80)
    assert "held-out 21.50 dB" in text and "fern adam" not in text


def test_a_file_gets_a_line_per_evaluation():
    lines = run(terminal=False).splitlines()
    assert lines == [
        "fern adam  256 px  40 Gaussians  step 0/100  0.0 s  held-out 14.25 dB",
        "fern adam  256 px  40 Gaussians  step 10/100  2.5/about 25 s  loss 0.0200  held-out 21.50 dB",
    ]


def test_a_run_limited_by_time_shows_the_limit():
    assert "step 10  2.5/60 s" in run(terminal=False, steps=None, max_seconds=60.0)

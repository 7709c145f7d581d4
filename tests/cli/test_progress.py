"""The live bar in a terminal, and plain lines elsewhere."""

import io
import math
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console
from tiny_scenes import blobs

from learn2splat.cli.progress import FitProgress, duration
from learn2splat.fitting import CurvePoint, Progress, flat_plan, make_plan

POINTS = (CurvePoint(0, 0.0, 14.25, 0.3), CurvePoint(10, 2.5, 21.5, 0.5))


def run(terminal: bool, steps=100, max_seconds=None, width=150) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=width, color_system=None)
    with FitProgress("fern adam", flat_plan(256, steps=steps, seconds=max_seconds, views_per_step=8), console) as progress:
        progress(Progress(0, 0.0, math.nan, POINTS[:1], blobs(), 0.0, 0))
        for step in range(1, 11):
            progress(Progress(step, 0.25 * step, 0.2 / step, POINTS[:1], blobs(), step / 100, 0))
        progress(Progress(10, 2.5, 0.02, POINTS, blobs(), 0.1, 0))
    return file.getvalue()


def lines_of(plan, moments, width=150):
    """The text after each (step, seconds, progress), as a terminal of so many columns gets it."""
    bar = FitProgress("fern adam", plan, Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None))
    texts = []
    for step, seconds, progress in moments:
        bar(Progress(step, seconds, 0.05, POINTS, blobs(), progress, plan.stage(progress)))
        texts.append(bar.live.tasks[0].fields["text"])
    return texts


def test_a_terminal_gets_a_live_bar():
    text = run(terminal=True)
    for words in ("fern adam", "256 px", "40 Gaussians", "step 10/100", "2.5 s, about 22 s left", "loss 0.0200", "held-out 21.50 dB", "━"):
        assert words in text


def test_a_narrow_terminal_keeps_what_matters_on_one_line():
    text = run(terminal=True, steps=10_000, max_seconds=10.0, width=80)
    assert "7.5 s left  21.50 dB" in text and "fern adam" not in text
    budgets = ({}, {"steps": 9999}, {"seconds": 999, "step_seconds": 0.5})
    plans = [make_plan([(1600, 1200)] * 9, 5000, **budget) for budget in budgets]
    for width in (80, 115, 145):
        for plan in plans:
            for text in lines_of(plan, [(0, 0.0, 0.0), (900, 540.0, 0.3), (910, 550.0, 0.31), (9990, 700.0, 0.95), (9999, 999.0, 0.99)], width):
                assert cell_len(text) <= width - 8  # a bar, however short, and room for more Gaussians
                assert not text.endswith(" ") and "   " not in text


def test_a_file_gets_a_line_per_evaluation():
    lines = run(terminal=False).splitlines()
    assert lines == [
        "fern adam  256 px  40 Gaussians  step 0/100  0.0 s  held-out 14.25 dB",
        "fern adam  256 px  40 Gaussians  step 10/100  2.5 s, about 22 s left  loss 0.0200  held-out 21.50 dB",
    ]


def test_a_run_limited_by_time_shows_what_is_left_of_it():
    assert "step 10  2.5 s, 58 s left" in run(terminal=False, steps=None, max_seconds=60.0)


def test_phases_of_a_plan_and_its_sizes():
    plan = replace(make_plan([(640, 480)] * 9, 500, seconds=100.0, step_seconds=0.1), average_from=0.9)
    texts = lines_of(plan, [(5, 1.0, 0.01), (90, 30.0, 0.3), (200, 70.0, 0.7), (300, 95.0, 0.95)])
    assert [text.split("  ")[:2] for text in texts] == [
        ["growing", "160/640 px"], ["growing", "320/640 px"], ["refining", "640 px"], ["averaging", "640 px"],
    ]  # fmt: skip
    assert all(f"{left} s left" in text for left, text in zip(("99", "70", "30", "5.0"), texts))


def test_the_time_left_of_a_run_by_steps_follows_the_pixels_and_then_the_steps_at_each_size():
    plan = make_plan([(640, 480)] * 9, 500, steps=100, num_downscales=1, views_per_step=1, density="none")
    until = plan.stages[0].until
    cost = [0.75 * side**2 + 20_000 for side in (320, 640)]
    seconds = [until * cost[0], until * cost[0] + (1 - until) * cost[1]]
    rate = 60 / seconds[0]  # a minute for the first size
    (early,) = lines_of(plan, [(int(99 * until), 60.0, until * (1 - 1e-9))])
    assert f"about {duration((seconds[1] - seconds[0]) * rate)} left" in early
    late = lines_of(plan, [(70, 60.0, until), (80, 70.0, until + (1 - until) / 2)])[1]  # half of the large size took 10 s
    assert "about 10 s left" in late


def test_an_open_run_says_when_it_ends():
    plan = make_plan([(640, 480)] * 9, 500)
    texts = lines_of(plan, [(100, 60.0, 0.3), (2000, 600.0, plan.average_from), (2010, 606.0, plan.average_from + 0.05)])
    assert "1 min 0 s" not in texts[0] and "60 s, until it no longer improves" in texts[0]
    assert "about 6.0 s left" in texts[2]


@pytest.mark.parametrize(("seconds", "text"), [(2.46, "2.5 s"), (9.97, "10 s"), (119.4, "119 s"), (200, "3 min 20 s"), (3900, "1 h 5 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text

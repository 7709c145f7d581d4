"""Values and statistics against closed forms, numpy and scipy."""

import math
import statistics

import numpy as np
import pytest
import scipy.stats
from made_cells import made_cell, made_comparison

from learn2splat.bench import stats


def test_values_of_one_run():
    cell = made_cell("a", "s", 0, {0: 10.0, 1: 12.0, 9: 11.0})
    assert stats.psnr_at_step(cell, 1) == 12.0 and stats.psnr_at_step(cell, 2) is None
    assert stats.psnr_at_seconds(cell, 0.5) == 12.0 and stats.psnr_at_seconds(cell, 0.6) == 11.0 and stats.psnr_at_seconds(cell, 5.0) is None
    assert (stats.best_psnr(cell), stats.last_psnr(cell)) == (12.0, 11.0)
    empty = made_cell("a", "s", 0, {})
    assert math.isnan(stats.best_psnr(empty)) and math.isnan(stats.last_psnr(empty)) and math.isnan(stats.area_under_curve(empty, 10))


def test_area_under_the_curve():
    # In log10(1 + step): from 0 to 1 the line 10 + 4 x, from 1 to 2 constant 14.
    cell = made_cell("a", "s", 0, {0: 10.0, 9: 14.0, 99: 14.0})
    assert stats.area_under_curve(cell, 9) == pytest.approx(12.0)
    assert stats.area_under_curve(cell, 99) == pytest.approx(13.0)
    half = 10**0.5 - 1  # not a step of the run: read off the line
    assert stats.area_under_curve(made_cell("a", "s", 0, {0: 10.0, 9: 14.0}), half) == pytest.approx(11.0)
    assert math.isnan(stats.area_under_curve(cell, 100)) and math.isnan(stats.area_under_curve(cell, 0))


def test_seconds_to_a_quality():
    cell = made_cell("a", "s", 0, {0: 10.0, 1: 14.0, 4: 16.0, 8: 15.0}, step_seconds=1.0)
    assert stats.seconds_to(cell, 10.0) == 0.0
    assert stats.seconds_to(cell, 12.0) == pytest.approx(0.5)  # straight in seconds before the first positive time, ...
    assert stats.seconds_to(cell, 15.0) == pytest.approx(2.0)  # ... in their logarithm after it: half-way from 1 to 4
    assert stats.seconds_to(cell, 16.0) == pytest.approx(4.0)
    assert math.isnan(stats.seconds_to(cell, 16.1))
    assert stats.seconds_to(made_cell("a", "s", 0, {0: math.nan, 2: 9.0}), 8.0) == 1.0


def test_clocks():
    cells = [made_cell("a", "s", 0, {0: 1.0, 10: 1.0}), made_cell("a", "s", 1, {0: 1.0, 30: 1.0}, step_seconds=1.5)]
    clocks = stats.clocks(cells)
    assert clocks.step == pytest.approx((5 + 45) / 40) and clocks.update == pytest.approx(0.1)
    assert clocks.render == pytest.approx(clocks.step - 0.1) and clocks.cpu_share == pytest.approx(2.0)
    assert stats.clocks([made_cell("a", "s", 0, {0: 1.0}), made_cell("a", "s", 1, {0: 1.0, 3: 1.0}, status="running")]) is None


def test_means_and_spreads():
    values = {("x", 0): 1.0, ("x", 1): 2.0, ("y", 0): 5.0, ("y", 1): 10.0}
    mean, spread = stats.mean_over_scenes(values)
    assert mean == pytest.approx(4.5) and spread == pytest.approx(statistics.stdev([3.0, 6.0]))
    mean, spread = stats.mean_over_scenes({("x", 0): 1.0, ("x", 1): 3.0, ("y", 0): 5.0})  # a scene counts as one, however many seeds it has
    assert mean == pytest.approx(3.5) and math.isnan(spread)
    assert all(map(math.isnan, stats.mean_over_scenes({})))


def test_the_bootstrap_of_one_scene_is_that_of_scipy():
    sample = np.random.default_rng(1).normal(0.3, 1.0, size=20)
    low, high = stats.bootstrap_interval([sample.tolist()])
    theirs = scipy.stats.bootstrap((sample,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2)).confidence_interval
    width = theirs.high - theirs.low
    assert abs(low - theirs.low) < 0.05 * width and abs(high - theirs.high) < 0.05 * width  # the noise of 4000 resamples is 2 %
    assert stats.bootstrap_interval([sample.tolist()]) == (low, high)


def test_the_bootstrap_draws_scenes_first():
    # Seeds of a scene agree, scenes differ: ten seeds of each make the interval no narrower, as 3 x 10 independent values would.
    few, many = stats.bootstrap_interval([[0.0], [1.0], [2.0]]), stats.bootstrap_interval([[0.0] * 10, [1.0] * 10, [2.0] * 10])
    assert few == (0.0, 2.0) == many  # P(all three draws the same scene) = 1/27 > 2.5 %
    assert all(map(math.isnan, stats.bootstrap_interval([[1.0]])))


def test_differences_are_paired():
    # Scenes differ by 10 dB, optimizers by 0.5 +- 0.1 within every pair: unpaired, that would be lost.
    rng = np.random.default_rng(0)
    base = {(f"s{i}", seed): 15.0 + 10 * (i % 2) + rng.normal() for i in range(6) for seed in range(2)}
    better = {pair: value + 0.5 + 0.1 * rng.normal() for pair, value in base.items()}
    c = made_comparison({"adam": base, "mine": better, "worst": {pair: value - 5 for pair, value in base.items()}})
    d = stats.difference(c, "mine")
    expected = statistics.mean(better[pair] - base[pair] for pair in base)
    assert (d.rival, d.pairs) == ("adam", 12) and d.mean == pytest.approx(expected) and 0.35 < d.low < d.mean < d.high < 0.65
    back = stats.difference(c, "adam")
    assert back.rival == "mine" and back.mean == pytest.approx(-expected)
    assert stats.wins(c) == {"adam": 0, "mine": 6, "worst": 0}
    assert stats.difference(made_comparison({"adam": base}), "adam") is None


def test_only_pairs_that_all_have_ended_are_compared():
    c = made_comparison({"adam": {("x", 0): 20.0, ("y", 0): 30.0}, "mine": {("x", 0): 21.0}})
    assert c.complete() == [("x", 0)] and c.pairs == [("x", 0), ("y", 0)]
    assert stats.difference(c, "mine").mean == pytest.approx(1.0)


def test_a_rival_with_a_run_that_went_wrong_is_none():
    ends = {("x", 0): 20.0, ("y", 0): 20.0}
    c = made_comparison({"adam": ends, "mine": {pair: 19.0 for pair in ends}, "high": {pair: 25.0 for pair in ends}})
    c.cells["high", "x", 0] = made_cell("high", "x", 0, {0: 10.0, 5: 25.0}, order=2, status="diverged")
    assert stats.difference(c, "mine").rival == "adam"
    assert math.isnan(c.last("high", ("x", 0))) and c.count("high", "diverged", c.complete()) == 1
    assert stats.wins(c) == {"adam": 1, "mine": 0, "high": 1}
    assert c.common_steps(("x", 0)) == 10  # of those that did what they should


def test_head_starts():
    cells = {
        "adam": {0: 10.0, 100: 20.0},
        "fast": {0: 10.0, 10: 20.0, 100: 24.0},  # adam's 20 dB after a tenth of the time
    }
    c = made_comparison({label: {("x", 0): 0.0, ("y", 0): 0.0} for label in cells})
    for label, psnrs in cells.items():
        for scene in ("x", "y"):
            c.cells[label, scene, 0] = made_cell(label, scene, 0, psnrs)
    c.cells["adam", "y", 0] = made_cell("adam", "y", 0, {0: 10.0, 100: 30.0})
    start = stats.head_start(c, "fast", "adam")
    assert start.factor == pytest.approx(10.0) and (start.reached, start.pairs) == (1, 2)
    assert stats.head_start(c, "adam", "adam").factor == pytest.approx(1.0)
    assert stats.head_start(c, "adam", "fast").reached == 1
    never = stats.head_start(made_comparison({"a": {("x", 0): 20.0}, "b": {("x", 0): 30.0}}), "a", "b")
    assert never.reached == 0 and math.isnan(never.factor)


def test_comparisons_keep_protocols_apart_and_the_order_of_the_command():
    one = made_cell("zeta", "x", 0, {0: 1.0}, order=0), made_cell("alpha", "x", 0, {0: 1.0}, order=1)
    assert stats.comparisons(one)[0].labels == ("zeta", "alpha")
    other = made_cell("alpha", "x", 0, {0: 1.0})
    moved = type(other)(other.path.parents[3] / "another" / "x" / "alpha" / "seed0.jsonl", other.header, other.points, other.end)
    assert [c.labels for c in stats.comparisons([*one, moved])] == [("alpha",), ("zeta", "alpha")]

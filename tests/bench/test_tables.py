"""What tables say: marks, runs that went wrong, what is not known; and CSV with all numbers."""

import csv
import io
import math

import pytest
from made_cells import made_cell, made_comparison

from learn2splat.bench import Budget, Protocol, report, tables
from learn2splat.bench.csv_rows import to_csv
from learn2splat.bench.curves import curves, value_at

PAIRS = [("x", 0), ("x", 1), ("y", 0), ("y", 1)]


def ends(*values):
    return dict(zip(PAIRS, values))


@pytest.fixture
def three():
    return made_comparison({"adam": ends(20, 21, 30, 31), "mine": ends(22, 22.5, 31, 33), "other": ends(19, 20, 29, 29)}, peak_bytes=3e6)


def column(table, name):
    return {row[0]: row[table.head.index(name)] for row in table.rows}


def marked(table, name):
    k = table.head.index(name)
    return tuple([table.rows[i][0] for i, column in sorted(marks) if column == k] for marks in (table.best, table.second))


def test_quality(three):
    table = tables.quality_table(three)
    assert column(table, "PSNR") == {"adam": "25.50 ± 0.71", "mine": "27.12 ± 0.88", "other": "24.25 ± 0.35"}
    assert marked(table, "PSNR") == (["mine"], ["adam"])
    assert column(table, "best - end") == dict.fromkeys(three.labels, "0.00") and marked(table, "best - end") == ([], [])
    assert column(table, "LPIPS") == dict.fromkeys(three.labels, "n/a")
    assert column(table, "wins") == {"adam": "0 of 2", "mine": "2 of 2", "other": "0 of 2"}
    assert column(table, "ahead of best rival")["mine"].startswith("+1.62 [") and column(table, "ahead of best rival")["adam"].endswith("on mine")


def test_cost(three):
    table = tables.cost_table(three)
    assert column(table, "ms / step")["adam"] == "500.0" and column(table, "update")["adam"] == "100.0" and column(table, "render")["adam"] == "400.0"
    assert column(table, "MB") == dict.fromkeys(three.labels, "3")
    assert column(table, "steps")["mine"] == "10" and column(table, "seconds")["mine"] == "5.0"
    assert column(table, "to adam's end")["adam"] == "1.0x" and column(table, "to adam's end")["other"] == "–"
    assert marked(table, "to adam's end") == (["mine"], [])


def test_lpips_where_it_was_measured():
    c = made_comparison({"adam": ends(20, 21, 30, 31), "mine": ends(22, 22, 31, 33)})
    for n, (_, cell) in enumerate(sorted(c.cells.items())):
        cell.end["lpips_vgg"] = 0.5 - 0.01 * n
    table = tables.quality_table(c)
    assert column(table, "LPIPS vgg") == {"adam": "0.485", "mine": "0.445"} and marked(table, "LPIPS vgg") == (["mine"], [])  # small is good
    assert "LPIPS" not in table.head and "LPIPS alex" not in table.head


def test_why_there_is_no_lpips_is_said_once(three):
    for cell in three.cells.values():
        cell.end["lpips_missing"] = "torchvision is not installed"
    found = dict(tables.notes(three, tables.quality_table(three)))
    assert found["LPIPS"].startswith("n/a: torchvision is not installed (") and found["PSNR"]
    assert set(dict(tables.notes(three, tables.cost_table(three)))) >= {"MB", "to adam's end"}


def test_flip_stands_where_lpips_is_missing(three):
    for cell in three.cells.values():
        cell.end.update(lpips_missing="torchvision is not installed", flip=0.1, st_lpips_alex=0.2)
    table = tables.quality_table(three)
    assert "LPIPS" not in table.head and column(table, "ST-LPIPS alex")["adam"] == "0.200" and column(table, "FLIP")["adam"] == "0.100"
    assert "LPIPS is not here: torchvision is not installed" in dict(tables.notes(three, table))["FLIP"]


def test_equals_share_a_mark():
    c = made_comparison({"a": ends(20, 20, 30, 30), "b": ends(20, 20, 30, 30), "c": ends(19, 19, 29, 29)})
    assert marked(tables.quality_table(c), "best") == (["a", "b"], [])
    c = made_comparison({"a": ends(20, 20, 30, 30), "b": ends(20, 20, 30, 30)})
    assert marked(tables.quality_table(c), "best") == ([], [])


def test_runs_that_went_wrong_are_rows(three):
    three.cells["other", "x", 1] = made_cell("other", "x", 1, {0: 10.0, 5: 28.0}, order=2, status="diverged")
    three.cells["mine", "y", 0] = made_cell("mine", "y", 0, {0: 10.0}, order=1, status="failed", error="KeyError: 'a'", where="rule.py:3")
    table = tables.quality_table(three)
    assert column(table, "PSNR") == {"adam": "25.50 ± 0.71", "mine": "failed 1/4", "other": "DIV 1/4"}
    assert column(table, "best")["other"] == "26.25" and column(table, "best")["mine"] == "–" and column(table, "log-area")["other"] == "–"
    assert tables.unfinished(three) == [
        "mine on y, seed 0: failed after 0 steps with KeyError: 'a' (rule.py:3)",
        "other on x, seed 1: diverged after 5 steps; the last finite state is scored",
    ]
    assert tables.headline(three).startswith("Nothing can be compared yet: too many runs went wrong")


def test_a_benchmark_under_way(three):
    three.cells["mine", "y", 1] = made_cell("mine", "y", 1, {0: 10.0, 5: 20.0}, order=1, status="running")
    assert tables.unfinished(three) == ["mine on y, seed 1: not finished, last scored at step 5"]
    assert column(tables.scenes_table(three), "y")["adam"] == "30.00"  # of the seed that all have ended
    nothing = made_comparison({"adam": ends(20), "mine": ends(21)}, status="running")
    assert column(tables.quality_table(nothing), "PSNR") == {"adam": "–", "mine": "–"}
    assert "no scene and seed has been ended by every optimizer" in tables.headline(nothing)


def test_a_single_optimizer_is_no_comparison():
    alone = made_comparison({"mine": {("a", 0): 20.0, ("b", 0): 21.0}})
    assert tables.headline(alone) == "mine ends at 20.50 dB over 2 scenes and 1 seed: the only optimizer here."


def test_headlines(three):
    assert tables.headline(three).startswith("mine ends at 27.12 dB, 1.62 dB (95 % interval ")
    assert tables.headline(three).endswith("ahead of adam, the next best, over 2 scenes and 2 seeds.")
    close = made_comparison({"adam": ends(20, 21, 30, 31), "mine": ends(22, 20, 31, 30)})
    assert "this is no clear difference" in tables.headline(close)


def test_markdown(three):
    lines = tables.scenes_table(three).markdown().splitlines()
    assert lines[0] == "| optimizer | x | y |" and lines[1] == "|---|---:|---:|"
    assert lines[3] == "| mine | **22.25 ± 0.35** | **32.00 ± 1.41** |" and lines[2].startswith("| adam | *20.50")


def test_csv_has_a_row_per_cell(three):
    three.cells["other", "x", 1] = made_cell("other", "x", 1, {}, order=2, status="failed", error="x", where="y")
    rows = list(csv.DictReader(io.StringIO(to_csv([three]))))
    assert len(rows) == 12 and all(None not in row and None not in row.values() for row in rows)
    row = next(row for row in rows if (row["optimizer"], row["scene"], row["seed"]) == ("mine", "y", "1"))
    assert float(row["psnr_end"]) == 33 and row["budget"] == "adam:1000" and float(row["psnr_step_10"]) == 33 and row["psnr_step_5"] == ""
    assert 0 < float(row["seconds_to_first"]) < float(row["seconds"]) == 5.0 and row["lpips_vgg"] == "" and row["gpu"] == ""
    failed = next(row for row in rows if row["status"] == "failed")
    assert failed["psnr_end"] == "" and failed["steps"] == "0"


def test_titles_and_facts_say_the_protocol(three):
    assert report._title(three) == "Dense, 256 px, equal time (adam:1000)"
    other = Protocol(budget=Budget.parse("steps:9"), suite="llff", size=(756, 1008), metrics="inria", context_views=8, index="abc")
    three.protocol.clear()
    three.protocol.update(other.describe())
    assert report._title(three) == "llff: sparse, 8 views, 1008x756 px, equal steps (steps:9), metrics of inria"
    text = report.facts(three)["protocol"]
    assert "photos: 1008x756 px" in text and "evaluation index abc" in text and "PSNR and SSIM as inria computes them" in text
    assert report.facts(three)["command"] == "learn2splat bench 'a scene'"
    assert report.facts(three)["machine"] == "a processor, 1 of 2 cores; median load 1.5"


def test_curves_are_means_over_seeds_with_bands():
    c = made_comparison({"adam": ends(20, 22)})
    step = curves(c, "x", "step")[0]
    assert step.points == [(0.0, 10.0), (10.0, 21.0)] and step.band[-1] == (10.0, 20.0, 22.0)
    seconds = curves(c, "x", "seconds")[0]
    assert seconds.points[0] == (0.0, 10.0) and seconds.points[-1] == pytest.approx((5.0, 21.0))
    c.cells["adam", "x", 1] = made_cell("adam", "x", 1, {0: 10.0, 1: 16.0, 100: 22.0}, step_seconds=0.5)
    seconds = curves(c, "x", "seconds")[0]
    assert seconds.points[-1][0] == pytest.approx(5.0)  # as far as both go
    assert seconds.points[-1][1] == pytest.approx((20 + 19) / 2)  # the other is half-way from 16 to 22 in the logarithm
    assert value_at([(0.0, 1.0), (1.0, 3.0), (100.0, 5.0)], 0.5) == 2.0 and value_at([(1.0, 3.0), (100.0, 5.0)], 10.0) == pytest.approx(4.0)
    assert value_at([(0.0, 1.0), (1.0, 3.0)], 7.0) == 3.0


def test_numbers():
    assert tables.number(math.nan) == "–" and tables.number(1.2345, 3) == "1.234" and tables.with_spread(1.0, math.nan) == "1.00"
    assert tables.with_spread(math.nan, 1.0) == "–"

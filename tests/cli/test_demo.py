"""The demo: a table, and a page that needs nothing but itself."""

import re

import pytest

from learn2splat.bench.chart import LEFT, RIGHT, WIDTH, Series, line_chart, nice_ticks
from learn2splat.cli import demo, main


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    patch = pytest.MonkeyPatch()
    patch.setattr(demo, "WIDTH", 40)
    patch.setattr(demo, "HEIGHT", 30)
    patch.setattr(demo, "NUM_POINTS", 100)
    code = main(["demo", "--out", str(out), "--steps", "12"])
    patch.undo()
    assert code == 0
    return (out / "report.html").read_text()


def test_the_page_is_well_formed_and_self_contained(page, check_page):
    check_page(page)
    assert "<script" not in page


def test_the_page_shows_what_was_measured(page):
    text = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)
    for name in demo.OPTIMIZERS:
        assert f"{name}</td>" in text  # a row of the table
        assert re.search(rf"{name}, \d+\.\d\d dB", text)  # a render with its score
    assert text.count("<polyline") == 2 * len(demo.OPTIMIZERS)
    assert page.count("data:image/png") == 2 * (1 + len(demo.OPTIMIZERS)) + 3 * len(demo.OPTIMIZERS)  # photos and renders; steps 0, 10, 12
    assert "learn2splat 0." in text and "torch" in text


def test_ticks_are_round_and_enclose_the_range():
    assert nice_ticks(14.3, 23.9, 6) == [14, 16, 18, 20, 22, 24]
    assert nice_ticks(0, 45.1, 6) == [0, 10, 20, 30, 40, 50]
    assert nice_ticks(20.0, 20.0, 6)[0] <= 20.0 <= nice_ticks(20.0, 20.0, 6)[-1]


@pytest.mark.parametrize("log_x", [True, False])
def test_points_lie_inside_the_chart(log_x):
    series = [Series("a", "red", [(0, 10.0), (3, 12.0), (300, 25.0)]), Series("b", "blue", [(0, 10.0), (200, 24.9)])]
    svg = line_chart(series, "step", "dB", log_x=log_x)
    points = [tuple(map(float, pair)) for pair in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert len(points) == 5
    right = WIDTH - RIGHT
    assert all(LEFT <= x <= right + 0.1 and 14 <= y <= 258 for x, y in points)
    assert points[0][0] == LEFT and points[2][0] == pytest.approx(right)
    labels = [float(y) for y in re.findall(rf'class="label" x="{right + 8}" y="([\d.]+)"', svg)]
    assert abs(labels[0] - labels[1]) >= 15


def test_a_report_of_others_is_not_replaced(tmp_path, capsys):
    (tmp_path / "report.html").write_text("<p>mine</p>")
    assert main(["demo", "--out", str(tmp_path), "--steps", "1"]) == 2
    assert "is not a report of learn2splat demo" in capsys.readouterr().err
    assert (tmp_path / "report.html").read_text() == "<p>mine</p>"

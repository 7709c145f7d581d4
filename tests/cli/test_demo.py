"""The demo: a table, and a page that needs nothing but itself."""

import re
import signal

import pytest

from learn2splat.bench.chart import LEFT, RIGHT, WIDTH, Series, line_chart, nice_ticks
from learn2splat.cli import demo, main
from learn2splat.gaussians import load_ply


@pytest.fixture
def small(monkeypatch):
    for name, value in (("WIDTH", 40), ("HEIGHT", 30), ("NUM_POINTS", 100), ("SLICE", 0.02)):
        monkeypatch.setattr(demo, name, value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    patch = pytest.MonkeyPatch()
    for name, value in (("WIDTH", 40), ("HEIGHT", 30), ("NUM_POINTS", 100), ("SLICE", 0.02)):
        patch.setattr(demo, name, value)
    code = main(["demo", "--out", str(out), "--seconds", "0.6"])
    patch.undo()
    assert code == 0
    return out


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text()


def test_the_page_is_well_formed_and_self_contained(page, check_page):
    check_page(page)


def test_the_page_shows_what_was_measured(page):
    text = re.sub(r"<(script|style)>.*?</\1>", "", page, flags=re.S)
    for name in demo.OPTIMIZERS:
        assert f"{name}</td>" in text  # a row of the table
        assert re.search(rf"{name} \d+\.\d\d dB", text)  # in the headline
    for column in ("start", "0.04 s", "0.08 s", "0.16 s", "0.32 s", "0.6 s", "SSIM", "Gaussians"):
        assert f"<th>{column}</th>" in text
    assert text.count("<polyline") == 2 * len(demo.OPTIMIZERS)
    assert text.count("data:image/webp") == len(demo.SHOWN) * len(demo.OPTIMIZERS)  # strips
    assert page.count("data:image/webp") - text.count("data:image/webp") == 3 * (1 + len(demo.SCORED) * len(demo.OPTIMIZERS))  # the slider's
    assert "learn2splat 0." in text and "torch" in text


def test_the_slider_works_in_a_browser(folder, browser):
    troubles = []
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.goto((folder / "report.html").as_uri())
    assert page.locator(".compare .scene option").count() == 3 and page.locator(".compare .now").inner_text() == "0.6 s"
    assert page.locator(".compare .when").get_attribute("max") == str(len(demo.SCORED) - 1)  # a stop for each mark, whatever the steps overshot
    page.locator(".compare .when").evaluate("input => { input.value = 0; input.dispatchEvent(new Event('input')); }")
    assert page.locator(".compare .under").get_attribute("src") == page.locator(".compare .over").get_attribute("src")  # the same start
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
    assert troubles == []


def test_the_splat_of_the_last_optimizer_is_kept(folder):
    assert len(load_ply(folder / "point_cloud.ply")) > 10


@pytest.mark.usefixtures("small")
def test_ctrl_c_shows_what_was_done(tmp_path, monkeypatch, capsys):
    take_turn, turns = demo._Lane.take_turn, iter(range(10**6))
    monkeypatch.setattr(demo._Lane, "take_turn", lambda lane: (take_turn(lane), signal.raise_signal(signal.SIGINT) if next(turns) == 4 else None))
    assert main(["demo", "--out", str(tmp_path), "--seconds", "60"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == f"learn2splat: stopped; {tmp_path / 'report.html'} shows what was done until then"
    assert "&ndash;" in (tmp_path / "report.html").read_text()  # moments that were not reached


def test_what_cannot_be_is_said_before_anything_is_computed(tmp_path, sentence):
    assert "--seconds must be positive, got 0" in sentence("demo", "--seconds", "0")
    (tmp_path / "file").write_text("mine")
    assert "file" in sentence("demo", "--out", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


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


@pytest.mark.parametrize("name", ["report.html", "point_cloud.ply"])
def test_files_of_others_are_not_replaced(tmp_path, sentence, name):
    (tmp_path / name).write_text("<p>mine</p>")
    assert f"{name} is not " in sentence("demo", "--out", tmp_path, "--seconds", "1")
    assert (tmp_path / name).read_text() == "<p>mine</p>"


@pytest.mark.usefixtures("small")
def test_the_demo_runs_again_into_its_own_folder(tmp_path):
    for _ in range(2):
        assert main(["demo", "--out", str(tmp_path), "--seconds", "0.05"]) == 0

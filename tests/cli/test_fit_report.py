"""The page that `fit` writes: what it shows, for runs of every end, and in a browser."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_scenes import blobs, tiny_scene

from learn2splat.cli import main
from learn2splat.cli.fit_page import fit_page
from learn2splat.cli.fit_pictures import ALL_PIXELS, ERROR_COLORS, LONGEST, SHORTEST, difference_picture, held_out, held_out_in_haste, long_side
from learn2splat.fitting import CurvePoint, fit, flat_plan, make_plan, score

SCENE = tiny_scene()
FACTS = {"command": "learn2splat fit <tiny> & more"}


def plain(page):
    """Without pictures, script and style."""
    return re.sub(r"data:image/\w+;base64,[A-Za-z0-9+/=]+", "DATA", re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.S))


def page_of(result, scene=SCENE):
    scores, pictures = ([], held_out_in_haste(scene, result.gaussians)) if result.interrupted else held_out(scene, result.gaussians)
    return fit_page(scene, result, scores, pictures, FACTS)


def test_the_page_is_in_the_folder_and_shows_what_was_measured(fitted, check_page):
    page = (fitted / "report.html").read_text()
    check_page(page)
    text, metrics = plain(page), json.loads((fitted / "metrics.json").read_text())
    numbers = (f"{metrics['psnr']:.2f} dB", f"{metrics['ssim']:.3f}")
    for words in (*numbers, "It ended after the steps", "Ends after 12 steps", "averaged", "nominal", "torch"):
        assert words in text
    for photo in metrics["photos"]:
        assert f"<td>{photo['name']}</td>" in text and f"{photo['psnr']:.2f}" in text
    assert text.count("DATA") == 3 * 2  # photo, render and difference of each
    assert text.count("<polyline") == 3 and text.count("<circle") == len(metrics["curve"])
    shares = [float(share) for share in re.findall(r'<span style="width:([\d.]+)%', text)]
    assert sum(shares) == pytest.approx(100, abs=0.1)
    assert shares[1] == pytest.approx(100 * metrics["time"]["update"] / metrics["seconds"], abs=0.1)


def test_no_report(scene_folder, tmp_path, capsys):
    options = ["--optimizer", "adam", "--steps", "1", "--out", str(tmp_path / "out")]
    assert main(["fit", str(scene_folder), *options]) == 0
    assert (tmp_path / "out" / "report.html").exists() and "report.html in a browser" in capsys.readouterr().out
    assert main(["fit", str(scene_folder), *options, "--overwrite", "--no-report"]) == 0
    assert not (tmp_path / "out" / "report.html").exists() and "report.html" not in capsys.readouterr().out
    assert len(json.loads((tmp_path / "out" / "metrics.json").read_text())["photos"]) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "It ended after the steps"),
        ({"plan": flat_plan(32, steps=None, seconds=1.0, views_per_step=8)}, "It ended when its time was over"),
        ({"plan": make_plan([(32, 24)] * 8, 40), "settled": True}, "It ended by itself"),
        ({"diverged": True}, "It diverged"),
        ({"interrupted": True}, "It was stopped"),
        ({"interrupted": True, "curve": ()}, "It was stopped"),
        ({"interrupted": True, "curve": (CurvePoint(0, 0.0, 14.0, 0.3),)}, "PSNR at step 0"),
    ],
)
def test_runs_of_every_end_have_a_page(change, words, check_page):
    result = replace(fit(SCENE, blobs(), "adam", steps=2, eval_at=(0,)), **change)
    page = page_of(result)
    check_page(page)
    assert words in plain(page) and "&lt;tiny&gt; &amp; more" in page
    assert ("<h2>Scores</h2>" in page) == (not result.interrupted)


def test_a_run_without_a_step_has_a_page(check_page):
    check_page(page_of(fit(SCENE, blobs(), "adam", steps=0)))


def test_hostile_names_and_photos_of_two_sizes(check_page):
    scene = tiny_scene(10, two_sizes=True)
    names = tuple(f'<b onclick="x">&{i}.png' for i in range(10))
    scene = replace(scene, name="</title><script>alert(1)</script>", image_names=names, train_idx=tuple(range(1, 9)), test_idx=(9, 0))
    page = page_of(fit(scene, blobs(), "adam", steps=1), scene)
    check_page(page)
    assert page.count("<script>") == 1 and "<b onclick" not in page


def test_scores_are_those_of_eval_in_the_order_of_the_photos():
    scene = replace(tiny_scene(10, two_sizes=True), test_idx=(9, 0, 8))
    scores, pictures = held_out(scene, blobs(seed=1))
    assert scores == score(scene, blobs(seed=1)) and [each.name for each in pictures] == [scene.image_names[i] for i in (9, 0, 8)]
    assert [each.name for each in held_out_in_haste(scene, blobs())] == [each.name for each in pictures]


def test_a_difference_is_black_where_there_is_none_and_pale_where_it_is_large():
    photo, render = torch.zeros(1, 3, 3), torch.zeros(1, 3, 3)
    render[0, 1], render[0, 2] = 0.1, torch.tensor([1.0, 0, 0])
    assert np.array(difference_picture(render, photo))[0].tolist() == [list(ERROR_COLORS[0]), list(ERROR_COLORS[2]), list(ERROR_COLORS[4])]


def test_pictures_of_many_photos_are_smaller():
    assert long_side(1) == LONGEST and long_side(10_000) == SHORTEST
    assert all(n * long_side(n) ** 2 / 1.5 == pytest.approx(ALL_PIXELS, rel=0.02) for n in (12, 40, 100))


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(fitted, browser, width):
    """It works, says nothing on its console, asks nobody for anything, and nothing sticks out."""
    address, troubles = (fitted / "report.html").as_uri(), []
    page = browser.new_page(viewport={"width": width, "height": 844})
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: None if request.url == address or request.url.startswith("data:") else troubles.append(request.url))
    page.goto(address)

    def shown():
        for name in ("under", "over", "error"):
            image = page.locator(f".held-out .{name}")
            page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image.element_handle())
        return [page.locator(f".held-out .{name}").get_attribute("src") for name in ("under", "over", "error")]

    first = shown()
    assert len(set(first)) == 3 and "view_00.png" in page.locator(".held-out .name").inner_text()
    page.locator(".pick").nth(1).click()
    second = shown()
    assert not set(first) & set(second) and "view_08.png" in page.locator(".held-out .name").inner_text()
    page.locator(".pick").nth(1).press("ArrowLeft")
    assert shown() == first and page.locator(".pick").nth(0).get_attribute("aria-pressed") == "true"
    page.locator(".wipe").evaluate("wipe => { wipe.value = 20; wipe.dispatchEvent(new Event('input')); }")
    assert page.locator(".over").evaluate("image => getComputedStyle(image).clipPath").split()[-1].startswith("20%")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()
    assert troubles == []

"""The viewer in a browser: colours against gsplat's harmonics; a run that is watched, paused and raced against has the bits of one that is not."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from gsplat.cuda._torch_impl import _spherical_harmonics
from tiny_scenes import blobs, tiny_scene, write_colmap

from learn2splat.cli import main
from learn2splat.fitting import fit, flat_plan
from learn2splat.gaussians import init_from_points, save_ply
from learn2splat.viewer.colors import colors_from, shown
from learn2splat.viewer.photos import compared

PORT = 18431


def test_colours_are_those_that_gsplat_sees():
    g, eye = blobs(200), torch.tensor([0.3, -2.0, 1.0])
    g.shN = 0.2 * torch.randn(200, 15, 3, generator=torch.Generator().manual_seed(0))
    expected = (_spherical_harmonics(3, g.means - eye, g.sh()) + 0.5).clamp(0, 1)
    torch.testing.assert_close(colors_from(g, eye.numpy()), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(colors_from(g, None), (0.5 + 0.28209479 * g.sh0[:, 0]).clamp(0, 1))


def test_what_is_sent():
    g = blobs(50)
    g.logit_opacities[:5] = -9
    what = shown(g, None)
    assert what.centers.shape == (45, 3) and what.opacities.shape == (45, 1)  # what no pixel shows is left out
    eigenvalues = torch.linalg.eigvalsh(torch.from_numpy(what.covariances).double())
    torch.testing.assert_close(eigenvalues.float(), (2 * g.log_scales[5:]).exp().sort(dim=1).values, rtol=1e-3, atol=1e-7)


def test_difference_of_a_perfect_splat_is_black():
    photo, render, difference = compared(tiny_scene(), blobs(), 0)
    assert photo.shape == render.shape == (24, 32, 3) and difference.max() <= 6


@pytest.fixture
def watched(browser):
    """A LiveFit of the tiny scene with a browser that looks at it."""
    from learn2splat.viewer.live import LiveFit

    scene = tiny_scene()
    start = init_from_points(scene.points, scene.colors, generator=torch.Generator().manual_seed(0))
    plan = flat_plan(32, steps=12, seconds=None, views_per_step=4)
    live = LiveFit(scene, start, plan, "nominal", 0, PORT, lambda *_: "", lambda: False)
    page = browser.new_page()
    page.goto(f"http://localhost:{live.server.get_port()}")
    until(lambda: live.stage.watched)
    yield live, page, scene, start, plan
    live.close()


def until(condition, seconds=30):
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.02)


def test_a_watched_run_has_the_same_bits(watched):
    live, page, scene, start, plan = watched
    steps = []

    def on_step(progress):
        steps.append(progress.step)
        live(progress)

    live.pause(True)
    live.race("adam")
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(scene, start, "nominal", plan=plan, on_step=on_step)))
    thread.start()
    until(lambda: steps)
    time.sleep(0.3)
    assert steps == [0]
    live.step()
    until(lambda: len(steps) == 2)
    time.sleep(0.3)
    assert steps == [0, 1] and thread.is_alive()
    until(lambda: "paused" in page.inner_text("body"))
    assert "adam" in page.inner_text("body")
    page.close()  # nobody looks any more: the run must not wait for ever
    thread.join(timeout=60)
    alone = fit(scene, start, "nominal", plan=plan)
    assert torch.equal(results[0].gaussians.flatten(), alone.gaussians.flatten())
    rival = live.rival.run
    same = fit(scene, start, "adam", plan=plan, should_stop=_after(rival.step))
    assert 0 < rival.step <= 12 and torch.equal(rival.gaussians.flatten(), same.gaussians.flatten())


def _after(count):
    """Asked before every step: true once `count` have been made."""
    asked = iter(range(1000))
    return lambda: next(asked) >= count


def test_view_serves_a_result_until_ctrl_c(browser, tmp_path):
    save_ply(tmp_path / "a.ply", blobs())
    scene = write_colmap(tmp_path / "scene")
    command = [sys.executable, "-m", "learn2splat", "view", tmp_path / "a.ply", "--scene", scene, "--port", str(PORT + 5)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "SSH_CONNECTION": "1 2 3 4"})
    try:
        first = process.stderr.readline()
        while "viewer:" not in first:
            assert first, "ended early"
            first = process.stderr.readline()
        port = re.search(r"http://localhost:(\d+)", first)[1]
        assert f"ssh -L {port}:localhost:{port}" in process.stderr.readline()
        page, outside = browser.new_page(), []
        page.on("request", lambda request: None if re.match(r"(ws|http)://localhost|data:|blob:", request.url) else outside.append(request.url))
        page.goto(f"http://localhost:{port}")
        page.wait_for_function("document.body.innerText.includes('look from there')")
        text = page.inner_text("body")
        assert "40 Gaussians" in text and "held out" in page.content() and "cameras" in text and outside == []
        page.close()
    finally:
        process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and out == ""


def test_without_viser_one_sentence(monkeypatch, tmp_path, capsys):
    save_ply(tmp_path / "a.ply", blobs())
    monkeypatch.setitem(sys.modules, "viser", None)
    assert main(["view", str(tmp_path / "a.ply")]) == 2
    err = capsys.readouterr().err.strip()
    assert err.count("\n") == 0 and "pip install 'learn2splat[view]'" in err and "export --format html" in err

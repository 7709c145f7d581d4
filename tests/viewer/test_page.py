"""The page of a splat in a browser, pixel by pixel against our rasterizer; what it does with hands, keys and small screens; it asks for nothing."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_scenes import blobs

from learn2splat.gaussians import Gaussians, save_ply
from learn2splat.render import rasterize
from learn2splat.viewer.page import Viewpoint, pack, splat_page

WIDTH, HEIGHT, FOV = 320, 240, 0.9
UP = np.array([0.0, -1.0, 0.0])
START = Viewpoint("<first>", np.array([0.0, 0.0, -1.6]), np.array([0.0, 0.0, 1.0]), 1.6)
SIDE = Viewpoint("side", np.array([-1.4, -0.5, 0.3]), np.array([0.9, 0.3, -0.2]) / np.linalg.norm([0.9, 0.3, -0.2]), 1.5)


def colorful(degree=3):
    """Blobs whose colours depend on the view, with harmonics up to `degree`."""
    g, generator = blobs(300), torch.Generator().manual_seed(1)
    g.shN = 0.25 * torch.randn(300, 15, 3, generator=generator)
    g.shN[:, (degree + 1) ** 2 - 1 :] = 0
    g.logit_opacities = 2 * torch.randn(300, generator=generator)
    g.log_scales -= 0.7
    return g


def rendered(g, view):
    """(HEIGHT, WIDTH, 3) uint8 by the CPU rasterizer, from the same place."""
    right = np.cross(view.forward, UP)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(view.forward, right), view.forward], axis=1)
    pose[:3, 3] = view.position
    focal = 0.5 * HEIGHT / np.tan(FOV / 2)
    K = torch.tensor([[[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]]], dtype=torch.float32)
    viewmat = torch.from_numpy(np.linalg.inv(pose)).float()[None]
    image, _, _ = rasterize(
        g.means, g.quats, g.log_scales.exp(), g.logit_opacities.sigmoid(), g.sh(), viewmat, K, WIDTH, HEIGHT, sh_degree=3, near_plane=0.05
    )
    return (image[0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()


@pytest.fixture
def open_splat(browser, tmp_path):
    """Opens the page of Gaussians, moving only when told to; nothing may have been said on the console or asked of anybody when the test ends."""
    troubles, pages = [], []

    def run(g, views=(START, SIDE), size=(WIDTH, HEIGHT), hash="", motion="reduce", **options):
        file = tmp_path / "splat.html"
        file.write_text(splat_page(g, "<b>&", list(views), up=UP, fov=FOV, aspect=WIDTH / HEIGHT, **options), encoding="utf-8")
        page = browser.new_page(viewport={"width": size[0], "height": size[1]}, reduced_motion=motion)
        pages.append(page)
        page.on("console", lambda message: None if "GPU stall" in message.text else troubles.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        own = ("file://", "blob:", "data:")
        page.on("request", lambda request: None if request.url.startswith(own) else troubles.append(request.url))
        page.goto(file.as_uri() + hash)
        page.wait_for_function("document.body.classList.contains('ready')")
        return page

    yield run
    for page in pages:
        page.close()
    assert troubles == []


def picture(page):
    """What the canvas shows once it is at rest, (H, W, 3) uint8."""
    page.wait_for_timeout(250)
    url = page.evaluate("document.querySelector('canvas').toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


def psnr(a, b):
    return -10 * np.log10(np.mean((a.astype(float) - b.astype(float)) ** 2) / 255**2 + 1e-12)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_it_draws_what_the_rasterizer_draws(open_splat, degree):
    g = colorful(degree)
    page = open_splat(g)
    assert psnr(picture(page), rendered(g, START)) > 40
    hash = "#" + ";".join(",".join(f"{x:.6f}" for x in v) for v in (SIDE.position, SIDE.forward)) + f";{SIDE.distance}"
    page.evaluate("hash => { location.hash = hash }", hash)
    assert psnr(picture(page), rendered(g, SIDE)) > 40
    assert psnr(rendered(g, START), rendered(g, SIDE)) < 25  # else this would say nothing
    if degree:
        flat = Gaussians(**{**g.tensors(), "shN": torch.zeros_like(g.shN)})
        assert psnr(rendered(flat, SIDE), rendered(g, SIDE)) < 35


def test_bytes_of_the_page():
    g = colorful(0)
    assert [pack(colorful(degree))[1] for degree in range(4)] == [0, 3, 8, 15]
    g.logit_opacities.clamp_(min=-5)
    data, coefficients, _ = pack(g)
    assert len(data) == 34 * 300 and coefficients == 0
    g.logit_opacities[:10] = -9
    assert len(pack(g)[0]) == 34 * 290  # what no pixel shows is left out
    text = splat_page(g, "a</title><script>", [Viewpoint("</script>", *(START.position, START.forward, 1.0))], up=UP, fov=1.0, aspect=1.5)
    assert "a</title>" not in text and text.count("</script>") == 6 and not re.search(r"https?://(?!www\.w3)", text)


def drag(page, by, button="left"):
    page.mouse.move(WIDTH / 2, HEIGHT / 2)
    page.mouse.down(button=button)
    page.mouse.move(WIDTH / 2 + by[0], HEIGHT / 2 + by[1], steps=5)
    page.wait_for_timeout(120)
    page.mouse.up(button=button)


def test_hands_move_it(open_splat):
    page = open_splat(colorful(0))
    state = lambda: page.evaluate("() => ({...view, position: camera().position})")  # noqa: E731
    before = state()
    drag(page, (60, 0))
    turned = state()
    assert turned["yaw"] < before["yaw"] - 0.5 and turned["target"] == before["target"] and turned["distance"] == before["distance"]
    drag(page, (40, 0), button="right")
    moved = state()
    assert moved["yaw"] == turned["yaw"] and np.linalg.norm(np.subtract(moved["target"], turned["target"])) > 0.1
    page.mouse.wheel(0, 300)
    page.wait_for_function("before => view.distance > 1.1 * before && Math.abs(speed.zoom) < 0.01", arg=moved["distance"])
    page.wait_for_function("() => location.hash.split(/[;,]/).length === 7")  # the address remembers the view
    page.keyboard.press("r")
    page.wait_for_function("() => !flight")
    assert state()["yaw"] == pytest.approx(before["yaw"], abs=1e-6) and state()["distance"] == pytest.approx(1.6)
    page.click(".next")
    page.wait_for_function("() => !flight")
    np.testing.assert_allclose(state()["position"], SIDE.position, atol=1e-5)
    assert page.locator(".where").inner_text().split() == ["side", "2/2"]
    page.mouse.dblclick(WIDTH / 2, HEIGHT / 2)
    page.wait_for_function("() => !flight")
    assert state()["distance"] != pytest.approx(SIDE.distance, abs=1e-3)


def test_it_keeps_turning_after_a_throw_and_rests_in_the_end(open_splat):
    page = open_splat(colorful(0))
    thrown = page.evaluate("""() => {
        const c = document.querySelector('canvas'); c.setPointerCapture = () => {};
        const send = (kind, x) => c.dispatchEvent(new PointerEvent(kind, {pointerId: 1, clientX: x, clientY: 100, buttons: 1, bubbles: true}));
        send('pointerdown', 100);
        for (let k = 1; k < 5; k++) send('pointermove', 100 + 4 * k);
        send('pointerup', 116); return view.yaw; }""")
    page.wait_for_function("thrown => view.yaw < thrown - 0.02", arg=thrown)
    page.wait_for_function("() => Math.abs(speed.yaw) < 1e-3")


def test_pinching_zooms(open_splat):
    page = open_splat(colorful(0))
    page.evaluate("""() => {
        const c = document.querySelector('canvas'); c.setPointerCapture = () => {};
        const send = (kind, id, x) => c.dispatchEvent(new PointerEvent(kind, {pointerId: id, clientX: x, clientY: 100, bubbles: true}));
        send('pointerdown', 1, 140); send('pointerdown', 2, 180);
        for (let k = 0; k < 5; k++) { send('pointermove', 1, 140 - 8 * k); send('pointermove', 2, 180 + 8 * k); }
        send('pointerup', 1, 100); send('pointerup', 2, 220); }""")
    assert page.evaluate("view.distance") < 0.9


def test_it_turns_by_itself_until_somebody_takes_over(open_splat):
    page = open_splat(colorful(0), motion="no-preference")
    page.wait_for_function("start => Math.abs(view.yaw - start) > 0.02", arg=page.evaluate("views[0].yaw"))
    drag(page, (10, 0))
    page.wait_for_function("() => !turning && Math.abs(speed.yaw) < 1e-3")


@pytest.mark.parametrize("width", [1200, 360])
def test_nothing_sticks_out(open_splat, width):
    page = open_splat(colorful(0), size=(width, 640))
    for panel in page.locator(".panel:visible").all():
        box = panel.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["y"] + box["height"] <= 640
    assert page.locator(".title b").inner_text() == "<b>&" and page.title() == "<b>&"
    page.click(".help")
    assert "double click" in page.locator(".keys").inner_text()


def test_without_webgl_it_says_so(browser, tmp_path):
    file = tmp_path / "splat.html"
    file.write_text(splat_page(blobs(), "x", [START], up=UP, fov=FOV, aspect=1.5), encoding="utf-8")
    page = browser.new_page()
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    page.goto(file.as_uri())
    page.wait_for_function("document.body.classList.contains('failed')")
    assert "no WebGL 2" in page.locator(".trouble").inner_text()
    page.close()


def test_export_writes_it(tmp_path, capsys):
    from learn2splat.cli import main

    save_ply(tmp_path / "a.b.ply", blobs())
    assert main(["export", str(tmp_path / "a.b.ply"), "--format", "html"]) == 0
    assert (tmp_path / "a.b.html").exists() and "open it in a browser" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "a.b.ply"), "--out", str(tmp_path / "c.html")]) == 0
    assert (tmp_path / "c.html").read_text() == (tmp_path / "a.b.html").read_text()

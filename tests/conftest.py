"""Makes helpers such as `tiny_scenes` importable from every test folder; the fixtures below are for folders that ask for them."""

import gc
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SHARED_SCENES = Path(__file__).resolve().parents[2] / "shared" / "scenes"


@pytest.fixture(scope="session", autouse=True)
def _memory_is_measured_once():
    """`bench` takes the median of five goes, each after a garbage collection of all that the tests have imported: three quarters of their time."""
    patch = pytest.MonkeyPatch()
    patch.setattr("learn2splat.bench.lane.MEMORY_RUNS", 1)
    gc.collect()
    gc.freeze()
    yield
    patch.undo()


@pytest.fixture(scope="session")
def shared_scenes() -> Path:
    """The folder of real scenes beside the checkout: read-only, never copied into the project. Tests that need it fail without it."""
    if not (SHARED_SCENES / "SOURCES.md").is_file():
        pytest.fail(f"the real scenes are missing: expected them in {SHARED_SCENES} (../shared/scenes from the repository root)")
    return SHARED_SCENES


@pytest.fixture(scope="package")
def one_thread():
    """Where tensors are tiny, a second thread only waits for the first, all the more on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def browser():
    """A Chromium without a screen: LEARN2SPLAT_BROWSER, or one that is installed; nothing is downloaded."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install .[dev]")
    path = os.environ.get("LEARN2SPLAT_BROWSER") or next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser found (looked for {', '.join(BROWSERS)}): install chromium, or set LEARN2SPLAT_BROWSER to one")
    with playwright.sync_playwright() as driver:
        # As root, as in most containers, Chromium has no sandbox of its own; the page is ours.
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def check_page():
    """Asserts that an HTML page is well-formed and needs nothing but itself."""

    class Checker(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open_tags = []

        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "img", "input"):
                self.open_tags.append(tag)
            for name, value in attrs:
                assert name not in ("src", "href") or value.startswith("data:image/")

        def handle_startendtag(self, tag, attrs):
            assert tag in ("line", "polyline", "polygon", "circle")

        def handle_endtag(self, tag):
            assert self.open_tags.pop() == tag

    def run(page):
        checker = Checker()
        checker.feed(page)
        assert checker.open_tags == []
        assert "http" not in page and "@import" not in page
        assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page

    return run

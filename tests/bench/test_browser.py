"""The report in a real browser, without a screen: it works, says nothing on its console, and asks nobody for anything."""

import pytest
from odd_rules import HOSTILE, LABELS

from learn2splat.bench.report import HTML, write_report


@pytest.fixture(scope="module")
def address(bench_folder):
    write_report(bench_folder)
    return (bench_folder / HTML).as_uri()


@pytest.fixture
def open_page(browser, address):
    """Opens the report; when the test ends, nothing may have been said on the console or asked of the network."""
    troubles, pages = [], []

    def run(width=1400, height=900, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        pages.append(page)
        page.on("console", lambda message: troubles.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on("request", lambda request: None if request.url == address or request.url.startswith("data:") else troubles.append(request.url))
        page.goto(address)
        return page

    yield run
    for page in pages:
        page.close()
    assert troubles == []


def loaded(page, name):
    """The address of the picture of class `name`, which the browser must have decoded."""
    image = page.locator(f".compare .{name}")
    page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image.element_handle())
    return image.get_attribute("src")


def move(page, name, value):
    page.locator(f".compare .{name}").evaluate("(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value)


def test_tables_and_curves_are_there(open_page):
    page = open_page()
    rows = page.locator("table.results").first.locator("tbody tr")
    assert [rows.nth(i).locator("td").first.inner_text() for i in range(rows.count())] == LABELS
    assert page.locator("table.results").count() == 5 and page.locator(".facts tr").count() == 7
    assert page.locator("td.best").count() > 5 and page.locator(".chart svg polyline").count() == 16
    assert page.locator(".wrong li").count() == 8 and page.locator("b:text-is('scene')").count() == 0  # the name of a scene is text


def test_the_time_slider_changes_the_pictures(open_page):
    page = open_page()
    page.select_option(".compare .axis", "step")
    move(page, "when", 0)
    assert page.locator(".compare .now").inner_text() == "step 0"
    first = loaded(page, "under"), loaded(page, "over")
    assert first[0] == first[1]  # all start from the same
    captions = [page.locator(f".compare .caption-{side}").inner_text() for side in ("left", "right")]
    last = int(page.locator(".compare .when").get_attribute("max"))
    move(page, "when", last)
    assert page.locator(".compare .now").inner_text() == "step 12"
    assert loaded(page, "under") != first[0] and loaded(page, "over") != first[1]
    assert all("step 0," in text for text in captions) and "step 12" in page.locator(".compare .caption-left").inner_text()
    page.select_option(".compare .axis", "seconds")
    assert page.locator(".compare .now").inner_text() == "1.5 s"


def test_playing_moves_the_slider_to_its_end(open_page):
    page = open_page()
    page.select_option(".compare .axis", "step")
    last = page.locator(".compare .when").get_attribute("max")
    page.click(".compare .play")
    assert page.locator(".compare .now").inner_text() == "step 0"
    page.wait_for_function("last => document.querySelector('.compare .when').value === last", arg=last, timeout=20_000)
    page.wait_for_function("document.querySelector('.compare .play').textContent === '\\u25b6'")


def test_optimizers_and_scenes_can_be_chosen(open_page):
    page = open_page()
    assert page.locator(".compare .scene option").all_inner_texts() == sorted(["tiny", HOSTILE])
    assert page.locator(".compare .left option").all_inner_texts() == [*LABELS, "photo"]
    page.select_option(".compare .left", "photo")
    assert loaded(page, "under") == loaded(page, "photo") and page.locator(".compare .caption-left").inner_text() == "photo"
    page.select_option(".compare .right", "diverges")
    assert "diverges: step 5" in page.locator(".compare .caption-right").inner_text()
    before = loaded(page, "photo")
    page.select_option(".compare .scene", label="tiny")
    assert loaded(page, "photo") != before
    assert page.locator(".compare .right").input_value() == "diverges"  # the choice stays


def test_the_divider_is_dragged(open_page):
    page = open_page()
    stack = page.locator(".compare .stack")
    stack.scroll_into_view_if_needed()
    loaded(page, "under")
    box, bar = stack.bounding_box(), page.locator(".compare .bar")
    middle = bar.bounding_box()["x"]
    assert abs(middle - (box["x"] + box["width"] / 2)) < 3
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    assert abs(bar.bounding_box()["x"] - (box["x"] + 0.2 * box["width"])) < 0.04 * box["width"]
    clip = page.locator(".compare .over").evaluate("image => getComputedStyle(image).clipPath")
    assert 15 < float(clip.split()[-1].strip("%)")) < 25


@pytest.mark.parametrize("width", [1400, 400])
def test_nothing_sticks_out_and_colours_follow_the_scheme(open_page, width):
    colors = set()
    for scheme in ("light", "dark"):
        page = open_page(width=width, scheme=scheme)
        loaded(page, "over")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        boxes = [page.locator(f".compare .{name}").bounding_box() for name in ("photo", "stack")]
        assert (boxes[0]["y"] == boxes[1]["y"]) == (width > 1000)  # side by side where there is room
        colors.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colors) == 2

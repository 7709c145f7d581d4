"""The report as files: everything in it, nothing loaded from elsewhere, no name taken for HTML or script. In a browser: test_browser.py."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from odd_rules import HOSTILE, LABELS

from learn2splat.bench import read_cells
from learn2splat.bench.report import CSV, HTML, MARKDOWN, check_folder, write_report
from learn2splat.errors import OptionError


@pytest.fixture(scope="module")
def folder(bench_folder):
    write_report(bench_folder)
    return bench_folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / HTML).read_text()


class Reader(HTMLParser):
    """Tags that are open, addresses, tables as rows of texts, and the text of scripts."""

    def __init__(self, page):
        super().__init__()
        self.open, self.addresses, self.tables, self.script = [], [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.script += data
        elif "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data


def test_the_page_is_one_sound_file(page):
    reader = Reader(page)
    assert reader.open == [] and reader.addresses == []  # pictures are set by the script, from itself
    for words in ("http:", "https:", "@import", "url(", "fetch(", "XMLHttpRequest", "//cdn"):
        assert words not in page
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page
    assert len(page) < 1_000_000


def test_the_page_has_every_table_and_the_facts(page):
    tables = Reader(page).tables
    quality = next(table for table in tables if "log-area" in table[0])
    assert [row[0] for row in quality[1:]] == LABELS
    assert quality[3][1] == "failed 4/4" and quality[4][1] == "DIV 4/4"
    assert next(table for table in tables if "ms / step" in table[0]) and next(table for table in tables if HOSTILE in table[0])
    facts = dict(tables[-1])
    assert set(facts) == {"protocol", "scenes", "seeds", "machine", "versions", "commit", "command"}
    assert facts["command"] == "learn2splat bench 'a folder'" and "budget adam:12" in facts["protocol"] and facts["seeds"] == "0, 1"
    assert page.count("<svg") == 4 and page.count('class="band"') == 16 and page.count("<polyline") == 16  # 2 scenes x 2 axes x 4 optimizers
    assert page.count('class="best"') > 5


def test_the_pictures_are_those_of_the_runs(page, folder):
    data = json.loads(re.search(r"const COMPARISONS = (.*);\n", page).group(1))
    scenes = {scene["name"]: scene for scene in data[0]}
    assert set(scenes) == {"tiny", HOSTILE}
    cells = {(cell.scene, cell.label): cell for cell in read_cells(folder) if cell.seed == 0}
    for name, scene in scenes.items():
        assert scene["photo"].startswith("data:image/webp;base64,") and [lane["label"] for lane in scene["lanes"]] == LABELS
        for lane in scene["lanes"]:
            shown = [frame["step"] for frame in lane["frames"]]
            assert shown[:4] == [0, 1, 2, 3] and shown[-1] == cells[name, lane["label"]].points[-1].step
            assert [f["psnr"] for f in lane["frames"]] == [round(p.psnr, 2) for p in cells[name, lane["label"]].points if p.step in shown]


def test_a_picture_that_is_lost_is_left_out(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    cell = next(cell for cell in read_cells(copy) if cell.label == "adam" and cell.scene == "tiny" and cell.seed == 0)
    cell.path.with_name(cell.points[0].picture).unlink()
    cell.path.with_name(cell.points[1].picture).write_bytes(b"no picture")
    write_report(copy)
    data = json.loads(re.search(r"const COMPARISONS = (.*);\n", (copy / HTML).read_text()).group(1))
    lane = next(lane for scene in data[0] if scene["name"] == "tiny" for lane in scene["lanes"] if lane["label"] == "adam")
    assert lane["frames"][0]["step"] == cell.points[2].step


def test_markdown_and_csv_say_the_same(folder):
    text = (folder / MARKDOWN).read_text()
    assert "## Dense, full size, equal time (adam:12)" in text and "| raises | failed 4/4 |" in text
    assert "- FLIP: what a viewer sees" in text and "LPIPS is not here" in text
    assert text.count("ZeroDivisionError: of a rule of one's own") == 4 and "- command: learn2splat bench 'a folder'" in text
    with (folder / CSV).open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16 and {row["optimizer"] for row in rows} == set(LABELS)


def test_the_report_of_a_running_benchmark(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    cell = next(cell for cell in read_cells(copy) if cell.label == "nominal")
    lines = cell.path.read_text().splitlines(keepends=True)
    cell.path.write_text("".join(lines[:-1]) + lines[-1][:20])  # its end half written
    write_report(copy)
    assert "not finished, last scored at step 12" in (copy / MARKDOWN).read_text()


NAME = "<!--<script>&\"'</script>-->"


def test_no_name_ends_the_script_or_opens_a_comment_in_it(folder, tmp_path):
    """Names of scenes may come from downloaded files."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    for path in copy.glob("*/*/*/seed*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            if row["kind"] == "cell":
                row["scene"]["name"], row["optimizer"]["label"] = NAME, row["optimizer"]["label"] + NAME
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_report(copy)
    page = (copy / HTML).read_text()
    script = page[page.index("const COMPARISONS = ") :].removeprefix("const COMPARISONS = ").partition(";\n")[0]
    names = {scene["name"] for comparison in json.loads(script) for scene in comparison}
    assert "<" not in script and names == {NAME}
    assert page.count("<script") == 1 and "<!--" not in page and Reader(page).open == []


def test_reports_of_others_are_not_replaced(tmp_path):
    (tmp_path / "report.md").write_text("mine")
    with pytest.raises(OptionError, match=r"holds a report.md that learn2splat bench did not write"):
        check_folder(tmp_path)
    with pytest.raises(OptionError):
        write_report(tmp_path)
    assert (tmp_path / "report.md").read_text() == "mine"


def test_there_must_be_results(tmp_path):
    with pytest.raises(OptionError, match="no results in"):
        write_report(tmp_path)

"""The folder of results: whatever happens to a writer, a reader sees whole rows; copying folders together merges them."""

import math
import shutil
import threading

import pytest

from learn2splat.bench.store import CellFile, read_cell, read_cells, write_once
from learn2splat.errors import OptionError, SaveError

HEADER = {
    "protocol": {
        "name": "steps", "budget": "steps:3", "setting": "dense", "max_points": None, "test_every": 8, "context_views": None, "long_side": 32,
        "views_per_step": 2, "slice_seconds": 1.0, "warm_up_steps": 2, "device": "cpu",
    },
    "scene": {"name": "s", "photo_sizes": [[32, 24]], "context": 5, "held_out": 1, "gaussians": 20},
    "optimizer": {"label": "adam", "spec": "adam", "order": 0},
    "machine": {"cpu": "c", "threads": 1, "cores": 2, "learn2splat": "0", "torch": "2", "python": "3", "system": "s"},
    "seed": 0, "identity": {}, "commit": None, "command": [],
}  # fmt: skip


def point(step, psnr=20.0):
    return {"step": step, "seconds": 0.1 * step, "cpu_seconds": 0.1 * step, "update_seconds": 0.0, "psnr": psnr, "ssim": 0.5, "picture": None}


@pytest.fixture
def file(tmp_path):
    file = CellFile(tmp_path, "protocol", "s", "adam", 0)
    file.append("cell", **HEADER)
    file.append("point", **point(0))
    file.append("point", **point(10, math.nan))
    return file


def steps(file):
    return [p.step for p in file.read().points]


def test_what_is_appended_is_read(file):
    cell = file.read()
    assert (cell.label, cell.scene, cell.seed, cell.status, cell.finished) == ("adam", "s", 0, "running", False)
    assert steps(file) == [0, 10] and cell.points[0].psnr == 20.0 and math.isnan(cell.points[1].psnr) and cell.points[0].picture is None
    file.append("end", status="done", steps=10, seconds=1.0)
    assert file.read().finished and file.read().end["steps"] == 10
    assert b"NaN" not in file.path.read_bytes()


def test_a_cell_that_was_not_started_is_none(tmp_path):
    assert CellFile(tmp_path, "protocol", "s", "adam", 0).read() is None
    (tmp_path / "empty.jsonl").write_text("")
    assert read_cell(tmp_path / "empty.jsonl") is None


@pytest.mark.parametrize("garbage", [b'{"kind": "point", "step": 2', b"\xff\xfe\x00", b"[1]\n", b"{}\n", b'"point"\n'])
def test_half_lines_are_passed_over_and_mended(file, garbage):
    with file.path.open("ab") as raw:
        raw.write(garbage)
    assert steps(file) == [0, 10]
    file.append("point", **point(20))
    assert steps(file) == [0, 10, 20]


def test_rewinding_drops_later_points_and_an_end(file):
    file.append("point", **point(20))
    file.append("end", status="failed", steps=20, seconds=2.0)
    file.append("rewind", step=10)
    assert steps(file) == [0, 10] and file.read().status == "running"


def test_a_new_attempt_counts_alone(file):
    file.append("end", status="failed", steps=10, seconds=1.0)
    assert file.read().status == "failed" and not file.read().finished
    file.append("cell", **HEADER)
    assert steps(file) == [] and file.read().end is None


def test_folders_are_merged_by_copying(tmp_path):
    for machine, seed in (("one", 0), ("two", 1)):
        file = CellFile(tmp_path / machine, "protocol", "s", "adam", seed)
        file.append("cell", **{**HEADER, "seed": seed})
    shutil.copytree(tmp_path / "two", tmp_path / "one", dirs_exist_ok=True)
    assert [cell.seed for cell in read_cells(tmp_path / "one")] == [0, 1]


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "protocol").write_text("a file")
    with pytest.raises(SaveError, match="could not write"):
        CellFile(tmp_path, "protocol", "s", "adam", 0).append("cell", **HEADER)


def test_many_may_write_the_same_file_once(tmp_path):
    path, content = tmp_path / "folder" / "views.json", "x" * 100_000
    seen, errors = [], []

    def work():
        try:
            write_once(path, lambda: content)
            seen.append(path.read_text() == content)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and seen == [True] * 16 and [p.name for p in path.parent.iterdir()] == ["views.json"]
    write_once(path, lambda: "other")
    assert path.read_text() == content


LINES = [
    '{"kind": "rewind"}', '{"kind": "cell"}', '{"kind": "end"}', '{"kind": "end", "status": "done"}', '{"kind": "point"}',
    '{"kind": "end", "status": "done", "steps": 3, "seconds": 0}', '{"kind": "point", "step": "1", "seconds": 1, "psnr": 2}',
    '{"kind": "point", "step": 40, "seconds": "x", "psnr": "y"}', '{"kind": "point", "step": 10, "seconds": 1}',  # not after 10: two writers
    '{"kind": "end", "status": "failed", "steps": 3, "seconds": 1, "error": 7}', '{"kind": "rewind", "step": []}',
]  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_something_else_is_named_and_its_cell_left_out(file, line):
    file.append("point", **point(15))
    with file.path.open("a") as raw:
        raw.write(line + "\n")
    with pytest.raises(OptionError, match=r"line 5 of .*seed0\.jsonl is no line of a benchmark"):
        file.read()
    with pytest.warns(UserWarning, match="left out: line 5"):
        assert read_cells(file.path.parents[3]) == []


def test_numbers_and_nesting_beyond_json_are_passed_over(file):
    with file.path.open("a") as raw:
        raw.write("[" * 100_000 + "\n" + '{"kind": "point", "step": NaN}\n')
    assert steps(file) == [0, 10]

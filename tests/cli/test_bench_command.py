"""`bench` and `report` from the command line: to the end, stopped and going on, and one sentence for what makes no sense."""

import csv
import io
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console
from tiny_scenes import write_colmap

from learn2splat.bench import GroupProgress, read_cells
from learn2splat.bench.lane import LaneProgress
from learn2splat.bench.stats import comparisons
from learn2splat.cli import main
from learn2splat.cli.bench_progress import BenchProgress
from learn2splat.cli.report import print_summary

OPTIONS = ["--optimizers", "nominal, adam", "--budget", "adam:6", "--long-side", "0", "--views-per-step", "2"]


@pytest.fixture(scope="module")
def two_scenes(scene_folder, tmp_path_factory):
    return [str(scene_folder), str(write_colmap(tmp_path_factory.mktemp("more") / "other", 8, seed=1))]


@pytest.fixture(scope="module")
def benched(two_scenes, tmp_path_factory):
    """(folder, stdout, stderr) of a benchmark that went through; the folder is not to be changed."""
    out = tmp_path_factory.mktemp("bench") / "out"
    code = "import sys; from learn2splat.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "bench", *two_scenes, *OPTIONS, "--seeds", "2", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "COLUMNS": "150"})
    assert done.returncode == 0, done.stderr
    return out, done.stdout, done.stderr


def test_a_benchmark_ends_with_tables_and_files(benched):
    out, stdout, stderr = benched
    for words in ("Quality", "Cost", "log-area", "ms / step", "nominal", "ahead of", "2 scenes and 2 seeds", f"Report: {out / 'report.html'}"):
        assert words in stdout
    assert "FLIP" in stdout
    assert stderr.count("(1 of 4)") >= 2 and "other, seed 1 (4 of 4)  adam 6 steps" in stderr
    assert {"report.html", "report.md", "results.csv"} <= {path.name for path in out.iterdir()}
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and all(row["status"] == "done" and row["budget"] == "adam:6" and row["long_side"] == "" for row in rows)


def test_the_report_can_be_written_again(benched, tmp_path, capsys):
    copy = shutil.copytree(benched[0], tmp_path / "copy")
    before = (copy / "report.md").read_text()
    for name in ("report.html", "report.md", "results.csv"):
        (copy / name).unlink()
    assert main(["report", str(copy)]) == 0
    assert (copy / "report.md").read_text() == before and "Quality" in capsys.readouterr().out


def test_the_same_command_does_nothing_twice_and_other_options_stay_beside(benched, two_scenes, tmp_path, capsys):
    copy = shutil.copytree(benched[0], tmp_path / "copy")
    contents = {path: path.read_bytes() for path in copy.rglob("*.jsonl")}
    assert main(["bench", *two_scenes, *OPTIONS, "--seeds", "2", "--out", str(copy)]) == 0
    assert {path: path.read_bytes() for path in copy.rglob("*.jsonl")} == contents
    sparse = ["--setting", "sparse", "--context-views", "3", "--budget", "steps:3", "--optimizers", "nominal"]
    assert main(["bench", two_scenes[0], "--out", str(copy), "--views-per-step", "2", *sparse]) == 0
    capsys.readouterr()
    text = (copy / "report.md").read_text()
    assert "## Dense, full size, equal time (adam:6)" in text and "## Sparse, 3 views, 256 px, equal steps (steps:3)" in text


def test_ctrl_c_saves_and_the_same_command_goes_on(scene_folder, tmp_path):
    options = ["--optimizers", "nominal", "--budget", "steps:400", "--views-per-step", "2", "--out", str(tmp_path / "out")]
    code = "import sys; from learn2splat.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "bench", str(scene_folder), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 120
    while not any(len(cell.points) > 3 for cell in read_cells(tmp_path / "out")):
        assert process.poll() is None and time.monotonic() < limit, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "everything is saved" in err.strip().splitlines()[-1]
    stopped = read_cells(tmp_path / "out")[0]
    assert stopped.status == "running" and list((tmp_path / "out").rglob("state.safetensors"))
    assert main(["bench", str(scene_folder), *options]) == 0
    cell = read_cells(tmp_path / "out")[0]
    assert cell.status == "done" and cell.end["steps"] == 400 and "rewind" in cell.path.read_text()


def test_what_makes_no_sense_is_one_sentence(scene_folder, fitted, tmp_path, sentence, monkeypatch):
    out = ("--out", tmp_path / "out")
    assert "a budget is OPTIMIZER:STEPS" in sentence("bench", scene_folder, "--budget", "1000", *out)
    assert "unknown optimizer 'adamm'" in sentence("bench", scene_folder, "--optimizers", "adam,adamm", *out)
    assert "adam" in sentence("bench", scene_folder, "--optimizers", "nominal", *out)
    assert "no optimizers" in sentence("bench", scene_folder, "--optimizers", ",", *out)
    assert "no weights file at" in sentence("bench", scene_folder, "--optimizers", "adam,learned@none.safetensors", *out)
    assert "--seeds must be at least 1" in sentence("bench", scene_folder, "--seeds", "0", *out)
    assert "--max-points must be 0 or more" in sentence("bench", scene_folder, "--max-points", "-1", *out)
    assert "--views-per-step must be at least 1" in sentence("bench", scene_folder, "--views-per-step", "0", *out)
    assert "--save-every must be positive" in sentence("bench", scene_folder, "--save-every", "0", *out)
    assert "--context-views belongs to" in sentence("bench", scene_folder, "--context-views", "3", *out)
    assert "no such folder" in sentence("bench", scene_folder, tmp_path / "nothing", *out)
    assert "--test-every must be at least 2" in sentence("bench", scene_folder, "--test-every", "1", *out)
    assert "context views must be 1 to 9" in sentence("bench", scene_folder, "--setting", "sparse", "--context-views", "10", *out)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "finds none: use cpu" in sentence("bench", scene_folder, "--device", "cuda", *out)
    (tmp_path / "file").write_text("mine")
    assert "is a file" in sentence("bench", scene_folder, "--out", tmp_path / "file")
    assert "no folder" in sentence("report", tmp_path / "nothing")
    assert "no results in" in sentence("report", fitted)


@pytest.mark.parametrize("width", [60, 80, 150])
def test_tables_fit_into_the_terminal_with_all_their_columns(benched, width):
    file = io.StringIO()
    print_summary(comparisons(read_cells(benched[0]))[0], Console(file=file, width=width, color_system=None))
    rows = [line.rstrip() for line in file.getvalue().splitlines() if line.lstrip().startswith(("optimizer", "nominal  ", "adam  "))]
    assert max(map(len, rows)) <= width and len(rows) == {60: 5, 80: 4, 150: 2}[width] * 3
    head = " ".join(row for row in rows if "optimizer" in row)
    for name in ("PSNR", "best - end", "log-area", "ahead of best rival", "wins", "ms / step", "MB", "to adam's end", "to best rival's end"):
        assert name in head
    assert "…" not in file.getvalue()


LANES = (LaneProgress("adam", "running", 120, 8.1, 0.4, 24.31), LaneProgress("mine", "diverged", 7, 0.5, 1.0, None))


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(terminal):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100, color_system=None)
    with BenchProgress(3, console) as progress:
        progress(GroupProgress("fern", 0, LANES, None))
        progress(GroupProgress("fern", 1, LANES, "mine"))
        progress.last_line -= 60
        progress(GroupProgress("fern", 1, LANES, None))
    text = file.getvalue()
    assert "fern, seed 1 (2 of 3)  mine 7 steps 0.5 s diverged" in text
    if terminal:
        assert "24.31 dB" in text and "━" in text
    else:
        assert text.splitlines() == ["fern, seed 1 (2 of 3)  mine 7 steps 0.5 s diverged", "fern, seed 1 (2 of 3)  adam 120 steps 8.1 s 24.31 dB"]

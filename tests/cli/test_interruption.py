"""Killed at any moment, stopped by Ctrl-C or SIGTERM: nothing is lost, and --resume ends with the same bits."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from learn2splat import files
from learn2splat.cli import main
from learn2splat.fitting import run
from learn2splat.fitting.checkpoint import load_checkpoint

STEPS = 90


def command(scene, out, *more):
    options = f"--optimizer nominal --steps {STEPS} --views-per-step 3 --save-every 0.001"
    return ["fit", str(scene), "--out", str(out), *options.split(), *more]


def start(scene, out, *more):
    """The command as its own process, on one thread like this one."""
    code = "import sys; from learn2splat.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen([sys.executable, "-c", code, *command(scene, out, *more)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def steps_saved(out):
    return load_checkpoint(out / "checkpoint")[1]["step"] if (out / "checkpoint" / "state.safetensors").exists() else -1


def wait_for_step(process, out, step):
    """Until a checkpoint of at least `step` is on disk. Reads through atomic replacements, so what it reads is whole."""
    limit = time.monotonic() + 60
    while steps_saved(out) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.002)


@pytest.fixture(scope="module")
def uninterrupted(scene_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(command(scene_folder, out)) == 0
    return out


def assert_same_result(out, whole):
    ours, theirs = (load_checkpoint(folder / "checkpoint") for folder in (out, whole))
    assert ours[0].keys() == theirs[0].keys()
    assert all(torch.equal(ours[0][name], theirs[0][name]) for name in ours[0])
    assert (out / "point_cloud.ply").read_bytes() == (whole / "point_cloud.ply").read_bytes()
    assert not list(out.rglob("*.partial"))  # nothing is left of what was being written
    curves = [[(p["step"], p["psnr"], p["ssim"]) for p in json.loads((folder / "metrics.json").read_text())["curve"]] for folder in (out, whole)]
    assert curves[0] == curves[1]


def test_sigkill_at_several_moments_and_resume(scene_folder, tmp_path, uninterrupted):
    """Checkpoints are written all the time here, so most kills fall into the writing of one."""
    out = tmp_path / "out"
    for step, delay in ((0, 0.0007), (40, 0.003)):
        process = start(scene_folder, out, "--resume")
        wait_for_step(process, out, step)
        time.sleep(delay)
        process.kill()
        process.wait()
        assert step <= steps_saved(out) < STEPS
    assert main(command(scene_folder, out, "--resume")) == 0
    assert_same_result(out, uninterrupted)


def test_resume_from_what_is_on_disk_at_any_write(scene_folder, tmp_path, uninterrupted, monkeypatch):
    """Copies of the folder just before and just after every renaming are all that a kill can leave behind. Each must resume to the same bits."""
    out, copies = tmp_path / "out", []
    replace = os.replace

    def copying(source, target):
        for moment in (lambda: None, lambda: replace(source, target)):
            moment()
            copies.append(tmp_path / f"copy_{len(copies)}")
            shutil.copytree(out, copies[-1])

    monkeypatch.setattr(files.os, "replace", copying)
    assert main([*command(scene_folder, out), "--save-every", "1000"]) == 0  # only the last checkpoint, then the results
    monkeypatch.undo()
    names = [sorted(p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file()) for copy in copies]
    kinds = {re.sub(r"\.[0-9a-z_]{8}\.partial", ".partial", " ".join(each)) for each in names}
    assert len(kinds) == len(copies) - 1  # config.json is written twice, to the same end
    for copy in copies[2:]:  # from before the first checkpoint on; earlier, there is nothing yet
        assert main(command(scene_folder, copy, "--resume")) == 0
        assert_same_result(copy, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(scene_folder, tmp_path, uninterrupted, number, monkeypatch, capsys):
    out, before = tmp_path / "out", signal.getsignal(number)
    step = run.loss_and_gradients
    steps = iter(range(1000))
    monkeypatch.setattr(run, "loss_and_gradients", lambda *a: (signal.raise_signal(number) if next(steps) == 20 else None, step(*a))[1])
    assert main(command(scene_folder, out)) == 130
    err = capsys.readouterr().err
    assert err.splitlines()[-1] == f"learn2splat: stopped at step 21; everything is saved in {out}, go on with --out {out} --resume"
    assert steps_saved(out) == 21  # the step under way was finished
    assert json.loads((out / "metrics.json").read_text())["interrupted"]
    assert main(["eval", str(out), "--json"]) == 0  # the splat so far is there and whole
    assert signal.getsignal(number) is before
    assert main(command(scene_folder, out, "--resume")) == 0
    assert_same_result(out, uninterrupted)


@pytest.fixture
def ctrl_c():
    """Ctrl-C works as in a terminal, also where the tests run in the background of a script: there shells have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_loading_is_one_sentence(scene_folder, tmp_path, monkeypatch, capsys):
    from learn2splat.cli import result

    def press(*_args, **_options):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    monkeypatch.setattr(result, "load_scene", press)
    assert main(["fit", str(scene_folder), "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.strip() == "learn2splat: stopped by Ctrl-C; what had been saved before is intact"
    assert not (tmp_path / "out").exists()


def test_sigterm_while_loading_is_one_sentence(scene_folder, tmp_path, monkeypatch, capsys):
    """Two handlers: the one of the command while it loads, and the one before it afterwards."""
    from learn2splat.cli import result

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(result, "load_scene", lambda *_args, **_options: signal.raise_signal(signal.SIGTERM))
    assert main(["fit", str(scene_folder), "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.strip() == "learn2splat: stopped by SIGTERM; what had been saved before is intact"
    assert signal.getsignal(signal.SIGTERM) is before and not (tmp_path / "out").exists()

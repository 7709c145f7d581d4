"""The loop: it learns, a killed run goes on to the same bits, two processes do what one does."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny_config import TINY

from learn2splat import errors
from learn2splat.cli import main
from learn2splat.cli.train import Board
from learn2splat.files import locked, parse_json
from learn2splat.fitting.checkpoint import load_checkpoint
from learn2splat.gaussians.record import FIELDS
from learn2splat.meta import PRESETS, MetaConfig, MetaStep, train, trainer, with_architecture
from learn2splat.meta import resume as saved
from learn2splat.meta.trainer import learning_rate
from learn2splat.optimizers import make_optimizer
from learn2splat.optimizers.anchored import Anchored, AnchoredConfig
from learn2splat.optimizers.nominal import NominalConfig
from learn2splat.optimizers.weights import weights_info

SCRIPT = f"""
import sys, torch
from pathlib import Path
from learn2splat.meta import MetaConfig, train
torch.set_num_threads(1)
def on_step(report):
    print(report.step, flush=True)
config, resume = MetaConfig(**{TINY!r}), "resume" in sys.argv
train(config, Path(sys.argv[1]), data=[Path(sys.argv[2])], resume=resume, save_every=float(sys.argv[3]), on_step=on_step)
"""


def equal_runs(one, two) -> bool:
    """The averaged weights, all that is needed to resume, and the log but for its times."""
    logs = [[{**json.loads(line), "seconds": 0} for line in (out / "log.jsonl").read_text().splitlines()] for out in (one, two)]
    assert logs[0] == logs[1]
    names = sorted(path.relative_to(one) for path in one.glob("resume/*/*/state.safetensors"))
    assert len(names) == 3 and names == sorted(path.relative_to(two) for path in two.glob("resume/*/*/state.safetensors"))
    for name in (*names, "theta.safetensors"):
        a, b = load_file(one / name), load_file(two / name)
        assert a.keys() == b.keys()
        if not all(torch.equal(a[key], b[key]) for key in a):
            return False
    return True


@pytest.fixture(scope="module")
def reference(tiny, photos, tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("reference")
    reports = []
    result = train(tiny, out, data=[photos], on_step=reports.append)
    assert result.finished and result.step == 6 and [report.step for report in reports] == list(range(1, 7))
    return out


def test_a_run_leaves_usable_weights_and_a_log(reference):
    info = weights_info(reference / "theta.safetensors")
    assert info["provenance"]["meta_steps"] == 6 and info["provenance"]["real_scenes"] == ["tiny"] and info["architecture"] == "anchored"
    rule = make_optimizer("learned", weights=reference / "theta.safetensors")
    assert rule.network.head[2].weight.abs().sum() > 0
    lines = [json.loads(line) for line in (reference / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 7)) and any(age > 0 for line in lines for age in line["ages"])


def test_stopped_runs_resume_to_the_same_bits(tiny, photos, reference, tmp_path):
    steps = []
    for resume in (False, True, True):
        steps.append(train(tiny, tmp_path, data=[photos], resume=resume, should_stop=lambda: len(steps) < 2).step)
    assert steps == [1, 2, 6]
    assert equal_runs(tmp_path, reference)


def test_a_skipped_meta_step_resumes_to_the_same_bits(tiny, tmp_path, monkeypatch):
    """AdamW has made fewer steps than there were meta-steps, and its bias correction depends on that."""
    training = trainer
    real = training.meta_gradient
    monkeypatch.setattr(training, "meta_gradient", lambda *a: replace(real(*a), gradient=None) if a[5] in (0, 2) else real(*a))
    config = replace(tiny, procedural_share=1.0, procedural_pool=2, scenes_per_step=1)
    train(config, tmp_path / "whole")
    steps = []
    for part in range(3):  # stopped after meta-steps 1 and 3, both of which were left out
        stop = {"should_stop": lambda: len(steps) in (0, 2)} if part < 2 else {}
        train(config, tmp_path / "parts", resume=part > 0, on_step=lambda report: steps.append(report.step), **stop)
    assert steps == [1, 2, 3, 4, 5, 6]
    names = [f"resume/6/{part}/state.safetensors" for part in ("theta", "slot0")]
    for name in ("theta.safetensors", *names):
        a, b = load_file(tmp_path / "whole" / name), load_file(tmp_path / "parts" / name)
        assert all(torch.equal(a[key], b[key]) for key in a), name
    for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines():
        parse_json(line)  # strict: no NaN where a step was left out


def test_killed_while_the_last_save_is_completed(tiny, reference, photos, tmp_path, monkeypatch):
    """Whatever the moment, the weights beside a complete save are never older than it."""

    class Kill(BaseException):
        pass

    def kill(*arguments):
        raise Kill

    for name in ("_save_average", "complete"):
        out = tmp_path / name
        monkeypatch.setattr(trainer if name == "_save_average" else saved, name, kill)
        with pytest.raises(Kill):
            train(tiny, out, data=[photos])
        monkeypatch.undo()
        assert not saved.has_save(out)
    train(tiny, tmp_path / "lost", data=[photos])
    (tmp_path / "lost" / "theta.safetensors").unlink()
    train(tiny, tmp_path / "lost", data=[photos], resume=True)  # nothing left to do
    assert equal_runs(tmp_path / "lost", reference)


def test_a_killed_run_resumes_to_the_same_bits(photos, reference, tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(photos), "0.0001"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) == 3:
                process.send_signal(signal.SIGKILL)  # while step 4 is computed, or step 3 is being saved
                break
        process.wait()
    assert process.returncode == -signal.SIGKILL and saved.latest_step(tmp_path) in (2, 3, 4)
    (tmp_path / "resume" / "99").mkdir()  # a save that was under way
    subprocess.run([*command[:-1], "1000", "resume"], check=True, stdout=subprocess.DEVNULL)
    assert equal_runs(tmp_path, reference)


def test_two_processes_equal_one_with_twice_the_scenes(photos, reference, tmp_path):
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20_000 + os.getpid() % 20_000), "WORLD_SIZE": "2"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(photos), "1000"]
    processes = [subprocess.Popen(command, env={**environment, "RANK": str(rank)}, stdout=subprocess.DEVNULL) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    parts = [{**json.loads(line)} for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [len(line["ages"]) for line in parts] == [1] * 6  # the log is of the first process
    for name in ("theta.safetensors", "resume/6/theta/state.safetensors", "resume/6/slot0/state.safetensors", "resume/6/slot1/state.safetensors"):
        a, b = load_file(tmp_path / name), load_file(reference / name)
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a), name


def test_it_learns(tiny, photos, tmp_path, monkeypatch):
    """From a nominal rule that is five times too slow: the advantage over it starts at 0 and ends clearly below."""
    best = NominalConfig()
    slow = replace(best, **{name: 0.2 * getattr(best, name) for name in FIELDS})
    rule = AnchoredConfig(width=tiny.width, blocks=tiny.blocks, nominal=slow)
    monkeypatch.setattr(trainer, "make_rule", lambda config: Anchored(rule, seed=config.seed))
    config = replace(tiny, meta_steps=24, scenes_per_step=1, unroll=(6, 8), buffer=2, sparse_share=0.0, lr=2e-2, advantage=True)
    reports = []
    train(config, tmp_path, data=[photos], on_step=reports.append)
    assert reports[0].loss == pytest.approx(0, abs=1e-4)  # the reference takes native steps, which round differently
    assert sum(report.loss for report in reports[-8:]) / 8 < -0.03


def test_non_finite_slots_change_nothing(tiny, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "unroll", lambda *arguments: None)
    reports = []
    train(replace(tiny, meta_steps=2), tmp_path, data=[photos], on_step=reports.append)
    assert [report.skipped for report in reports] == [2, 2]
    assert not make_optimizer("learned", weights=tmp_path / "theta.safetensors").network.head[2].weight.any()


def test_a_save_without_buffers_goes_on(tiny, photos, reference, tmp_path):
    """What is committed under training/: the weights and their moments alone."""
    (tmp_path / "resume" / "6").mkdir(parents=True)
    (tmp_path / "resume" / "latest.json").write_text('{"step": 6}')
    (reference / "resume" / "6" / "theta").rename(tmp_path / "resume" / "6" / "theta")
    try:
        reports = []
        train(replace(tiny, meta_steps=8), tmp_path, data=[photos], resume=True, on_step=reports.append)
        assert [report.step for report in reports] == [7, 8] and reports[0].ages == (0, 0)
    finally:
        source = tmp_path / "resume"
        assert not (source / "6").exists()  # replaced by the new save


def test_resuming_something_else_is_refused(tiny, photos, tmp_path):
    with pytest.raises(errors.CheckpointError, match="no training run"):
        train(tiny, tmp_path, data=[photos], resume=True)
    train(replace(tiny, meta_steps=1), tmp_path, data=[photos])
    with pytest.raises(errors.CheckpointError, match=r"clip = 0.5, not 0.1"):
        train(replace(tiny, clip=0.1), tmp_path, data=[photos], resume=True)
    with pytest.raises(errors.CheckpointError, match=r"learns from other scenes \(different: tiny\)"):
        train(replace(tiny, meta_steps=2), tmp_path, data=[], resume=True)
    shutil.rmtree(tmp_path / "resume" / "1" / "theta")
    with pytest.raises(errors.CheckpointError, match="no checkpoint in"):
        train(tiny, tmp_path, data=[photos], resume=True)


def test_the_buffer_is_emptied_after_an_epoch(tiny, photos, tmp_path):
    config = replace(tiny, meta_steps=4, resume_probability=0.0)
    kept = {}
    for epoch in (0, 4):
        train(replace(config, epoch=epoch), tmp_path / str(epoch), data=[photos])
        kept[epoch] = len(load_checkpoint(tmp_path / str(epoch) / "resume" / "4" / "slot0")[1]["episodes"])
    assert kept[0] > 0 and kept[4] == 0


def test_one_cycle(tiny):
    config = replace(tiny, meta_steps=1000, warmup=0.01, lr=1.0, final_lr=0.1)
    assert learning_rate(config, 0) == pytest.approx(0.1) and learning_rate(config, 9) == 1.0
    assert learning_rate(config, 505) == pytest.approx(0.55, abs=1e-3) and learning_rate(config, 1000) == pytest.approx(0.1)


def test_the_command_trains_and_guards_its_folder(photos, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["train", "--out", str(out), "--data", str(photos), "--scenes-per-step", "1", "--meta-steps", "1", "--seed", "1", "--scheme", "greedy"]
    began = time.monotonic()
    assert main(command) == 0, capsys.readouterr().err
    assert "theta.safetensors" in capsys.readouterr().out and (out / "theta.safetensors").is_file() and time.monotonic() - began < 60
    config = json.loads((out / "config.json").read_text())["config"]
    assert config["scheme"] == "greedy" and config["delta_weight"] == 2.0 and config["buffer"] == 20
    assert main(command) == 2 and "--resume" in capsys.readouterr().err
    assert main([*command, "--resume", "--overwrite"]) == 2 and "exclude" in capsys.readouterr().err
    assert main([*command, "--resume", "--no-stability-loss"]) == 2 and "stability_weight = 1.0" in capsys.readouterr().err
    assert main(["train", "--out", str(tmp_path / "x"), "--data", str(tmp_path / "none*")]) == 2 and "--data" in capsys.readouterr().err
    assert main(["train", "--out", str(photos / "cameras.txt"), "--max-minutes", "0"]) == 2


@pytest.mark.parametrize("more", [[], ["--resume"], ["--overwrite"]])
def test_files_of_others_are_neither_removed_nor_replaced(photos, tmp_path, capsys, more):
    before = {"config.json": "someone's", "log.jsonl": '{"step": 1}\n', "resume/latest.json": "{}", "resume/mine/work": "precious"}
    for name, text in before.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for command in (["train", "--meta-steps", "1", *more], ["ablate"]):
        assert main([*command, "--data", str(photos), "--out", str(tmp_path)]) == 2
        assert "did not write" in capsys.readouterr().err
    after = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def test_a_second_training_in_the_same_folder_is_refused(photos, tmp_path, capsys):
    with locked(tmp_path / "run"):
        assert main(["train", "--data", str(photos), "--out", str(tmp_path / "run"), "--meta-steps", "1"]) == 2
    assert "another process is writing into" in capsys.readouterr().err


def test_scalars_reach_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    step = MetaStep(3, 0.5, 0.9, (0, 10), ("a", "b"), 2.0, 0, 20, 1e-3, 1.0)
    with Board(tmp_path) as board:
        board(step)
        board(replace(step, step=4, loss=math.nan))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("meta/loss")] == [(3, 0.5)]  # a skipped step has no loss
    assert [(event.step, event.value) for event in events.Scalars("meta/age")] == [(3, 5.0), (4, 5.0)]


def test_the_paper_network_learns_to_imitate_first(photos, tmp_path):
    """The error of its updates, relative to those of nominal, is 1 at the start; 150 updates of the weights take a sixth off it.

    At the learning rate of the preset: at three times as much (that of TINY) the ReLU of the length dies within ten updates on some CPUs."""
    config = with_architecture(MetaConfig(**{**TINY, "meta_steps": 150, "lr": PRESETS["cpu"].lr}), "paper")
    assert (config.width, config.blocks, config.imitation) == (96, 2, 200)
    train(replace(config, width=32, blocks=1), tmp_path, data=[photos])
    ratios = [json.loads(line)["ratio"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert ratios[0] == pytest.approx(1, abs=1e-3) and sum(ratios[-10:]) / 10 < 0.85

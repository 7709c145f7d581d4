"""Training of the initializer: the same bits however often it is stopped, and depths that become better than a guess."""

from __future__ import annotations

import json
import math

import pytest
import torch

from learn2splat import errors
from learn2splat.cli import main
from learn2splat.initializers.weights import load_initializer
from learn2splat.meta import InitializerConfig, depth_data, train_initializer
from learn2splat.meta.depth_data import DepthPool
from learn2splat.meta.depth_trainer import at_size
from learn2splat.meta.tasks import Dice


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(depth_data, "CROP", (48, 32))
    monkeypatch.setattr(depth_data, "VIEWS", {"room": 8, "orbit": 8, "forward": 8})


CONFIG = InitializerConfig(steps=6, head_start=2, pool=2, warmup=2)


def lines(folder):
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path):
    assert train_initializer(CONFIG, tmp_path / "whole")[0] == 6
    done = []
    for part in range(3):
        done.clear()
        train_initializer(CONFIG, tmp_path / "parts", resume=part > 0, on_step=done.append, should_stop=lambda: len(done) >= 2)
    assert [line["part"] for line in lines(tmp_path / "whole")] == ["coarse", "coarse", "coarse", "wide", "coarse", "narrow"]
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    here, there = (load_initializer(tmp_path / name / "initializer.safetensors").state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(here[name], there[name]) for name in here)
    with pytest.raises(errors.CheckpointError, match=r"clip = 1\.0, not 0\.5"):
        train_initializer(InitializerConfig(steps=6, head_start=2, pool=2, warmup=2, clip=0.5), tmp_path / "whole", resume=True)


def test_a_window_shows_one_scene_with_its_depth(tmp_path):
    """A point of one photo, moved to its exact depth, is at the exact depth of the other photos that it is seen in."""
    right = total = 0
    for seed in range(4):
        window = DepthPool(tmp_path, 3).window(Dice(seed))
        height, width = window.depths.shape[1:]
        assert (width, height) == depth_data.CROP and float(window.images.min()) >= 0 and float(window.images.max()) <= 1
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        pixels = torch.stack([x, y, torch.ones_like(x)], 2).double()
        p_cam = (pixels @ torch.linalg.inv(window.Ks[0]).mT) * window.depths[0].double()[..., None]
        world = (p_cam - window.viewmats[0, :3, 3]) @ window.viewmats[0, :3, :3]
        p = (world @ window.viewmats[1, :3, :3].mT + window.viewmats[1, :3, 3]) @ window.Ks[1].mT
        uv = (p[..., :2] / p[..., 2:]).floor().long()
        inside = (p[..., 2] > 0) & (uv >= 0).all(2) & (uv[..., 0] < width) & (uv[..., 1] < height)
        there = window.depths[1][uv[inside][:, 1], uv[inside][:, 0]]
        ratio = p[inside][:, 2] / there
        right += int(((ratio - 1).abs() < 0.03).sum())
        total += int(inside.sum())
        assert (ratio > 0.9).float().mean() > 0.9  # at its surface, or hidden behind another
    assert total > 500 and right > 0.5 * total


def test_depths_are_averaged_within_a_surface_only():
    depths = torch.tensor([[[1.0, 1.01], [1.0, 1.01]], [[1.0, 2.0], [1.0, 2.0]]])
    assert torch.allclose(at_size(depths, 2)[:, 0, 0], torch.tensor([2 / (1 + 1 / 1.01), 2.0]))


def test_a_few_steps_beat_a_guess(tmp_path):
    reports = []
    train_initializer(InitializerConfig(steps=60, head_start=60, pool=3, warmup=5, lr=3e-3), tmp_path, on_step=reports.append)
    early, late = (sum(report.loss for report in part) / 10 for part in (reports[:10], reports[-10:]))
    assert late < early - 0.3
    assert all(math.isfinite(report.loss) for report in reports)


def test_the_command_trains_resumes_and_says_what_does_not_go_with_it(tmp_path, capsys):
    out = tmp_path / "run"
    command = ["train", "--stage", "initializer", "--out", str(out), "--meta-steps", "1"]
    assert main(command) == 0 and "Step 1 of 1" in capsys.readouterr().out
    assert main(command) == 2 and "--resume" in capsys.readouterr().err
    assert main([*command[:-1], "2", "--resume"]) == 0 and "Step 2 of 2" in capsys.readouterr().out
    assert main([*command, "--overwrite", "--scheme", "greedy"]) == 2 and "--scheme does not go with" in capsys.readouterr().err
    assert main([*command[:-1], "0", "--overwrite"]) == 2

"""`learn2splat weights`, and `fit` and `bench` with released weights: the frame of the files, and the same score when evaluated."""

import json

import pytest
import torch
from tiny_scenes import write_colmap

from learn2splat.cli import main
from learn2splat.cli.common import settings
from learn2splat.errors import OptionError
from learn2splat.optimizers.weights import load_weights, packaged_weights


@pytest.fixture
def checkpoint(tmp_path):
    """Of the published network in small: the names of the packaged `paper` with those of the release."""
    network = load_weights(packaged_weights("paper")).network
    path = tmp_path / "epoch_1.ckpt"
    torch.save({"state_dict": {f"scene_trainer.optimizer.{name}": tensor for name, tensor in network.state_dict().items()}}, path)
    return path


def test_import_info_export(checkpoint, tmp_path, capsys):
    own, back = tmp_path / "l2s.safetensors", tmp_path / "back.safetensors"
    assert main(["weights", "import", str(checkpoint), "-o", str(own), "--set", "refresh_every=100"]) == 0
    assert "in the units of the files" in capsys.readouterr().out
    assert main(["weights", "info", str(own), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["frame"] == "scene" and about["eps2d"] == 1e-4 and about["config"]["refresh_every"] == 100
    assert about["provenance"]["imported from"] == "epoch_1.ckpt"
    assert main(["weights", "export", str(own), "--out", str(back)]) == 0
    again, first = load_weights(back), load_weights(checkpoint)
    assert again.config == first.config
    assert all(torch.equal(a, b) for a, b in zip(again.network.state_dict().values(), first.network.state_dict().values()))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["import", "{ckpt}"], "--out"),
        (["import", "{ckpt}", "--out", "x.bin"], "safetensors"),
        (["import", "nowhere.ckpt", "--out", "x.safetensors"], "nowhere"),
        (["import", "{ckpt}", "--out", "x.safetensors", "--set", "widht=1"], "no constant"),
        (["import", "{ckpt}", "--out", "x.safetensors", "--set", "refresh_every=0"], "positive"),
        (["export", "default", "--out", "x.safetensors"], "only those of paper"),
        (["info", "hf://nothing"], "hf://"),
    ],
)
def test_mistakes_are_one_sentence(checkpoint, tmp_path, monkeypatch, capsys, arguments, word):
    monkeypatch.chdir(tmp_path)
    assert main(["weights", *(text.format(ckpt=checkpoint) for text in arguments)]) == 2
    error = capsys.readouterr().err
    assert word in error and "weights_only" not in error and error.count("\n") == 1


def test_fit_and_bench_work_in_the_frame_of_the_files(checkpoint, tmp_path, capsys):
    scene, out = write_colmap(tmp_path / "scene"), tmp_path / "out"
    fitted = ["fit", str(scene), "--weights", str(checkpoint), "--steps", "3", "--densify", "none", "--out", str(out), "--json"]
    assert main([*fitted, "--set", "refresh_every=2"]) == 0
    told = json.loads(capsys.readouterr().out)
    config = json.loads((out / "config.json").read_text())
    assert config["scene"]["world_frame"] == "scene" and config["scene"]["eps2d"] == 1e-4 and config["scene"]["to_normalised"]["scale"] == 1
    assert main(["eval", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["psnr"] == pytest.approx(told["psnr"], abs=1e-3)
    optimizers = f"adam,learned@{checkpoint}"
    assert main(["bench", str(scene), "--optimizers", optimizers, "--budget", "steps:2", "--long-side", "0", "--out", str(tmp_path / "bench")]) == 0
    rows = (tmp_path / "bench/results.csv").read_text()
    assert "learned@epoch_1" in rows and "failed" not in rows


def test_settings_are_numbers_where_they_can_be():
    assert settings(("a=1", "b=2e-3", "c=scene", "d-e=-4")) == {"a": 1, "b": 2e-3, "c": "scene", "d_e": -4}
    for wrong in (("a",), ("=1",), ("a=1", "a=2"), ("1a=2",)):
        with pytest.raises(OptionError):
            settings(wrong)

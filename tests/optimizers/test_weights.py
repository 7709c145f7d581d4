"""Files of weights: what is saved comes back, what is damaged is refused, and `learned` means the packaged ones."""

import pytest
import torch
from safetensors.torch import save_file
from test_anchored import SMALL, cloud, noise, run, trained

from learn2splat import errors
from learn2splat.optimizers import make_optimizer, weights
from learn2splat.optimizers.anchored import AnchoredConfig
from learn2splat.optimizers.nominal import NominalConfig
from learn2splat.optimizers.weights import load_weights, save_weights, weights_info


def test_weights_survive_a_file(tmp_path):
    config = AnchoredConfig(width=12, latent=5, features=("raw", "age"), nominal=NominalConfig(means=1e-3))
    rule = trained(config)
    save_weights(tmp_path / "w.safetensors", rule, {"seed": 3})
    again = load_weights(tmp_path / "w.safetensors")
    assert again.config == config and weights_info(tmp_path / "w.safetensors")["provenance"] == {"seed": 3}
    all_grads = [noise(20, seed=i) for i in range(3)]
    assert torch.equal(run(again, cloud(20), all_grads)[0].flatten(), run(rule, cloud(20), all_grads)[0].flatten())
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_damaged_weights_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, trained())
    content = path.read_bytes()
    one_number_changed = content[:-4] + b"\x00\x00\x80\x3f"
    for damaged, word in ((content[:-8], "readable"), (one_number_changed, "checksum"), (b"", "readable"), (b"PK" + content, "readable")):
        path.write_bytes(damaged)
        with pytest.raises(errors.CheckpointError, match=word):
            load_weights(path)
    with pytest.raises(errors.CheckpointError, match="no weights file"):
        load_weights(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(errors.CheckpointError, match="no learned optimizer"):
        load_weights(path)
    with pytest.raises(errors.SaveError, match="could not be written"):
        save_weights(tmp_path / "missing" / "w.safetensors", trained())


def test_packaged_weights_are_what_learned_means(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "WEIGHTS_FOLDER", tmp_path)
    untrained = make_optimizer("learned")
    assert untrained.architecture == "anchored" and not untrained.network.head[2].weight.any()
    save_weights(tmp_path / "default.safetensors", trained())
    save_weights(tmp_path / "other.safetensors", trained(seed=1))
    default, other = make_optimizer("learned"), make_optimizer("learned", weights="other")
    assert torch.equal(default.network.own.weight, trained().network.own.weight)
    assert torch.equal(other.network.own.weight, trained(seed=1).network.own.weight)
    assert not make_optimizer("learned", architecture="anchored").network.head[2].weight.any()  # asked for by architecture: untrained
    assert not make_optimizer("anchored").network.head[2].weight.any()


def test_make_optimizer_knows_the_learned_rules(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, trained())
    rule = make_optimizer("learned", weights=path)
    assert rule.name == "learned" and rule.config == SMALL
    assert make_optimizer("anchored", weights=str(path)).name == "anchored"
    assert make_optimizer("learned", architecture="paper", width=8, blocks=1).architecture == "paper"
    assert make_optimizer("anchored", width=8).config.width == 8
    for options in (
        {"name": "paper", "weights": path},
        {"name": "learned", "weights": path, "width": 8},
        {"name": "learned", "architecture": "g4r"},
        {"name": "anchored", "architecture": "paper"},
        {"name": "anchored", "width": 0},
        {"name": "anchored", "wdith": 8},
        {"name": "anchored", "features": ("step",)},
    ):
        with pytest.raises(errors.OptionError):
            make_optimizer(**options)

"""Files of weights: what is saved comes back, what is damaged is refused, and `learned` means the packaged ones."""

import json
import resource
import zipfile

import pytest
import torch
from safetensors import safe_open
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
    with pytest.raises(errors.SaveError, match="could not write"):
        save_weights(path / "below" / "w.safetensors", trained())


def reseal(path, change):
    """The file with other metadata and a checksum that fits, as somebody with bad intent would write it."""
    with safe_open(path, "pt") as file:
        tensors, about = {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()[weights.METADATA_KEY])
    change(about)
    about["sha256"] = weights.digest(tensors, about if about["version"] > 1 else None)
    save_file(tensors, path, metadata={weights.METADATA_KEY: json.dumps(about)})


@pytest.mark.parametrize("name", ["width", "blocks", "latent", "heads", "head_dim", "mlp_ratio"])
@pytest.mark.parametrize("value", [30_000, 10**8, 10**17, -1, "64", 1.5, None, float("nan")])
def test_sizes_are_compared_before_anything_is_allocated(tmp_path, name, value):
    """A file of a few kB whose configuration asks for a network of gigabytes."""
    path = tmp_path / "w.safetensors"
    save_weights(path, trained())
    reseal(path, lambda about: about["config"].update({name: value}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(errors.CheckpointError):
        load_weights(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_a_changed_configuration_is_noticed(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, trained())
    content = path.read_bytes()
    path.write_bytes(content.replace(b'max_log_growth\\": 2.0', b'max_log_growth\\": 9.0'))
    assert path.read_bytes() != content
    with pytest.raises(errors.CheckpointError, match="checksum"):
        load_weights(path)


def test_files_of_format_1_load(tmp_path):
    """Their checksum is of the numbers alone; the packaged ones are such."""
    path = tmp_path / "w.safetensors"
    save_weights(path, trained())
    reseal(path, lambda about: about.update(version=1))
    assert load_weights(path).config == SMALL
    reseal(path, lambda about: about.update(version=3))
    with pytest.raises(errors.CheckpointError, match="formats 1 to 2"):
        load_weights(path)


def test_odd_published_checkpoints_are_one_sentence(tmp_path):
    first, path = "point_transformer.0.linear.weight", tmp_path / "w.ckpt"
    whole = {first: torch.zeros(4, 5)}
    odd = [
        {"state_dict": []}, {1: torch.zeros(3)}, [], {**whole, "point_transformer.1.blocks.99999999.x": torch.zeros(1)},
        {**whole, "point_transformer.1.blocks.0.attn.qkv.weight": torch.zeros(())}, {first: torch.zeros(0, 5)}, {first: torch.zeros(3)}, {first: 3},
    ]  # fmt: skip
    for content in odd:
        torch.save(content, path)
        with pytest.raises(errors.CheckpointError):
            load_weights(path)
    torch.save(whole, path)
    archive = zipfile.ZipFile(path)
    parts = {name: archive.read(name) for name in archive.namelist()}
    for length in range(1, len(parts[next(name for name in parts if name.endswith("data.pkl"))])):
        with zipfile.ZipFile(tmp_path / "cut.ckpt", "w") as cut:
            for name, data in parts.items():
                cut.writestr(name, data[:length] if name.endswith("data.pkl") else data)
        with pytest.raises(errors.CheckpointError):
            load_weights(tmp_path / "cut.ckpt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", None])
@pytest.mark.parametrize(("name", "option"), [("adam", "means"), ("sgd", "sh0"), ("lm", "damping"), ("nominal", "beta2"), ("anchored", "few_age")])
def test_constants_are_finite_numbers(name, option, value):
    with pytest.raises(errors.OptionError, match=option):
        make_optimizer(name, **{option: value})


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

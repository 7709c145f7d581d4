"""The published inner step against a slow oracle that was written from docs/method.md sections 2-3: loops over Gaussians, float64, no shared code."""

import argparse
import datetime
import math
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file

from learn2splat.errors import BackendError, CheckpointError, OptionError
from learn2splat.gaussians.record import Gaussians
from learn2splat.optimizers import make_optimizer
from learn2splat.optimizers._inert import read_tensors
from learn2splat.optimizers._point_transformer import from_paper_order, to_paper_order
from learn2splat.optimizers.base import Task
from learn2splat.optimizers.paper import Paper, PaperConfig, PaperNetwork
from learn2splat.optimizers.weights import load_weights, save_weights
from learn2splat.optimizers.world import World

SMALL = PaperConfig(width=8, blocks=2, heads=2, head_dim=3, mlp_ratio=2, neighbours=4)


def random_gaussians(n, seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    flat = 0.5 * torch.randn(n, 59, generator=g, dtype=torch.float64)
    return Gaussians.unflatten(flat.to(dtype))


def randomised(rule, seed=0, scale=0.3):
    """The rule with every weight replaced by noise, so that no layer is idle."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in rule.network.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=g, dtype=torch.float64))
        rule.network.delta_head[2].bias[59] = 1.0  # ReLU of the predicted length must not be zero everywhere
    return rule


def oracle_vector(g, i):
    """The 59 numbers of Gaussian i in the published order."""
    w, x, y, z = g.quats[i]
    sh = [g.sh()[i, k, c] for c in range(3) for k in range(16)]
    return torch.stack([*g.means[i], *g.log_scales[i], x, y, z, w, g.logit_opacities[i], *sh])


def oracle_gaussians(vectors):
    p = torch.stack(vectors)
    sh = p[:, 11:].reshape(-1, 3, 16).transpose(1, 2)
    return Gaussians(p[:, 0:3], p[:, [9, 6, 7, 8]], p[:, 3:6], p[:, 10], sh[:, :1], sh[:, 1:])


def oracle_layer_norm(x, weight, bias):
    mean = sum(x) / len(x)
    variance = sum((e - mean) ** 2 for e in x) / len(x)
    return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias


def oracle_gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def oracle_step(gaussians, grads, memory, w, config):
    """One inner step. memory: per Gaussian a dict(m, v, t, latent), changed in place. w: state dict. Returns new Gaussians."""
    n = len(gaussians)
    params = [oracle_vector(gaussians, i) for i in range(n)]
    g = [oracle_vector(grads, i) for i in range(n)]
    seen = [i for i in range(n) if bool((g[i] != 0).any())]
    x, u = {}, {}
    for i in seen:
        s = memory[i]
        s["m"] = 0.9 * s["m"] + 0.1 * g[i]
        s["v"] = 0.999 * s["v"] + 0.001 * g[i] * g[i]
        s["t"] += 1
        ghat = (s["m"] / (1 - 0.9 ** s["t"])) / (torch.sqrt(s["v"] / (1 - 0.999 ** s["t"])) + 1e-15)
        params[i][3:6] = params[i][3:6].clamp(-8, math.log(3))
        params[i][10] = min(max(params[i][10].item(), -7.0), 7.0)
        x[i] = torch.cat([params[i], s["latent"], ghat])
        u[i] = w["point_transformer.0.linear.weight"] @ x[i] + w["point_transformer.0.linear.bias"]
    near = {}
    for i in seen:
        order = sorted(seen, key=lambda j: (float(((gaussians.means[i] - gaussians.means[j]) ** 2).sum()), j))
        near[i] = order[: config.neighbours]
        assert near[i][0] == i
    h, d = config.heads, config.head_dim
    for b in range(config.blocks):
        p = f"point_transformer.1.blocks.{b}."
        qkv = {i: w[p + "attn.qkv.weight"] @ oracle_layer_norm(u[i], w[p + "norm1.weight"], w[p + "norm1.bias"]) for i in seen}
        out = {}
        for i in seen:
            heads = []
            for a in range(h):
                q = qkv[i][a * d : (a + 1) * d]
                keys = [qkv[j][h * d + a * d : h * d + (a + 1) * d] for j in near[i]]
                values = [qkv[j][2 * h * d + a * d : 2 * h * d + (a + 1) * d] for j in near[i]]
                exps = [torch.exp((q * key).sum() / math.sqrt(d)) for key in keys]
                heads.append(sum(e / sum(exps) * value for e, value in zip(exps, values)))
            out[i] = w[p + "attn.proj.weight"] @ torch.cat(heads) + w[p + "attn.proj.bias"]
        for i in seen:
            u[i] = u[i] + out[i]
            hidden = w[p + "mlp.fc1.weight"] @ oracle_layer_norm(u[i], w[p + "norm2.weight"], w[p + "norm2.bias"]) + w[p + "mlp.fc1.bias"]
            u[i] = u[i] + w[p + "mlp.fc2.weight"] @ oracle_gelu(hidden) + w[p + "mlp.fc2.bias"]
    for i in seen:
        hidden = torch.relu(w["state_scale_head.0.weight"] @ x[i] + w["state_scale_head.0.bias"])
        scale = torch.relu(w["state_scale_head.2.weight"] @ hidden + w["state_scale_head.2.bias"])
        y = oracle_gelu(w["delta_head.0.weight"] @ (scale * u[i]) + w["delta_head.0.bias"])
        y = w["delta_head.2.weight"] @ y + w["delta_head.2.bias"]
        delta = torch.relu(y[59]) * y[:59] / (torch.sqrt((y[:59] ** 2).sum()) + 1e-8)
        memory[i]["latent"] = u[i]
        params[i] = params[i] - delta
        params[i][3:6] = params[i][3:6].clamp(-8, math.log(3))
        params[i][10] = params[i][10].clamp(-7, 7)
        params[i][11:] = params[i][11:].clamp(-2, 2)
    return oracle_gaussians(params)


@pytest.mark.parametrize("config", [SMALL, PaperConfig(width=6, blocks=1, heads=1, head_dim=4, mlp_ratio=1, neighbours=3)])
def test_three_steps_equal_the_oracle(config):
    rule = randomised(Paper(PaperConfig(**{**vars(config), "refresh_every": 1})))
    rule.network.double()
    gaussians = random_gaussians(24, seed=1)
    gaussians.log_scales[3], gaussians.log_scales[4], gaussians.logit_opacities[5] = 5.0, -20.0, 9.0  # the clamps act
    state = rule.init(gaussians, Task(), torch.Generator().manual_seed(2))
    memory = [dict(m=torch.zeros(59).double(), v=torch.zeros(59).double(), t=0, latent=state.tensors["latent"][i].clone()) for i in range(24)]
    expected = gaussians
    weights = {name: tensor.detach() for name, tensor in rule.network.state_dict().items()}
    for step in range(3):
        grads = random_gaussians(24, seed=10 + step)
        unseen = torch.arange(24) % 4 == step
        grads = grads.map(lambda tensor, unseen=unseen: torch.where(unseen.view(-1, *[1] * (tensor.ndim - 1)), 0.0, tensor))
        expected = oracle_step(expected, grads, memory, weights, config)
        gaussians, state = rule.step(gaussians, grads, state)
        torch.testing.assert_close(gaussians.flatten(), expected.flatten(), rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(state.tensors["latent"], torch.stack([s["latent"] for s in memory]), rtol=1e-11, atol=1e-12)
        assert state.tensors["count"].tolist() == [s["t"] for s in memory]


def test_paper_order_is_means_scales_xyzw_opacity_channel_major_sh():
    g = Gaussians.unflatten(torch.arange(118.0).view(2, 59))
    paper = to_paper_order(g.flatten())
    torch.testing.assert_close(paper, torch.stack([oracle_vector(g, 0), oracle_vector(g, 1)]), rtol=0, atol=0)
    torch.testing.assert_close(from_paper_order(paper), g.flatten(), rtol=0, atol=0)


def test_untrained_moves_nothing():
    rule = Paper()
    gaussians = random_gaussians(30, seed=0, dtype=torch.float32).map(lambda tensor: tensor.clamp(-1, 1))  # inside the clamps
    state = rule.init(gaussians, Task(), torch.Generator().manual_seed(0))
    new, _ = rule.step(gaussians, random_gaussians(30, seed=1, dtype=torch.float32), state)
    assert float((new.flatten() - gaussians.flatten()).abs().max()) <= 1e-8


def test_unseen_gaussians_and_their_memory_stay_as_they_are():
    rule = randomised(Paper(SMALL))
    gaussians = random_gaussians(20, seed=1, dtype=torch.float32)
    gaussians.logit_opacities[0] = 50.0  # out of the clamps, and unseen: not clamped
    state = rule.init(gaussians, Task(), torch.Generator().manual_seed(2))
    grads = random_gaussians(20, seed=3, dtype=torch.float32)
    unseen = torch.arange(20) % 3 == 0
    for tensor in grads.tensors().values():
        tensor[unseen] = 0
    grads.means[5, 1] = float("nan")  # a broken gradient counts as unseen
    unseen[5] = True
    new, new_state = rule.step(gaussians, grads, state)
    moved = (new.flatten() != gaussians.flatten()).any(1)
    assert torch.equal(moved, ~unseen)
    for name in ("latent", "m", "v", "count"):
        assert torch.equal(new_state.tensors[name][unseen], state.tensors[name][unseen])
    # Nor may their neighbours notice them: without them the others do the same.
    alone, _ = rule.step(gaussians[~unseen], grads[~unseen], state.select(~unseen))
    torch.testing.assert_close(alone.flatten(), new.flatten()[~unseen], rtol=1e-5, atol=1e-6)


def test_permutation_equivariance():
    rule = randomised(Paper(SMALL))
    rule.network.double()
    gaussians, grads = random_gaussians(40, seed=4), random_gaussians(40, seed=5)
    state = rule.init(gaussians, Task(), torch.Generator().manual_seed(2))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    other, other_state = gaussians[order], state.select(order)
    for _ in range(3):  # the neighbour lists of the second and third step are those of the first
        gaussians, state = rule.step(gaussians, grads, state)
        other, other_state = rule.step(other, grads[order], other_state)
    torch.testing.assert_close(other.flatten(), gaussians.flatten()[order], rtol=1e-10, atol=1e-12)


def test_the_released_size():
    assert sum(p.numel() for p in PaperNetwork(PaperConfig()).parameters()) == sum(math.prod(s) for s in released_shapes().values()) == 2_682_853


def released_shapes(width=256, blocks=4):
    """Names and shapes as docs/method.md section 3 lists them."""
    shapes = {
        "state_proj.weight": (width, width, 1, 1),
        "state_proj.bias": (width,),
        "point_transformer.0.linear.weight": (width, 118 + width),
        "point_transformer.0.linear.bias": (width,),
        "state_scale_head.0.weight": ((118 + width) // 2, 118 + width),
        "state_scale_head.0.bias": ((118 + width) // 2,),
        "state_scale_head.2.weight": (1, (118 + width) // 2),
        "state_scale_head.2.bias": (1,),
        "delta_head.0.weight": (width, width),
        "delta_head.0.bias": (width,),
        "delta_head.2.weight": (60, width),
        "delta_head.2.bias": (60,),
    }
    for b in range(blocks):
        p = f"point_transformer.1.blocks.{b}."
        shapes |= {p + "norm1.weight": (width,), p + "norm1.bias": (width,), p + "norm2.weight": (width,), p + "norm2.bias": (width,)}
        shapes |= {p + "attn.qkv.weight": (192, width), p + "attn.proj.weight": (width, 64), p + "attn.proj.bias": (width,)}
        shapes |= {p + "mlp.fc1.weight": (4 * width, width), p + "mlp.fc1.bias": (4 * width,)}
        shapes |= {p + "mlp.fc2.weight": (width, 4 * width), p + "mlp.fc2.bias": (width,)}
    return shapes


def released_weights(prefix, width=16, blocks=2):
    g = torch.Generator().manual_seed(0)
    return {prefix + name: torch.randn(shape, generator=g) for name, shape in released_shapes(width, blocks).items()}


@pytest.mark.parametrize("prefix", ["scene_trainer.optimizer.", "optimizer.", ""])
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_released_files_load_by_name(tmp_path, prefix, suffix):
    weights = released_weights(prefix)
    path = tmp_path / ("released" + suffix)
    others = {"scene_trainer.encoder.weight": torch.zeros(3)} if prefix else {}  # the rest of a Lightning module is left alone
    if suffix == ".ckpt":
        torch.save({"state_dict": {**weights, **others}, "epoch": 3}, path)
    else:
        save_file({**weights, **others}, path)
    rule = load_weights(path)
    expected = PaperConfig(width=16, blocks=2, world_frame="scene", eps2d=1e-4, refresh_every=1)
    assert isinstance(rule, Paper) and rule.config == expected and rule.world == World("scene", 1e-4)
    for name, tensor in rule.network.state_dict().items():
        assert torch.equal(tensor, weights[prefix + name])


@pytest.mark.parametrize(
    "change, word",
    [
        (lambda w: w.pop("optimizer.delta_head.2.bias"), "delta_head.2.bias"),
        (lambda w: w.pop("optimizer.point_transformer.1.blocks.1.attn.proj.weight"), "blocks.1.attn.proj.weight"),
        (lambda w: w.update({"optimizer.extra.weight": torch.zeros(2)}), "extra.weight"),
        (lambda w: w.update({"optimizer.delta_head.2.weight": torch.zeros(59, 16)}), "delta_head.2.weight"),
        (lambda w: w.update({"optimizer.point_transformer.0.linear.weight": torch.zeros(16)}), "point_transformer.0.linear.weight"),
        (lambda w: w["optimizer.state_proj.bias"].fill_(float("nan")), "state_proj.bias"),
    ],
)
def test_wrong_released_files_name_the_key(tmp_path, change, word):
    weights = released_weights("optimizer.")
    change(weights)
    torch.save({"state_dict": weights}, tmp_path / "wrong.ckpt")
    with pytest.raises(CheckpointError, match=word):
        load_weights(tmp_path / "wrong.ckpt")


class Evil:
    """Unpickling this would write a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_nothing_in_a_checkpoint_runs_and_its_weights_are_read(tmp_path):
    weights = released_weights("optimizer.")
    others = {"hyper_parameters": Evil(tmp_path / "ran"), "path": tmp_path, "number": numpy.float64(3), "config": argparse.Namespace(a=[1, {2}])}
    torch.save({"epoch": 3, **others, "state_dict": OrderedDict(weights), "callbacks": {"a": datetime.timedelta(1)}}, tmp_path / "evil.ckpt")
    rule = load_weights(tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()
    assert torch.equal(rule.network.delta_head[2].weight, weights["optimizer.delta_head.2.weight"])


HOSTILE = [
    b"cos\nsystem\n(S'touch {}'\ntR.",
    b'c__builtin__\neval\n(S\'open("{}","w")\'\ntR.',
    b"(S'touch {}'\nios\nsystem\n.",
]


@pytest.mark.parametrize("call", HOSTILE)
def test_hostile_pickles_are_inert(tmp_path, call):
    marker = tmp_path / "ran"
    with zipfile.ZipFile(tmp_path / "w.ckpt", "w") as archive:
        archive.writestr("w/data.pkl", call.replace(b"{}", str(marker).encode()))
    with pytest.raises(CheckpointError):
        load_weights(tmp_path / "w.ckpt")
    assert not marker.exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_any_layout_come_back_as_torch_reads_them(tmp_path, dtype):
    base = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    tensors = {"a": base, "t": base.T, "part": base[2:5, 1:4], "one": base[0, 0], "none": base[:0], "p": torch.nn.Parameter(base[1])}
    torch.save(tensors, tmp_path / "w.pt")
    for name, tensor in read_tensors(tmp_path / "w.pt").items():
        assert torch.equal(tensor, torch.load(tmp_path / "w.pt", weights_only=True)[name]) and tensor.dtype == dtype, name


def test_odd_released_files(tmp_path):
    """Wrapped modules, files for dense views only, and what a config.yaml beside says."""
    weights = {name: tensor for name, tensor in released_weights("module.scene_trainer.optimizer._orig_mod.").items() if "state_proj" not in name}
    torch.save({"state_dict": weights}, tmp_path / "w.ckpt")
    rule = load_weights(tmp_path / "w.ckpt")
    assert not rule.config.state_proj and rule.config.neighbours == 4 and rule.config.refresh_every == 1
    (tmp_path / "config.yaml").write_text("optimizer:\n  knn_samples: 6  # more\n  knn_idx_update_every: 100\n  knn_backend: simple_knn\n")
    rule = load_weights(tmp_path / "w.ckpt")
    assert (rule.config.neighbours, rule.config.refresh_every) == (6, 100)
    assert make_optimizer("learned", weights=tmp_path / "w.ckpt", refresh_every=7).config.refresh_every == 7
    save_weights(tmp_path / "own.safetensors", rule)
    assert load_weights(tmp_path / "own.safetensors").config == rule.config
    with pytest.raises(OptionError, match="width"):
        make_optimizer("learned", weights=tmp_path / "w.ckpt", width=7)


def test_names_on_the_hub(monkeypatch, tmp_path):
    path = tmp_path / "w.ckpt"
    torch.save({"state_dict": released_weights("optimizer.")}, path)
    asked = []

    def download(repo_id, filename, revision):
        asked.append((repo_id, filename, revision))
        if filename.endswith(".yaml"):
            raise FileNotFoundError(filename)
        return str(path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=download))
    with pytest.warns(UserWarning, match=r"no config\.yaml beside hf:"):
        assert isinstance(load_weights("hf://org/repo/a/w.ckpt@v2"), Paper) and isinstance(load_weights(Path("hf://org/repo/w.ckpt")), Paper)
    assert asked[::2] == [("org/repo", "a/w.ckpt", "v2"), ("org/repo", "w.ckpt", None)]
    with pytest.raises(CheckpointError, match="organisation/repository"):
        load_weights("hf://nowhere")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BackendError, match=r"learn2splat\[hf\]"):
        load_weights("hf://org/repo/w.ckpt")


def test_own_files_round_trip(tmp_path):
    rule = randomised(Paper(SMALL))
    save_weights(tmp_path / "w.safetensors", rule, provenance={"scenes": "none"})
    again = load_weights(tmp_path / "w.safetensors")
    assert again.config == SMALL
    assert all(torch.equal(a, b) for a, b in zip(again.network.state_dict().values(), rule.network.state_dict().values()))


def test_options_are_checked():
    with pytest.raises(OptionError, match="neighbours"):
        PaperConfig(neighbours=0)

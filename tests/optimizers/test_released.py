"""Weights of the released size, on a real scene: the step against a derivation from docs/method.md sections 2 and 3 in float64 that shares no code
with it, in the frame of the files and with their renderer."""

import math
from dataclasses import replace

import pytest
import torch
from test_paper import released_shapes

from learn2splat.errors import OptionError
from learn2splat.fitting import fit
from learn2splat.fitting.gradients import loss_and_gradients
from learn2splat.gaussians import init_from_points
from learn2splat.gaussians.record import Gaussians
from learn2splat.optimizers import Task
from learn2splat.optimizers.weights import load_weights
from learn2splat.scenes import load_scene


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A Lightning-like file with the released names and shapes, 256 channels and random weights of the size that trained ones have."""
    g = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in released_shapes().items():
        fan_in = shape[1] if len(shape) > 1 else 256
        weights[name] = torch.randn(shape, generator=g) / math.sqrt(fan_in) * (0.1 if "bias" in name else 1.0)
        if "norm" in name and name.endswith("weight"):
            weights[name] += 1
    weights["state_scale_head.2.bias"] += 1
    weights["delta_head.2.weight"][59:] *= 1e-2
    weights["delta_head.2.bias"][59] = 2e-2
    path = tmp_path_factory.mktemp("released") / "epoch_7.ckpt"
    torch.save({"epoch": 7, "state_dict": {f"scene_trainer.optimizer.{name}": tensor for name, tensor in weights.items()}}, path)
    return path, {name: tensor.double() for name, tensor in weights.items()}


@pytest.fixture(scope="module")
def fern(checkpoint, shared_scenes):
    """The scene and a start, as the weights want them."""
    scene = load_scene(shared_scenes / "fern", long_side=96)
    start = init_from_points(scene.points, scene.colors, max_points=400, generator=torch.Generator().manual_seed(0))
    world = load_weights(checkpoint[0]).world
    return world.scene(scene), world.splat(start, scene)


def columns(g):
    """(N, 59) float64 in the published order: means, log-scales, xyzw, logit, 16 coefficients of red, of green, of blue."""
    sh = torch.cat([g.sh0, g.shN], 1)
    parts = [g.means, g.log_scales, g.quats[:, 1:], g.quats[:, :1], g.logit_opacities[:, None], *(sh[:, :, c] for c in range(3))]
    return torch.cat(parts, 1).double()


def derived_step(theta, g, memory, w, k=4):
    """Section 3, for all Gaussians at once. `memory`: m, v, t, h; changed in place. Returns the new parameters."""
    theta = theta.clone()
    theta[:, 3:6] = theta[:, 3:6].clamp(-8, math.log(3))
    theta[:, 10] = theta[:, 10].clamp(-7, 7)
    rows = (g != 0).any(1).nonzero()[:, 0]
    g = g[rows]
    memory["m"][rows] = 0.9 * memory["m"][rows] + 0.1 * g
    memory["v"][rows] = 0.999 * memory["v"][rows] + 0.001 * g**2
    memory["t"][rows] += 1
    t = memory["t"][rows][:, None]
    ghat = memory["m"][rows] / (1 - 0.9**t) / (torch.sqrt(memory["v"][rows] / (1 - 0.999**t)) + 1e-15)
    x = torch.cat([theta[rows], memory["h"][rows], ghat], 1)
    near = torch.cdist(theta[rows, :3], theta[rows, :3]).topk(k, largest=False).indices

    def linear(name, u):
        return u @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def norm(name, u):
        centred = u - u.mean(1, keepdim=True)
        return centred / torch.sqrt((centred**2).mean(1, keepdim=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def gelu(u):
        return u / 2 * (1 + torch.erf(u / math.sqrt(2)))

    u = linear("point_transformer.0.linear", x)
    for block in (f"point_transformer.1.blocks.{i}." for i in range(4)):
        q, key, value = linear(block + "attn.qkv", norm(block + "norm1", u)).split(64, 1)
        score = torch.einsum("nd,nkd->nk", q, key[near]) / 8
        weight = torch.exp(score - score.max(1, keepdim=True).values)
        mixed = torch.einsum("nk,nkd->nd", weight / weight.sum(1, keepdim=True), value[near])
        u = u + linear(block + "attn.proj", mixed)
        u = u + linear(block + "mlp.fc2", gelu(linear(block + "mlp.fc1", norm(block + "norm2", u))))
    memory["h"][rows] = u
    s = linear("state_scale_head.2", linear("state_scale_head.0", x).clamp_min(0)).clamp_min(0)
    y = linear("delta_head.2", gelu(linear("delta_head.0", s * u)))
    theta[rows] -= y[:, 59:].clamp_min(0) * y[:, :59] / (y[:, :59].norm(dim=1, keepdim=True) + 1e-8)
    theta[rows, 3:6] = theta[rows, 3:6].clamp(-8, math.log(3))
    theta[rows, 10] = theta[rows, 10].clamp(-7, 7)
    theta[rows, 11:] = theta[rows, 11:].clamp(-2, 2)
    return theta


def test_steps_on_fern_agree_with_the_derivation_to_1e_5(checkpoint, fern):
    path, weights = checkpoint
    scene, gaussians = fern
    rule = load_weights(path)
    assert rule.config.refresh_every == 1 and scene.eps2d == 1e-4 and scene.to_normalised.is_identity()
    gaussians = rule.admit(replace(gaussians, log_scales=gaussians.log_scales.clone(), logit_opacities=gaussians.logit_opacities.clone()))
    state = rule.init(gaussians, Task(), torch.Generator().manual_seed(1))
    n = len(gaussians)
    memory = {"m": torch.zeros(n, 59).double(), "v": torch.zeros(n, 59).double(), "t": torch.zeros(n).double()}
    memory["h"] = state.tensors["latent"].double()
    for step in range(4):
        views = [scene.train_idx[(3 * step + i) % len(scene.train_idx)] for i in range(4)]
        _, grads = loss_and_gradients(scene, gaussians, views)
        before = columns(gaussians)
        expected = derived_step(before, columns(grads), memory, weights)
        gaussians, state = rule.step(gaussians, grads, state)
        moved = columns(gaussians) - before
        assert float(moved.abs().max()) > 1e-3 and float((moved - (expected - before)).abs().max()) < 1e-5
        torch.testing.assert_close(state.tensors["latent"].double(), memory["h"], rtol=1e-4, atol=1e-4)  # float32, values up to 10


def test_a_start_outside_of_the_limits_is_clamped_before_it_is_rendered(checkpoint, fern):
    scene, gaussians = fern
    wild = replace(gaussians, log_scales=gaussians.log_scales.clone(), logit_opacities=gaussians.logit_opacities.clone())
    wild.log_scales[0], wild.logit_opacities[1] = 4.0, -30.0
    tame = replace(wild, log_scales=wild.log_scales.clamp(-8, math.log(3)), logit_opacities=wild.logit_opacities.clamp(-7, 7))
    rule = load_weights(checkpoint[0])
    results = [fit(scene, start, rule, steps=2, views_per_step=2, eval_at=()) for start in (wild, tame)]
    assert torch.equal(results[0].gaussians.flatten(), results[1].gaussians.flatten())


def test_a_scene_in_another_frame_is_refused(checkpoint, fern, shared_scenes):
    scene, gaussians = fern
    rule = load_weights(checkpoint[0])
    with pytest.raises(OptionError, match="eps2d"):
        fit(replace(scene, eps2d=0.3), gaussians, rule, steps=1)
    normalised = load_scene(shared_scenes / "fern", long_side=96)
    with pytest.raises(OptionError, match=r"world\.scene"):
        fit(normalised, gaussians, rule, steps=1)
    with pytest.raises(OptionError, match="eps2d"):
        fit(scene, gaussians, "nominal", steps=1)


def test_the_frame_of_the_files_shows_the_same(fern, shared_scenes):
    """Poses and Gaussians moved together: the same render, at another length of the unit."""
    scene, gaussians = fern
    normalised = load_scene(shared_scenes / "fern", long_side=96)
    start = init_from_points(normalised.points, normalised.colors, max_points=400, generator=torch.Generator().manual_seed(0))
    same_renderer = replace(normalised, eps2d=scene.eps2d)
    a, b = (loss_and_gradients(s, Gaussians(**g.tensors()), [1, 2])[0] for s, g in ((scene, gaussians), (same_renderer, start)))
    assert a == pytest.approx(b, rel=1e-4)

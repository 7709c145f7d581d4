"""The baseline G3R*: what its network reads, that only seen Gaussians move, gradients to the weights, and files."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from random_gaussians import random_gaussians, random_gradients, same_bits

from learn2splat.errors import OptionError
from learn2splat.gaussians.record import Gaussians
from learn2splat.optimizers import Task, make_optimizer
from learn2splat.optimizers._point_transformer import to_paper_order
from learn2splat.optimizers.g3r import G3R, G3RConfig, largest_one, time_encoding
from learn2splat.optimizers.weights import load_weights, save_weights, weights_info

SMALL = G3RConfig(width=8, blocks=2, head_dim=4, horizon=10)


def randomised(config: G3RConfig = SMALL) -> G3R:
    """Every weight replaced by noise, so that no layer is idle."""
    rule = G3R(config)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in rule.network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=g))
        rule.network.delta_head[2].bias[59] = 1.0  # lengths are positive
    return rule


def start(rule, n=30):
    gaussians = random_gaussians(n)
    return gaussians, rule.init(gaussians, Task(), torch.Generator().manual_seed(0))


def test_the_largest_entry_of_every_channel_is_one():
    g = torch.tensor([[2.0, 0.0, -1e-20], [-4.0, 0.0, 5e-21]])
    flat = torch.zeros(2, 59)
    flat[:, :3] = g
    normalised = largest_one(flat)
    torch.testing.assert_close(normalised[:, :3], torch.tensor([[0.5, 0.0, -1.0], [-1.0, 0.0, 0.5]]))
    assert (normalised[:, 3:] == 0).all()


def test_the_clock_runs_to_the_horizon_and_stands_still():
    for step in (0, 3, 10):
        turns = [math.pi * step / 10 * k for k in (1, 2, 4, 8)]
        expected = torch.tensor([*map(math.sin, turns), *map(math.cos, turns)], dtype=torch.float64)
        torch.testing.assert_close(time_encoding(step, 10), expected, rtol=0, atol=1e-12)
    assert torch.equal(time_encoding(500, 10), time_encoding(10, 10))


def test_what_the_network_reads_and_what_becomes_of_its_answer():
    rule = randomised()
    gaussians, state = start(rule)
    grads = random_gradients(30)
    for field in grads.tensors().values():
        field[7] = 0  # unseen
    read = {}
    rule.network.register_forward_pre_hook(lambda module, inputs: read.update(zip(("params", "latent", "gradient", "time"), inputs)))
    answer = {}
    rule.network.register_forward_hook(lambda module, inputs, outputs: answer.update(delta=outputs[0], latent=outputs[1]))
    new, after = rule.step(gaussians, grads, replace(state, step=4))
    rows = [i for i in range(30) if i != 7]
    flat = grads.flatten()
    torch.testing.assert_close(read["gradient"], to_paper_order(flat / flat.abs().amax(0))[rows])
    torch.testing.assert_close(read["params"], to_paper_order(gaussians.flatten())[rows])
    torch.testing.assert_close(read["time"], time_encoding(4, 10).float())
    assert torch.equal(read["latent"], state.tensors["latent"][rows])
    moved = to_paper_order(gaussians.flatten())[rows] - answer["delta"]
    inside = moved.clone()
    for columns, low, high in ((slice(3, 6), -8, math.log(3)), (slice(10, 11), -7, 7), (slice(11, 59), -2, 2)):
        inside[:, columns] = inside[:, columns].clamp(low, high)
    torch.testing.assert_close(to_paper_order(new.flatten())[rows], inside)
    assert float(answer["delta"].norm(dim=1).min()) > 1e-3
    assert torch.equal(after.tensors["latent"][rows], answer["latent"]) and torch.equal(after.tensors["latent"][7], state.tensors["latent"][7])
    assert same_bits(new[[7]], gaussians[[7]])


def test_the_size_of_all_gradients_does_not_matter():
    """The weakness that the paper names: late gradients look like early ones."""
    rule = randomised()
    gaussians, state = start(rule)
    large, _ = rule.step(gaussians, random_gradients(30, scale=1e-3), state)
    small, _ = rule.step(gaussians, random_gradients(30, scale=2.0**-20 * 1e-3), state)
    torch.testing.assert_close(small.flatten(), large.flatten())


def test_gradients_reach_all_weights_through_two_steps():
    rule = randomised()
    gaussians, state = start(rule)
    for seed in (0, 1):
        gaussians, state = rule.update(gaussians.detach(), random_gradients(30, seed), state)
    loss = gaussians.flatten().square().sum()
    for name, grad in zip(dict(rule.network.named_parameters()), torch.autograd.grad(loss, list(rule.network.parameters()))):
        assert torch.isfinite(grad).all() and grad.abs().max() > 0, name


def test_untrained_it_moves_nothing():
    rule = G3R(SMALL)
    gaussians, state = start(rule)
    new, _ = rule.step(gaussians, random_gradients(30), state)
    assert same_bits(new, gaussians)


def test_weights_files(tmp_path):
    rule = randomised()
    save_weights(tmp_path / "g3r.safetensors", rule, {"meta_steps": 3})
    loaded = load_weights(tmp_path / "g3r.safetensors")
    assert isinstance(loaded, G3R) and loaded.config == SMALL
    assert weights_info(tmp_path / "g3r.safetensors")["architecture"] == "g3r"
    gaussians, state = start(rule)
    grads = random_gradients(30)
    assert same_bits(Gaussians.unflatten(rule.step(gaussians, grads, state)[0].flatten()), loaded.step(gaussians, grads, state)[0])
    assert make_optimizer("g3r", weights=tmp_path / "g3r.safetensors").name == "g3r"
    with pytest.raises(OptionError, match="holds weights of g3r, not of paper"):
        make_optimizer("paper", weights=tmp_path / "g3r.safetensors")
    with pytest.raises(OptionError, match="horizon of g3r must be at least 1"):
        make_optimizer("g3r", horizon=0)

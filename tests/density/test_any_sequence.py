"""Any sequence of what density controls do leaves Gaussians and state in step, and a state with which the rule goes on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from gsplat_twin import splat_of, surroundings
from hypothesis import given, settings
from hypothesis import strategies as st
from random_gaussians import random_gaussians, random_gradients
from safetensors.torch import load, save

from learn2splat.density import Splat, Surroundings, make_density
from learn2splat.density.default import grow, reset_opacities
from learn2splat.density.mcmc import add_copies, relocate_dead
from learn2splat.gaussians import Gaussians
from learn2splat.optimizers import OptState, UpdateRule, make_optimizer

RULES = ["adam", "adam-gsplat", "adam-auto", "sgd", "nominal", "learned", "paper"]
CONTROL = make_density("default")


def rule_named(name: str) -> UpdateRule:
    return make_optimizer(name, width=24, blocks=1, head_dim=8) if name == "paper" else make_optimizer(name)


def some(splat: Splat, around: Surroundings, share: float) -> torch.Tensor:
    """Random positions, ascending, at least one."""
    chosen = torch.rand(len(splat), generator=around.generator) < share
    chosen[int(torch.randint(len(splat), (), generator=around.generator))] = True
    return torch.nonzero(chosen).squeeze(1)


def permute(splat: Splat, around: Surroundings) -> Splat:
    return splat.select(torch.randperm(len(splat), generator=around.generator))


def prune(splat: Splat, around: Surroundings) -> Splat:
    return splat.select(some(splat, around, 0.7))


def clone_and_split(splat: Splat, around: Surroundings) -> Splat:
    return grow(splat, some(splat, around, 0.2), some(splat, around, 0.2), around)


def appear(splat: Splat, around: Surroundings) -> Splat:
    new = random_gaussians(3, 9)
    new.shN[:, -1, -1] = 0.0  # the mark of nobody
    return splat.grow(new, torch.full((3,), -1), around.rule, around.generator)


def relocate(splat: Splat, around: Surroundings) -> Splat:
    logits = splat.gaussians.logit_opacities.clone()
    logits[some(splat, around, 0.3)] = -8.0
    return relocate_dead(replace(splat, gaussians=replace(splat.gaussians, logit_opacities=logits)), around.generator)


def add(splat: Splat, around: Surroundings) -> Splat:
    return add_copies(splat, 4, around)


def reset(splat: Splat, around: Surroundings) -> Splat:
    return reset_opacities(splat, 0.01, around)


def step(splat: Splat, around: Surroundings, count: int = 1, seed: int = 0) -> Splat:
    """Some steps towards other Gaussians, of which a few are unseen."""
    gaussians, state = splat.gaussians, splat.state
    target = random_gaussians(len(splat), seed + 3).flatten()
    for i in range(count):
        grads = (gaussians.flatten() - target) * 1e-3 + random_gradients(len(splat), seed + i, scale=1e-5).flatten()
        grads[i % len(grads)] = 0
        gaussians, state = around.rule.step(gaussians, Gaussians.unflatten(grads), state)
    return replace(splat, gaussians=gaussians, state=state)


def marked(splat: Splat) -> Splat:
    """With the same mark in the Gaussian, in its state and in its stats."""
    marks = torch.arange(1.0, len(splat) + 1)
    shN = splat.gaussians.shN.clone()
    shN[:, -1, -1] = marks
    state = replace(splat.state, tensors={**splat.state.tensors, "mark": marks.clone()})
    return Splat(replace(splat.gaussians, shN=shN), state, {**splat.stats, "mark": marks})


def unmarked(splat: Splat) -> Splat:
    """Without the marks, after a look at whether they still agree."""
    marks, stats = splat.state.tensors["mark"], splat.stats["mark"]
    assert torch.equal(splat.gaussians.shN[:, -1, -1], marks)
    assert torch.equal(torch.where(stats == 0, 0.0, marks), stats)  # new ones have stats of zero
    shN = splat.gaussians.shN.clone()
    shN[:, -1, -1] = 0.01
    tensors = {name: tensor for name, tensor in splat.state.tensors.items() if name != "mark"}
    return replace(splat, gaussians=replace(splat.gaussians, shN=shN), state=replace(splat.state, tensors=tensors))


def assert_sound(splat: Splat) -> None:
    n = len(splat)
    assert n > 0 and splat.gaussians.is_finite() and all(len(rows) == n for rows in [*splat.stats.values(), *splat.state.tensors.values()])
    for name, tensor in splat.state.tensors.items():
        if name in splat.state.index_tensors:
            assert 0 <= int(tensor.min()) and int(tensor.max()) < n
        else:
            assert torch.isfinite(tensor).all() or name == "spacing"  # NaN there: to be measured at the next step


def through_a_file(state: OptState) -> OptState:
    tensors, info = state.state_dict()
    return OptState.from_state_dict(load(save(tensors)), json.loads(json.dumps(info)))


OPERATIONS = [permute, prune, clone_and_split, appear, relocate, add, reset]


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=6, deadline=None)
@given(operations=st.lists(st.sampled_from(OPERATIONS), min_size=3, max_size=9), seed=st.integers(0, 99))
def test_any_sequence_then_fifty_steps(name, operations, seed):
    rule = rule_named(name)
    around = surroundings(rule, seed)
    splat = step(splat_of(random_gaussians(24, seed), rule, CONTROL), around, 3, seed)
    for operation in operations:
        splat = unmarked(operation(marked(splat), around))
        assert_sound(splat)
        splat = step(splat, around, 1, seed)
    restored = through_a_file(splat.state)
    assert restored.tensors.keys() == splat.state.tensors.keys() and restored.index_tensors == splat.state.index_tensors
    assert all(torch.equal(tensor.nan_to_num(-9), splat.state.tensors[key].nan_to_num(-9)) for key, tensor in restored.tensors.items())
    on, again = step(splat, around, 50, seed), step(replace(splat, state=restored), around, 50, seed)
    assert_sound(on)
    assert torch.equal(on.gaussians.flatten(), again.gaussians.flatten())
    assert all(torch.isfinite(tensor).all() for tensor in on.state.tensors.values())
    before = {name: getattr(splat.gaussians, name).dtype for name in ("means", "shN")}
    assert before == {name: getattr(on.gaussians, name).dtype for name in ("means", "shN")}

"""The Adam family against torch.optim.Adam, and SGD against torch.optim.SGD, in float64: sequences of random gradients, given rates."""

from __future__ import annotations

import math

import pytest
import torch
from random_gaussians import random_gaussians, random_gradients

from learn2splat.gaussians import FIELDS, Gaussians
from learn2splat.optimizers import Task, make_optimizer

# docs/method.md section 5, written out again on purpose.
RATES_3DGS = {"means": 1.6e-4, "quats": 1e-3, "log_scales": 5e-3, "logit_opacities": 5e-2, "sh0": 2.5e-3, "shN": 1.25e-4}
STEPS = 40
SCENE_SCALE = 2.7


def gradients(step: int) -> Gaussians:
    """Of step `step`: a third of the Gaussians is not seen."""
    grads = random_gradients(12, 100 + step, torch.float64, scale=10.0 ** (-step % 5))
    unseen = torch.arange(12) % 3 == step % 3
    for tensor in grads.tensors().values():
        tensor[unseen] = 0
    return grads


def ours(name: str, task: Task) -> Gaussians:
    rule, gaussians = make_optimizer(name), random_gaussians(12, 0, torch.float64)
    state = rule.init(gaussians, task, torch.Generator())
    for step in range(STEPS):
        gaussians, state = rule.step(gaussians, gradients(step), state)
    return gaussians


def torchs(make, rates: dict[str, float], means_decay_per_step: float = 1.0) -> Gaussians:
    """The same by an optimizer of torch, one per field like in gsplat; `make(params, lr)`."""
    leaves = random_gaussians(12, 0, torch.float64).requires_grad_()
    optimizers = {name: make([getattr(leaves, name)], lr=rates[name]) for name in FIELDS}
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizers["means"], means_decay_per_step)
    for step in range(STEPS):
        for name, tensor in gradients(step).tensors().items():
            getattr(leaves, name).grad = tensor
        for optimizer in optimizers.values():
            optimizer.step()
        schedule.step()
    return leaves.detach()


def assert_same(a: Gaussians, b: Gaussians) -> None:
    for name in FIELDS:
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-11, atol=1e-13)  # float64, some 40 additions


def adam(betas=(0.9, 0.999), eps=1e-15):
    return lambda params, lr: torch.optim.Adam(params, lr=lr, betas=betas, eps=eps)


@pytest.mark.parametrize(("steps", "horizon"), [(STEPS, STEPS), (None, 30_000), (1000, 1000)])
def test_adam_is_torchs_adam_with_the_means_decayed(steps, horizon):
    rates = {**RATES_3DGS, "means": 1.6e-4 * SCENE_SCALE}
    task = Task(scene_scale=SCENE_SCALE, views_per_step=8, steps=steps)
    assert_same(ours("adam", task), torchs(adam(), rates, 0.01 ** (1 / horizon)))


def test_adam_stops_decaying_at_one_percent():
    task = Task(scene_scale=SCENE_SCALE, steps=10)
    rule = make_optimizer("adam")
    state = rule.init(random_gaussians(2), task, torch.Generator())
    rates = []
    for step in (0, 5, 10, 25):
        state.step = step
        rates.append(float(rule.rates(state, torch.zeros(1, dtype=torch.float64))[0]))
    assert rates == pytest.approx([1.6e-4 * SCENE_SCALE * factor for factor in (1, 0.1, 0.01, 0.01)])


def test_adam_tuned():
    rates = {name: 5 * rate for name, rate in RATES_3DGS.items()}
    rates["means"] *= SCENE_SCALE
    assert_same(ours("adam-tuned", Task(scene_scale=SCENE_SCALE, steps=STEPS)), torchs(adam((0.99, 0.999)), rates))


@pytest.mark.parametrize("views", [1, 4, 8])
def test_adam_gsplat_scales_with_the_batch(views):
    """gsplat's simple_trainer: lr sqrt(B), betas 1 - B (1 - beta), eps / sqrt(B)."""
    root = math.sqrt(views)
    rates = {name: rate * root for name, rate in RATES_3DGS.items()}
    rates["means"] *= SCENE_SCALE
    expected = torchs(adam((1 - views * 0.1, 1 - views * 0.001), 1e-15 / root), rates, 0.01 ** (1 / STEPS))
    assert_same(ours("adam-gsplat", Task(scene_scale=SCENE_SCALE, views_per_step=views, steps=STEPS)), expected)


def test_adam_gsplat_beyond_ten_views_has_no_momentum():
    """1 - B (1 - 0.9) would be negative: momentum ends at zero."""
    rates = {name: rate * 4 for name, rate in RATES_3DGS.items()}
    expected = torchs(adam((0.0, 1 - 16 * 0.001), 1e-15 / 4), rates, 0.01 ** (1 / STEPS))
    assert_same(ours("adam-gsplat", Task(views_per_step=16, steps=STEPS)), expected)


def test_adam_auto_decays_the_means_to_its_own_share():
    config = make_optimizer("adam-auto").config
    rates = {name: getattr(config, name) for name in FIELDS}
    rates["means"] *= SCENE_SCALE
    expected = torchs(adam((config.beta1, config.beta2)), rates, config.means_final ** (1 / STEPS))
    assert_same(ours("adam-auto", Task(scene_scale=SCENE_SCALE, steps=STEPS)), expected)


def test_the_sum_over_views_is_as_good_as_their_mean():
    """Adam divides the gradient's scale out: the loss may be a sum over views (docs/method.md) or a mean (gsplat)."""
    rule, start = make_optimizer("adam"), random_gaussians(12, 0, torch.float64)
    ends = []
    for factor in (1, 8):
        gaussians, state = start, rule.init(start, Task(), torch.Generator())
        for step in range(STEPS):
            gaussians, state = rule.step(gaussians, gradients(step).map(lambda tensor, factor=factor: factor * tensor), state)
        ends.append(gaussians)
    assert_same(*ends)


def test_sgd_scales_with_count_and_views():
    config = make_optimizer("sgd").config
    rates = {name: getattr(config, name) * 12 / 4 for name in FIELDS}
    rates["means"] *= SCENE_SCALE**2
    assert_same(ours("sgd", Task(scene_scale=SCENE_SCALE, views_per_step=4)), torchs(torch.optim.SGD, rates))

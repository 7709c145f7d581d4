"""The control `mcmc`, against gsplat's own operations. Two of these are CUDA kernels: Eq. 9 stands in as published, in float64, the covariance as
gsplat's torch code has it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from gsplat.cuda._torch_impl import _quat_scale_to_covar_preci
from gsplat.strategy import MCMCStrategy, ops
from gsplat_twin import GsplatTwin, splat_of, surroundings, with_moments
from random_gaussians import random_gaussians
from scipy.integrate import quad

from learn2splat.density import Event, make_density
from learn2splat.density.mcmc import add_copies, number_after, relocate_dead, shared_opacity
from learn2splat.gaussians import Gaussians
from learn2splat.optimizers import make_optimizer

MCMC = make_density("mcmc")


def published(opacities, scales, ratios, binoms=None):
    """Eq. 9 of arXiv:2404.09591, sum by sum."""
    new_opacities, new_scales = opacities.clone(), scales.clone()
    for row, (o, n) in enumerate(zip(opacities.double().tolist(), ratios.clamp(1, 51).tolist())):
        new = 1 - (1 - o) ** (1 / n)
        total = sum(math.comb(i - 1, k) * (-1) ** k * new ** (k + 1) / math.sqrt(k + 1) for i in range(1, n + 1) for k in range(i))
        new_opacities[row], new_scales[row] = new, scales[row] * (o / total)
    return new_opacities, new_scales


@pytest.fixture
def gsplat_on_a_cpu(monkeypatch):
    monkeypatch.setattr(ops, "compute_relocation", published)
    monkeypatch.setattr(ops, "quat_scale_to_covar_preci", _quat_scale_to_covar_preci)


def cloud(n: int = 300, seed: int = 0) -> Gaussians:
    """A third of them dead."""
    gaussians = random_gaussians(n, seed)
    gaussians.logit_opacities.mul_(2).clamp_(-4, 4)
    gaussians.logit_opacities[::3] = -5.3 - gaussians.logit_opacities[::3].abs()
    gaussians.logit_opacities[1] = 5.0  # gsplat's sigmoid is in float32: much nearer to 1, and its 1 - o has no digits left
    return gaussians


def assert_same_gaussians(ours: Gaussians, theirs: Gaussians) -> None:
    for name, field in ours.tensors().items():
        torch.testing.assert_close(field, getattr(theirs, name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_relocating_is_that_of_gsplat(seed, gsplat_on_a_cpu):
    gaussians = cloud(seed=seed)
    twin = GsplatTwin(gaussians, seed)
    torch.manual_seed(seed)
    moved = MCMCStrategy()._relocate_gs(twin.params, twin.optimizers, None)
    splat = relocate_dead(splat_of(gaussians, make_optimizer("adam"), MCMC), torch.Generator().manual_seed(seed))
    assert moved == 100 == int((splat.gaussians.means != gaussians.means).any(1).sum())
    assert_same_gaussians(splat.gaussians, twin.gaussians())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_adding_is_that_of_gsplat(seed, gsplat_on_a_cpu):
    gaussians = cloud(seed=seed)
    twin, rule = GsplatTwin(gaussians, seed), make_optimizer("adam")
    splat = with_moments(splat_of(gaussians, rule, MCMC), twin)
    torch.manual_seed(seed)
    added = MCMCStrategy()._add_new_gs(twin.params, twin.optimizers, None)
    splat = add_copies(splat, number_after(300, Event(0, 1000, 0.0, 10**6)) - 300, surroundings(rule, seed))
    assert added == 15 and len(splat) == 315
    assert_same_gaussians(splat.gaussians, twin.gaussians())
    assert torch.equal(splat.state.tensors["m"], twin.moments("exp_avg")) and torch.equal(splat.state.tensors["v"], twin.moments("exp_avg_sq"))


def test_a_relocated_gaussian_takes_over_all_that_is_remembered():
    gaussians, rule = cloud(), make_optimizer("learned")
    splat = splat_of(gaussians, rule, MCMC)
    g = torch.Generator().manual_seed(1)
    for name, tensor in splat.state.tensors.items():
        if name not in splat.state.index_tensors:
            splat.state.tensors[name] = (torch.rand(tensor.shape, generator=g) * 50).to(tensor.dtype)
    after = relocate_dead(splat, torch.Generator().manual_seed(2))
    sources = (after.gaussians.means.unsqueeze(1) == gaussians.means).all(2).to(torch.uint8).argmax(1)
    assert (sources[::3] % 3 != 0).all() and (sources != torch.arange(300)).sum() == 100
    for name in splat.state.tensors.keys() - splat.state.index_tensors:
        assert torch.equal(after.state.tensors[name], splat.state.tensors[name][sources]), name
    lists = after.state.tensors["neighbours"]
    assert 0 <= lists.min() and lists.max() < 300 and torch.equal(after.gaussians.means[lists[:, 0]], after.gaussians.means)


@pytest.mark.parametrize("opacity", [0.0051, 0.1, 0.5, 0.99, 1 - 1e-6, 1.0])
@pytest.mark.parametrize("copies", [1, 2, 3, 10, 51, 400])
def test_sharing_a_place_is_the_published_equation(opacity, copies):
    shared, factor = shared_opacity(torch.tensor([opacity], dtype=torch.float64), torch.tensor([copies]))
    used = torch.tensor([min(opacity, 1 - torch.finfo(torch.float32).eps)], dtype=torch.float64)
    theirs, scale = published(used, torch.ones(1, 3, dtype=torch.float64), torch.tensor([copies]))
    torch.testing.assert_close(shared, theirs, rtol=1e-9, atol=0)
    torch.testing.assert_close(factor, scale[:, 0], rtol=1e-8, atol=0)


@pytest.mark.parametrize("opacity", [0.02, 0.7, 0.999])
@pytest.mark.parametrize("copies", [2, 5, 40])
def test_sharing_a_place_keeps_the_render(opacity, copies):
    """What Eq. 9 says: along a line through the centre, the opacities of N together add up to those of the one."""
    shared, factor = (float(x) for x in shared_opacity(torch.tensor([opacity], dtype=torch.float64), torch.tensor([copies])))
    before = opacity * math.sqrt(2 * math.pi)
    after, _ = quad(lambda x: 1 - (1 - shared * np.exp(-0.5 * (x / factor) ** 2)) ** copies, -20, 20, epsabs=1e-11, limit=200)
    assert after == pytest.approx(before, rel=1e-7) and 1 - (1 - shared) ** copies == pytest.approx(opacity)


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_noise_is_that_of_gsplat(progress, gsplat_on_a_cpu):
    gaussians, scene_scale = cloud(), 1.7
    gaussians.quats[:] *= 3.0  # any length
    gaussians.log_scales[:, 0] -= 2.0
    twin = GsplatTwin(gaussians)
    torch.manual_seed(5)
    with torch.no_grad():
        ops.inject_noise_to_position(twin.params, {}, {}, scaler=1.6e-4 * scene_scale * 0.01**progress * 5e5)
    after = MCMC.perturb(gaussians, progress, scene_scale, torch.Generator().manual_seed(5))
    assert (after.means - gaussians.means).abs().max() > 1e-3
    assert_same_gaussians(after, twin.gaussians())


def test_penalty_is_the_gradient_of_gsplats_regularisers():
    leaves = random_gaussians(30).requires_grad_()
    views = 4
    (views * (0.01 * torch.sigmoid(leaves.logit_opacities).mean() + 0.01 * torch.exp(leaves.log_scales).mean())).backward()
    penalty = MCMC.penalty(leaves, views)
    for name, field in penalty.tensors().items():
        expected = getattr(leaves, name).grad
        torch.testing.assert_close(field, torch.zeros_like(field) if expected is None else expected)


@pytest.mark.parametrize("count", [1, 3, 12, 100])
@pytest.mark.parametrize("target", [50, 101, 130, 1000])
def test_the_target_is_reached_with_the_last_event_and_never_exceeded(count, target):
    numbers = [100]
    for index in range(count):
        numbers.append(number_after(numbers[-1], Event(index, count, 0.0, target)))
    assert numbers[-1] == max(100, target) == max(numbers)
    for before, after in itertools.pairwise(numbers):
        assert after >= min(max(100, target), int(1.05 * before))


def test_an_event_relocates_then_adds():
    gaussians, rule = cloud().to(torch.float64), make_optimizer("adam")
    before = gaussians.flatten()
    after = MCMC.event(splat_of(gaussians, rule, MCMC), Event(0, 1, 0.5, 450), surroundings(rule))
    assert len(after) == len(after.state) == 450 and torch.equal(gaussians.flatten(), before)
    assert after.gaussians.means.dtype == after.state.tensors["m"].dtype == torch.float64 and after.gaussians.is_finite()
    assert float(after.gaussians.logit_opacities.sigmoid().min()) >= 0.005 - 1e-9  # none is dead


@pytest.mark.parametrize("logit", [-9.0, -2000.0])
def test_where_all_are_dead_nobody_moves(logit):
    gaussians, rule = random_gaussians(6), make_optimizer("adam")
    gaussians.logit_opacities[:] = logit
    after = MCMC.event(splat_of(gaussians, rule, MCMC), Event(0, 1, 0.5, 9), surroundings(rule))
    assert len(after) == (9 if logit == -9.0 else 6) and after.gaussians.is_finite()

"""The nominal rule against a slow oracle written from docs/optimizer.md: loops over Gaussians and numbers, no shared code."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from random_gaussians import random_gaussians, random_gradients

from learn2splat.errors import OptionError
from learn2splat.gaussians import Gaussians, transform_gaussians
from learn2splat.optimizers import Task, make_optimizer
from learn2splat.optimizers.nominal import NominalConfig, local_spacing
from learn2splat.scenes import Similarity

N, STEPS = 12, 45  # the spacing is measured at steps 0, 20 and 40
RATES = {"quats": 1.6e-2, "log_scales": 4.8e-2, "logit_opacities": 0.14, "sh0": 2.1e-2, "shN": 2.2e-3}
BOUNDS = {"log_scales": (-8, math.log(3)), "logit_opacities": (-7, 7), "sh0": (-2, 2), "shN": (-2, 2)}


def gradients(step: int) -> Gaussians:
    """Sizes from tiny to large, and a fifth of the Gaussians unseen."""
    grads = random_gradients(N, step, torch.float64, scale=10.0 ** (step % 7 - 5))
    for tensor in grads.tensors().values():
        tensor[torch.arange(N) % 5 == step % 5] = 0
    return grads


def start() -> Gaussians:
    g = random_gaussians(N, 0, torch.float64)
    g.means *= 0.04  # spacings on both sides of the lower clamp
    g.means[10] += 3.0  # and beyond the upper one
    g.log_scales[0], g.logit_opacities[1], g.shN[2] = 1.05, 6.9, 1.9999  # about to run into the clamps
    return g


def oracle() -> dict[str, np.ndarray]:
    g = {name: tensor.numpy().reshape(N, -1).copy() for name, tensor in start().tensors().items()}
    m, v = ({name: np.zeros_like(values) for name, values in g.items()} for _ in range(2))
    count = [0] * N
    spacing = [0.0] * N
    for step in range(STEPS):
        if step % 20 == 0:
            for i in range(N):
                distances = sorted(math.dist(g["means"][i], g["means"][j]) for j in range(N) if j != i)
                spacing[i] = sum(distances[:8]) / 8
        grads = {name: tensor.numpy().reshape(N, -1) for name, tensor in gradients(step).tensors().items()}
        for i in range(N):
            if all((values[i] == 0).all() for values in grads.values()):
                continue
            count[i] += 1
            for name, values in g.items():
                for j in range(values.shape[1]):
                    m[name][i, j] = 0.9 * m[name][i, j] + 0.1 * grads[name][i, j]
                    v[name][i, j] = 0.995 * v[name][i, j] + 0.005 * grads[name][i, j] ** 2
                    mhat, vhat = m[name][i, j] / (1 - 0.9 ** count[i]), v[name][i, j] / (1 - 0.995 ** count[i])
                    direction = min(5, max(-5, mhat / (math.sqrt(vhat) + 1e-15)))
                    rate = 3.5e-4 * min(10, max(0.2, spacing[i] / 0.02)) if name == "means" else RATES[name]
                    values[i, j] -= rate * direction
                    if name in BOUNDS:
                        values[i, j] = min(BOUNDS[name][1], max(BOUNDS[name][0], values[i, j]))
            g["quats"][i] /= math.sqrt(sum(g["quats"][i] ** 2))
    return g


def test_against_the_oracle():
    rule, gaussians = make_optimizer("nominal"), start()
    state = rule.init(gaussians, Task(scene_scale=17.0), torch.Generator())  # scene_scale must not matter
    for step in range(STEPS):
        gaussians, state = rule.step(gaussians, gradients(step), state)
    expected = oracle()
    for name, tensor in gaussians.tensors().items():
        torch.testing.assert_close(tensor.reshape(N, -1), torch.from_numpy(expected[name]), rtol=1e-9, atol=1e-11)
    assert float(gaussians.log_scales.max()) == math.log(3) and float(gaussians.shN.max()) == 2 and float(gaussians.logit_opacities.max()) == 7


def test_steps_follow_the_scale_of_the_world():
    """Twice the world, half the gradients of lengths: twice the steps of the means, and the same steps of everything else."""
    rule, small = make_optimizer("nominal"), random_gaussians(30, 3, torch.float64)
    small.means *= 0.03
    double = Similarity(2.0, torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    large = transform_gaussians(small, double)
    spacing = local_spacing(small.means) / 0.02
    assert 0.2 < spacing.min() and spacing.max() < 5  # both worlds within the clamps of the ratio
    states = [rule.init(g, Task(), torch.Generator()) for g in (small, large)]
    for step in range(3):
        grads = random_gradients(30, step, torch.float64)
        small, states[0] = rule.step(small, grads, states[0])
        large, states[1] = rule.step(large, replace(grads, means=grads.means / 2), states[1])
    for a, b in zip(transform_gaussians(small, double).tensors().values(), large.tensors().values()):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_spacing_is_measured_when_a_gaussian_is_brand_new():
    rule, g = make_optimizer("nominal"), random_gaussians(20)
    state = rule.init(g, Task(), torch.Generator())
    g, state = rule.step(g, random_gradients(20, 0), state)
    new = Gaussians.cat([g, g[:2]])
    new.means[20:] += 9.0
    grown = rule.grow(state, torch.tensor([-1, -1]), torch.Generator())
    assert grown.tensors["spacing"][20:].isnan().all()
    _, after = rule.step(new, random_gradients(22, 1), grown)
    torch.testing.assert_close(after.tensors["spacing"], local_spacing(new.means))


def test_spacing_of_few_gaussians():
    assert local_spacing(torch.zeros(1, 3)).tolist() == [0]
    assert local_spacing(torch.tensor([[0.0, 0, 0], [0, 3, 4], [0, 6, 8]])).tolist() == [7.5, 5, 7.5]


@pytest.mark.parametrize("name", [field.name for field in fields(NominalConfig) if not field.name.startswith("beta")])
def test_constants_must_be_positive(name):
    with pytest.raises(OptionError, match=f"{name} of the nominal rule must be above 0"):
        NominalConfig(**{name: 0})

"""The Levenberg-Marquardt rule: conjugate gradients, the damped step against a dense solve, the estimated diagonal, damping and refusal."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from random_gaussians import random_gaussians, random_gradients, same_bits
from torch import Tensor

from learn2splat.errors import OptionError
from learn2splat.gaussians.record import COLUMNS, FIELDS, Gaussians
from learn2splat.optimizers import Problem, Task, make_optimizer
from learn2splat.optimizers.lm import LM, LMConfig, conjugate_gradients

EVERYTHING = random_gradients(2, 5, torch.float64)  # marks all as seen


class Linear(Problem):
    """r(x) = offset + J (x - at), with a matrix; `bend` adds curvature that the model does not know: r + bend |x - at|."""

    def __init__(self, at: Gaussians, matrix: Tensor, offset: Tensor, bend: float = 0.0) -> None:
        self.at, self.matrix, self.residuals, self.bend = at.flatten(), matrix, offset, bend

    def jvp(self, direction: Tensor) -> Tensor:
        return self.matrix @ direction.view(-1)

    def vjp(self, cotangent: Tensor) -> Tensor:
        return (self.matrix.T @ cotangent).view_as(self.at)

    def cost(self, gaussians: Gaussians) -> float:
        moved = gaussians.flatten() - self.at
        return 0.5 * float((self.residuals + self.jvp(moved) + self.bend * moved.norm()).square().sum())


def linear(at: Gaussians, rows: int = 400, size: float = 1e-3, seed: int = 0, **more: float) -> Linear:
    g = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, 59 * len(at), generator=g, dtype=torch.float64)
    return Linear(at, matrix, size * torch.randn(rows, generator=g, dtype=torch.float64), **more)


def test_conjugate_gradients_solve():
    g = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=g, dtype=torch.float64)
    matrix, b = root @ root.T + torch.eye(12, dtype=torch.float64), torch.randn(12, generator=g, dtype=torch.float64)
    y, residual = conjugate_gradients(lambda v: matrix @ v, b, 40, 1e-24)
    torch.testing.assert_close(y, torch.linalg.solve(matrix, b), rtol=1e-9, atol=1e-12)
    early, residual = conjugate_gradients(lambda v: matrix @ v, b, 3, 1e-24)
    torch.testing.assert_close(residual, b - matrix @ early)
    # Three iterations are the best of the Krylov space of three products.
    krylov = torch.linalg.qr(torch.stack([b, matrix @ b, matrix @ matrix @ b], dim=1))[0]
    best = krylov @ torch.linalg.solve(krylov.T @ matrix @ krylov, krylov.T @ b)
    torch.testing.assert_close(early, best, rtol=1e-8, atol=1e-10)


def test_conjugate_gradients_survive_a_wrong_product():
    b = torch.ones(5)
    y, _ = conjugate_gradients(lambda v: -v, b, 10, 1e-6)  # negative: nothing to go down to
    assert (y == 0).all()
    y, _ = conjugate_gradients(lambda v: v * torch.nan, b, 10, 1e-6)
    assert (y == 0).all()


def test_the_step_is_the_damped_solution_of_a_linear_problem():
    at = random_gaussians(2, dtype=torch.float64)
    problem = linear(at)
    rule = LM(LMConfig(iterations=300, tolerance=1e-24, damping=0.3))
    state = rule.init(at, Task(), torch.Generator())
    new, after = rule.step(at, EVERYTHING, state, problem)
    # D as documented: per group, bias-corrected, at least `floor` of the strongest group in units of the squared limits.
    curvature = after.tensors["curvature"] / (1 - rule.config.decay)
    limit = torch.tensor([[getattr(rule.config, name) for name in FIELDS]], dtype=torch.float64).repeat(2, 1)
    limit[:, 0] *= at.log_scales.exp().amax(1)
    weighted = curvature * limit**2
    group = torch.maximum(weighted, 0.01 * weighted.amax(1, keepdim=True)) / limit**2
    diagonal = torch.cat([group[:, i : i + 1].expand(-1, COLUMNS[name].stop - COLUMNS[name].start) for i, name in enumerate(FIELDS)], dim=1)
    system = problem.matrix.T @ problem.matrix + 0.3 * torch.diag(diagonal.reshape(-1))
    delta = torch.linalg.solve(system, -problem.matrix.T @ problem.residuals).view(2, 59)
    expected = Gaussians.unflatten(at.flatten() + delta)
    expected = replace(expected, quats=torch.nn.functional.normalize(expected.quats, dim=1))
    assert delta.norm() > 1e-4
    torch.testing.assert_close(new.flatten(), expected.flatten(), rtol=0, atol=1e-9)  # delta is 1e-3, the solve is exact to 1e-12
    assert problem.cost(new) < problem.cost(at)


def test_the_estimated_diagonal_is_that_of_the_matrix():
    at = random_gaussians(2, dtype=torch.float64)
    problem = linear(at, size=0.0)
    problem.matrix *= torch.rand(118, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3
    rule = LM(LMConfig(decay=0.995))
    state = rule.init(at, Task(), torch.Generator())
    for _ in range(400):
        _, state = rule.step(at, EVERYTHING, state, problem)
    estimate = state.tensors["curvature"] / (1 - 0.995**400)
    exact = problem.matrix.square().sum(0).view(2, 59)
    for i, name in enumerate(FIELDS):
        # A sample has the relative spread sqrt(2 / group size), the mean of about 300 of them a seventeenth of that: 8 %; three times it.
        torch.testing.assert_close(estimate[:, i], exact[:, COLUMNS[name]].mean(1), rtol=0.25, atol=0)


def test_no_number_moves_more_than_its_limit():
    at = random_gaussians(2, dtype=torch.float64)
    rule = LM()
    new, _ = rule.step(at, EVERYTHING, rule.init(at, Task(), torch.Generator()), linear(at, size=1e3))
    moved = (new.flatten() - at.flatten()).abs()
    for name in ("log_scales", "logit_opacities", "sh0", "shN"):
        assert moved[:, COLUMNS[name]].max() <= getattr(rule.config, name) + 1e-9
    assert (moved[:, :3] <= at.log_scales.exp().amax(1, keepdim=True) + 1e-9).all()


def test_damping_follows_the_ratio_and_a_worse_step_is_not_taken():
    at = random_gaussians(2, dtype=torch.float64)
    rule = LM(LMConfig(iterations=100))
    state = rule.init(at, Task(), torch.Generator())
    _, good = rule.step(at, EVERYTHING, state, linear(at))  # the model is right
    assert good.tensors["damping"].tolist() == pytest.approx([0.1 / 3] * 2)
    stuck, bad = rule.step(at, EVERYTHING, state, linear(at, bend=50.0))  # every move makes it worse
    assert bad.tensors["damping"].tolist() == pytest.approx([0.3] * 2) and same_bits(stuck, at) and bad.step == 1


def test_unseen_gaussians_keep_their_bits():
    at = random_gaussians(4, dtype=torch.float64)
    at.log_scales[2] = 2.0  # outside the clamps
    grads = random_gradients(4, dtype=torch.float64)
    for field in grads.tensors().values():
        field[2] = 0
    rule = LM()
    new, state = rule.step(at, grads, rule.init(at, Task(), torch.Generator()), linear(at))
    assert same_bits(new[[2]], at[[2]]) and not same_bits(new[[1]], at[[1]])
    assert state.tensors["count"].tolist() == [1, 1, 0, 1] and (state.tensors["curvature"][2] == 0).all()


def test_without_a_problem_and_with_odd_options():
    at = random_gaussians(2)
    rule = make_optimizer("lm", iterations=2)
    with pytest.raises(OptionError, match="lm needs products with the Jacobian"):
        rule.step(at, at, rule.init(at, Task(), torch.Generator()))
    for broken in ({"iterations": 0}, {"decay": 1.0}, {"damping": 1e9}, {"means": -1.0}):
        with pytest.raises(OptionError, match=next(iter(broken))):
            make_optimizer("lm", **broken)

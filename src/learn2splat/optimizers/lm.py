"""`lm`: a Levenberg-Marquardt step without matrices, of the family of 3DGS-LM (arXiv:2409.12892) and LM-RS (arXiv:2504.12905).

One step minimises the linear model of the squared error of its views, damped:

    min over d of  1/2 |r + J d|^2 + 1/2 lambda d^T D d,    that is    (J^T J + lambda D) d = -J^T r

by a few iterations of conjugate gradients, each of them one product with J and one with J^T. D is the diagonal of J^T J, and preconditions CG too
(Jacobi). It is estimated: for a vector u of random signs, the mean of (J^T u)^2 is diag(J^T J) (Hutchinson). The mean over the numbers of a parameter
group of one Gaussian, and over steps, is far less noisy than one sample. lambda follows the ratio of the actual to the predicted reduction.

The model holds near the present Gaussians only: no number moves more than a limit in one step. A step that makes its own views worse is halved twice
and then not taken. In a step the gradient that every rule is given only says which Gaussians were seen: the right-hand side is that of the squared
error, which PSNR measures. A step costs about twelve of Adam's (measured on fern, 256 px, 5000 points): products with J and J^T are renders and their
backward passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..errors import OptionError
from ..gaussians.record import COLUMNS, FIELDS, Gaussians
from ._checks import require_finite
from ._moments import clean_gradients
from .base import OptState, Problem, Task, UpdateRule
from .nominal import apply_update, expand_groups

GOOD_RATIO, POOR_RATIO = 0.75, 0.25  # Of actual to predicted reduction: above the one, damping falls, below the other it grows.
DAMPING_FACTOR = 3.0
HALVINGS = 2
TINY = 1e-30


@dataclass(frozen=True)
class LMConfig:
    """The constants of the rule."""

    # The most that a number moves in one step.
    means: float = 1.0  # Of the largest scale of its Gaussian.
    quats: float = 0.2  # Of a unit quaternion.
    log_scales: float = 0.3
    logit_opacities: float = 1.0
    sh0: float = 0.3
    shN: float = 0.1
    iterations: int = 6  # Of conjugate gradients.
    tolerance: float = 1e-4  # CG ends when the squared residual is this share of that at its start.
    first_probes: int = 4  # Random vectors for the diagonal in the first step; later one per step.
    decay: float = 0.9  # Of the running mean of the diagonal.
    # Curvature per group at least this share of that of the Gaussian's strongest group, per squared limit. Rotations of round Gaussians have none.
    floor: float = 0.01
    damping: float = 0.1  # lambda of the first step, and its bounds.
    min_damping: float = 0.01
    max_damping: float = 1e4

    def __post_init__(self) -> None:
        require_finite(self)
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise OptionError(f"{field.name} of lm must be above 0, got {getattr(self, field.name)}")
        if not self.decay < 1 or not self.min_damping <= self.damping <= self.max_damping:
            raise OptionError(f"lm needs decay < 1 and min_damping <= damping <= max_damping, got {self}")


class LM(UpdateRule):
    """The rule of this module. State: `curvature` (N, 6) running mean of the diagonal per group, `count` (N,), `damping` (N,), one number for all."""

    name = "lm"
    needs_problem = True

    def __init__(self, config: LMConfig | None = None) -> None:
        self.config = config or LMConfig()

    def init(self, gaussians: Gaussians, task: Task, generator: torch.Generator) -> OptState:
        means, n = gaussians.means, len(gaussians)
        tensors = {
            "curvature": means.new_zeros(n, len(FIELDS)),
            "count": torch.zeros(n, dtype=torch.int32, device=means.device),
            "damping": means.new_full((n,), self.config.damping),
        }
        return OptState(tensors, task=task)

    def fresh_rows(self, name: str, like: Tensor, count: int, generator: torch.Generator) -> Tensor:
        rows = super().fresh_rows(name, like, count, generator)
        return rows.fill_(like[0] if len(like) else self.config.damping) if name == "damping" else rows

    @torch.no_grad()
    def step(self, gaussians: Gaussians, grads: Gaussians, state: OptState, problem: Problem | None = None) -> tuple[Gaussians, OptState]:
        if problem is None:
            raise OptionError("lm needs products with the Jacobian of the step's views: run it by fit or bench, or pass step a Problem")
        config = self.config
        _, seen = clean_gradients(grads)
        tensors = self._with_curvature(state, seen, problem)
        if not bool(seen.any()):
            return gaussians.clone(), replace(state, tensors=tensors, step=state.step + 1)
        limits = expand_groups(self._limits(gaussians))
        root = self._diagonal(tensors, gaussians).rsqrt() * seen.unsqueeze(1)  # D^-1/2: CG runs in the numbers D^1/2 d, where D is the identity
        damping = float(state.tensors["damping"][0])

        def transposed(cotangent: Tensor) -> Tensor:
            return root * _finite(problem.vjp(cotangent))

        gradient = transposed(problem.residuals)
        solution, remaining = conjugate_gradients(
            lambda y: transposed(problem.jvp(root * y)) + damping * y, -gradient, config.iterations, config.tolerance
        )
        # With A y = b - remaining, the model's 1/2 y^T A y - b^T y is -1/2 y^T (b + remaining), of which the damping is no reduction.
        predicted = 0.5 * float((solution * (remaining - gradient)).sum(dtype=torch.float64)) + 0.5 * damping * float(solution.square().sum())
        delta = (root * solution).clamp(-limits, limits)

        flat, before = gaussians.flatten(), 0.5 * float(problem.residuals.double().square().sum())
        for halved in range(HALVINGS + 1):
            new = apply_update(flat, delta * -(0.5**halved), seen)
            reduction = before - problem.cost(new)
            if reduction > 0:
                break
        else:
            new = gaussians.clone()
        if halved or not reduction > POOR_RATIO * predicted:
            damping = min(config.max_damping, damping * DAMPING_FACTOR)
        elif reduction > GOOD_RATIO * predicted:
            damping = max(config.min_damping, damping / DAMPING_FACTOR)
        tensors["damping"] = torch.full_like(state.tensors["damping"], damping)
        return new, replace(state, tensors=tensors, step=state.step + 1)

    def _with_curvature(self, state: OptState, seen: Tensor, problem: Problem) -> dict[str, Tensor]:
        """The state's tensors with one more sample of the diagonal in the rows that were seen."""
        old = state.tensors
        residuals = problem.residuals
        probes = self.config.first_probes if state.step == 0 else 1
        generator = torch.Generator().manual_seed(state.step)  # the same probes after a resume
        sample = torch.zeros_like(old["curvature"])
        for _ in range(probes):
            signs = torch.randint(0, 2, residuals.shape, generator=generator, dtype=torch.int8).to(residuals) * 2 - 1
            square = _finite(problem.vjp(signs)).square()
            sample += torch.stack([square[:, COLUMNS[name]].mean(1) for name in FIELDS], dim=1) / probes
        curvature = torch.where(seen.unsqueeze(1), torch.lerp(sample, old["curvature"], self.config.decay), old["curvature"])
        return {"curvature": curvature, "count": old["count"] + seen, "damping": old["damping"].clone()}

    def _limits(self, gaussians: Gaussians) -> Tensor:
        """How far the numbers of each group may move: (N, 6)."""
        limits = gaussians.means.new_tensor([getattr(self.config, name) for name in FIELDS]).repeat(len(gaussians), 1)
        limits[:, FIELDS.index("means")] *= gaussians.log_scales.amax(1).exp()
        return limits

    def _diagonal(self, tensors: dict[str, Tensor], gaussians: Gaussians) -> Tensor:
        """D (N, 59), positive."""
        curvature = tensors["curvature"]
        corrected = curvature / (1 - self.config.decay ** tensors["count"].clamp_min(1).to(curvature.dtype)).unsqueeze(1)
        square = self._limits(gaussians).square()
        per_limit = corrected * square
        return expand_groups(torch.maximum(per_limit, self.config.floor * per_limit.amax(1, keepdim=True)).clamp_min(TINY) / square)


def conjugate_gradients(product: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float) -> tuple[Tensor, Tensor]:
    """An approximate solution of A y = b for a positive definite A, from y = 0.

    Args:
        product: y -> A y; may be slightly wrong and slightly asymmetric, as finite differences are.
        tolerance: ends when the squared residual is this share of |b|^2.

    Returns:
        y, and its residual b - A y. Ends early where the errors of `product` show: p^T A p is not positive, or the residual grew above |b|.
    """
    y, residual, p = torch.zeros_like(b), b.clone(), b.clone()
    square = first = _dot(b, b)
    for _ in range(iterations):
        if square <= tolerance * first or not math.isfinite(square):
            break
        image = product(p)
        curvature = _dot(p, image)
        if not curvature > 0:
            break
        length = square / curvature
        y, residual = y + length * p, residual - length * image
        before, square = square, _dot(residual, residual)
        if square > first:
            break
        p = residual + (square / before) * p
    return y, residual


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a.double() * b.double()).sum())


def _finite(rows: Tensor) -> Tensor:
    """Without NaN and infinities, which come from broken projections."""
    return torch.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)

"""Adam's moments per Gaussian, on flat (N, 59) matrices: shared by every rule that steps only the Gaussians that were seen.

docs/method.md section 3, step 3: `m <- b1 m + (1 - b1) g`, `v <- b2 v + (1 - b2) g^2`, `t <- t + 1` for seen Gaussians only, t per Gaussian;
direction `= (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..gaussians.record import NUM_PARAMS, Gaussians

ADAM_EPS = 1e-15
# A gradient this large would overflow when squared in float32 (3.4e38): it comes from a broken projection, not from the photos.
MAX_GRADIENT = 1e15


def clean_gradients(grads: Gaussians) -> tuple[Tensor, Tensor]:
    """Flat gradients without anything that could poison a moment, and who was seen.

    Returns:
        flat (N, 59), a new tensor: zero in rows that hold NaN, infinity or magnitudes of `MAX_GRADIENT` in sum;
        seen (N,) bool: the rows that are not all zero.
    """
    flat = grads.flatten()
    size = flat.abs().sum(1)  # NaN and infinity propagate, and comparisons with NaN are False
    usable = size < MAX_GRADIENT
    if not bool(usable.all()):
        flat[~usable] = 0
    return flat, usable & (size > 0)


def init_moments(gaussians: Gaussians) -> dict[str, Tensor]:
    """Zero moments `m`, `v` (N, 59) and the counts of steps `count` (N,) int32."""
    means = gaussians.means
    n = len(gaussians)
    return {
        "m": means.new_zeros(n, NUM_PARAMS),
        "v": means.new_zeros(n, NUM_PARAMS),
        "count": torch.zeros(n, dtype=torch.int32, device=means.device),
    }


def update_moments(tensors: dict[str, Tensor], flat: Tensor, seen: Tensor, beta1: float, beta2: float) -> dict[str, Tensor]:
    """`m`, `v`, `count` after one step, as new tensors; rows that were not seen keep their bits. `flat` (N, 59) is zero in those rows."""
    weight = seen.to(flat.dtype).unsqueeze(1)
    m = torch.lerp(tensors["m"], flat, weight * (1 - beta1))
    v = tensors["v"] * (1 - weight * (1 - beta2))
    v.addcmul_(flat, flat, value=1 - beta2)
    return {"m": m, "v": v, "count": tensors["count"] + seen}


def adam_direction(tensors: dict[str, Tensor], seen: Tensor, beta1: float, beta2: float, eps: float = ADAM_EPS) -> Tensor:
    """The bias-corrected Adam direction (N, 59) of the updated moments; exactly zero in rows that were not seen.

    The corrections c1 = 1 - b1^t, c2 = 1 - b2^t are one number per row, so this is `m / (a sqrt(v) + b)` with a = c1 / sqrt(c2), b = c1 eps:
    fewer passes over the matrix. An infinite b leaves the unseen where they are.
    """
    m, v = tensors["m"], tensors["v"]
    count = tensors["count"].to(m.dtype)
    c1 = -torch.expm1(count * math.log(beta1)) if beta1 > 0 else torch.ones_like(count)  # expm1: exact to float32 also for small t
    c2 = -torch.expm1(count * math.log(beta2)) if beta2 > 0 else torch.ones_like(count)
    a = torch.where(seen, c1 / c2.sqrt(), 1.0).unsqueeze(1)
    b = torch.where(seen, c1 * eps, torch.inf).unsqueeze(1)
    return m / v.sqrt().mul_(a).add_(b)

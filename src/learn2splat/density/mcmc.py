"""`mcmc`: 3DGS as Markov chain Monte Carlo (arXiv:2404.09591), with the constants of gsplat's `MCMCStrategy` and its trainer.

Nothing is split or pruned. Transparent Gaussians move to where an opaque one is, drawn by opacity, and new ones appear there, too; all that share a
place get the opacity and the scale with which together they render as the one did (Eq. 9), the one that was there before included. Noise moves the
transparent ones about, and two small penalties make those transparent and small that are not needed.

State: one that moves takes over the latent state, the moments and the count of the one that it joins; a new one the latent state and the count.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..gaussians.record import Gaussians
from ..render.reference import quat_to_rotmat
from .base import DensityControl, Event, Splat, Surroundings

MIN_OPACITY = 0.005  # Up to this a Gaussian is dead, and no shared opacity is less.
MAX_OPACITY = 1 - torch.finfo(torch.float32).eps
MAX_COPIES = 51  # More in one place are given the share of so many: the size of gsplat's table.
GROWTH = 1.05  # The least growth per event while there are fewer than the target.
MEANS_RATE, MEANS_FINAL = 1.6e-4, 0.01  # Of 3DGS: times scene_scale, decayed log-linearly over the run. Not every rule has a rate of its own.
NOISE = 5e5  # Times that rate.
STEEPNESS = 100.0  # Of the fading of the noise around MIN_OPACITY.
OPACITY_PENALTY, SCALE_PENALTY = 0.01, 0.01  # Times the mean opacity and the mean scale, per view.

# Row n, column j - 1: n over j. Exact: the largest is 2.5e14.
_BINOMIALS = torch.tensor([[float(math.comb(n, j)) for j in range(1, MAX_COPIES + 1)] for n in range(MAX_COPIES + 1)], dtype=torch.float64)


class MCMC(DensityControl):
    """The control of this module. It remembers nothing."""

    name = "mcmc"

    @torch.no_grad()
    def penalty(self, gaussians: Gaussians, num_views: int) -> Gaussians:
        opacities, scales = gaussians.logit_opacities.sigmoid(), gaussians.log_scales.exp()
        return replace(
            gaussians.map(lambda field: field.new_zeros(()).expand(field.shape)),  # zeros without memory
            logit_opacities=opacities * (1 - opacities) * (num_views * OPACITY_PENALTY / max(1, opacities.numel())),
            log_scales=scales * (num_views * SCALE_PENALTY / max(1, scales.numel())),
        )

    @torch.no_grad()
    def perturb(self, gaussians: Gaussians, progress: float, scene_scale: float, generator: torch.Generator) -> Gaussians:
        """The means plus covariance x normal numbers, as good as none where the opacity is above 0.1."""
        means = gaussians.means
        normal = torch.randn(means.shape, generator=generator, dtype=means.dtype, device=generator.device).to(means.device)
        size = NOISE * MEANS_RATE * scene_scale * MEANS_FINAL**progress
        fading = torch.sigmoid(STEEPNESS * (MIN_OPACITY - gaussians.logit_opacities.sigmoid()))
        rotation, variances = quat_to_rotmat(gaussians.quats), torch.exp(2 * gaussians.log_scales)
        along_axes = (normal.unsqueeze(1) @ rotation).squeeze(1) * variances * (size * fading).unsqueeze(1)
        return replace(gaussians, means=means + (rotation @ along_axes.unsqueeze(-1)).squeeze(-1))

    @torch.no_grad()
    def event(self, splat: Splat, event: Event, around: Surroundings) -> Splat:
        splat = relocate_dead(splat, around.generator)
        return add_copies(splat, number_after(len(splat), event) - len(splat), around)


def number_after(n: int, event: Event) -> int:
    """How many of `n` Gaussians there are after `event`: 5 % more, or as many more as it takes to reach the target with the run's last event."""
    if n >= event.target or n == 0:
        return n
    remaining = max(1, event.count - event.index)
    return min(event.target, max(int(GROWTH * n), round(n * (event.target / n) ** (1 / remaining))))


def relocate_dead(splat: Splat, generator: torch.Generator) -> Splat:
    """The dead moved to living ones: rows keep their places, those of the dead hold everything of the one that they join."""
    opacities = splat.gaussians.logit_opacities.sigmoid()
    is_dead = opacities <= MIN_OPACITY
    dead, alive = torch.nonzero(is_dead).squeeze(1), torch.nonzero(~is_dead).squeeze(1)
    if len(dead) == 0 or len(alive) == 0:
        return splat
    sources = alive[draw(opacities[alive], len(dead), generator)]
    rows = torch.arange(len(splat), device=dead.device)
    rows[dead] = sources
    return replace(splat, gaussians=share_places(splat.gaussians, sources)).select(rows)


def add_copies(splat: Splat, count: int, around: Surroundings) -> Splat:
    """`count` new Gaussians at the end, each where another one is."""
    opacities = splat.gaussians.logit_opacities.sigmoid()
    if count <= 0 or not bool((opacities > 0).any()):
        return splat
    sources = draw(opacities, count, around.generator)
    shared = share_places(splat.gaussians, sources)
    return replace(splat, gaussians=shared).grow(shared[sources], sources, around.rule, around.generator)


def draw(opacities: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count,) positions, with repetition and as likely as the opacities say."""
    return torch.multinomial(opacities.to(generator.device), count, replacement=True, generator=generator).to(opacities.device)


def share_places(gaussians: Gaussians, sources: Tensor) -> Gaussians:
    """The Gaussians once each of `sources` (P,) has as many copies in its place as it is named there, and itself: its new opacity and scale."""
    places, copies = torch.unique(sources, return_counts=True)
    opacities, factors = shared_opacity(gaussians.logit_opacities[places].double().sigmoid(), copies + 1)
    logits = torch.logit(opacities.clamp(MIN_OPACITY, MAX_OPACITY)).to(gaussians.means)
    log_scales = gaussians.log_scales[places] + factors.log().to(gaussians.means).unsqueeze(1)
    return replace(
        gaussians,
        logit_opacities=gaussians.logit_opacities.index_copy(0, places, logits),
        log_scales=gaussians.log_scales.index_copy(0, places, log_scales),
    )


def shared_opacity(opacities: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """What `copies` (P,) Gaussians in one place need, to render together as one of opacity `opacities` (P,) float64: Eq. 9 of arXiv:2404.09591.

    Returns:
        their opacity o' = 1 - (1 - o)^(1 / N), and the factor on their scale, o / sum over i <= N, k < i of C(i-1, k) (-1)^k o'^(k+1) / sqrt(k+1):
        both (P,) float64. The sum over i is done by the hockey-stick identity, which leaves C(N, j) with j = k + 1. In float64, because terms
        of up to 2e5 cancel.
    """
    opacities, copies = opacities.clamp(max=MAX_OPACITY), copies.clamp(max=MAX_COPIES)
    shared = -torch.expm1(torch.log1p(-opacities) / copies)
    j = torch.arange(1, MAX_COPIES + 1, dtype=torch.float64, device=opacities.device)
    weights = torch.where(j % 2 == 1, 1.0, -1.0) / j.sqrt()
    terms = _BINOMIALS.to(opacities.device)[copies] * weights * shared.unsqueeze(1) ** j
    return shared, opacities / terms.sum(1)

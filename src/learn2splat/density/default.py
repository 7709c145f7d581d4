"""`default`: the density control of 3DGS (arXiv:2308.04079, section 5.2), with the thresholds and the schedule of gsplat's `DefaultStrategy`.

Gaussians whose gradient on screen is large on average are cloned if they are small, and split in two if they are large. Transparent ones are pruned,
after the first reset also those that are too big, and every 30th event all opacities fall to at most 0.01, so that what is not needed stays
transparent and goes. Radii on screen play no part, as in gsplat, where they are off.

gsplat 1.5.3 itself never resets (`step % reset_every == 0 & step > 0` is always false; mended in its pull request 776): what is meant counts here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..gaussians.record import COLUMNS, Gaussians
from ..render.reference import quat_to_rotmat
from .base import DensityControl, Event, Observation, Splat, Surroundings

FIRST_EVENT = 6  # gsplat refines every 100th step after the 500th and resets every 3000th: its first event is the 6th hundred, ...
RESET_EVERY = 30  # ... and it resets at the 30th, 60th, ...
EVENTS_AFTER_RESET = 29  # It refines on until the next reset would come, which brings back what is needed and prunes the rest.
SPLIT_SHRINKS = 1.6


@dataclass(frozen=True)
class DefaultConfig:
    """The thresholds."""

    grow_grad2d: float = 0.0002  # Mean length of d (loss of a view) / d means2d, the image being 2 wide and 2 high.
    grow_scale3d: float = 0.01  # Times scene_scale: Gaussians up to this largest scale are cloned, larger ones split.
    prune_opa: float = 0.005  # Opacities below are pruned.
    prune_scale3d: float = 0.1  # Times scene_scale: Gaussians with a larger scale are pruned, after the first reset.
    absgrad: bool = False  # Whether gradients are sums of absolute values over pixels (AbsGS, arXiv:2404.10484).


ABSGRAD = DefaultConfig(absgrad=True, grow_grad2d=0.0008)  # gsplat's advice for the threshold


class Default(DensityControl):
    """The control of this module. Stats: `grad2d` (N,) sum of the lengths of gradients, `count` (N,) int32 views in which each was visible."""

    def __init__(self, config: DefaultConfig | None = None, name: str = "default") -> None:
        self.config = config or DefaultConfig()
        self.name = name
        self.observes = "absgrad" if self.config.absgrad else "grad"

    def init_stats(self, gaussians: Gaussians) -> dict[str, Tensor]:
        means = gaussians.means
        return {"grad2d": means.new_zeros(len(means)), "count": torch.zeros(len(means), dtype=torch.int32, device=means.device)}

    def observe(self, stats: dict[str, Tensor], observations: Sequence[Observation]) -> dict[str, Tensor]:
        grad2d, count = stats["grad2d"], stats["count"]
        for seen in observations:
            # Lengths in an image of size 2 x 2. gsplat multiplies by the number of cameras, because its loss is their mean; ours is their sum, of
            # which a gradient with respect to the means in one view is that of the view's own loss already.
            half = seen.means2d_grads.new_tensor([seen.width / 2, seen.height / 2])
            lengths = torch.linalg.vector_norm(seen.means2d_grads * half, dim=-1)
            visible = (seen.radii > 0).all(-1)
            grad2d = grad2d + torch.where(visible, lengths, 0.0).sum(0)
            count = count + visible.sum(0, dtype=torch.int32)
        return {"grad2d": grad2d, "count": count}

    @torch.no_grad()
    def event(self, splat: Splat, event: Event, around: Surroundings) -> Splat:
        hundred = event.index + FIRST_EVENT
        clones, splits = self._to_grow(splat, event.target)
        splat = grow(splat, clones, splits, around)
        splat = self._pruned(splat, hundred > RESET_EVERY)
        splat = replace(splat, stats=self.init_stats(splat.gaussians))
        if hundred % RESET_EVERY == 0 and event.count - 1 - event.index >= EVENTS_AFTER_RESET:
            splat = reset_opacities(splat, 2 * self.config.prune_opa, around)
        return splat

    def _to_grow(self, splat: Splat, target: int) -> tuple[Tensor, Tensor]:
        """Positions of the Gaussians to clone and of those to split, ascending: all that qualify or, where with them more than `target` would be left
        after pruning, those with the largest gradients."""
        gaussians, config = splat.gaussians, self.config
        grads = splat.stats["grad2d"] / splat.stats["count"].clamp_min(1)
        transparent = torch.sigmoid(gaussians.logit_opacities) < config.prune_opa
        chosen = (grads > config.grow_grad2d) & ~transparent  # children of transparent ones would be pruned with their parents
        room = max(0, target - int((~transparent).sum()))
        if int(chosen.sum()) > room:
            largest = torch.argsort(torch.where(chosen, grads, -1.0), descending=True, stable=True)[:room]
            chosen = torch.zeros_like(chosen).index_fill_(0, largest, True)
        small = gaussians.log_scales.amax(1).exp() <= config.grow_scale3d * splat.state.task.scene_scale
        return torch.nonzero(chosen & small).squeeze(1), torch.nonzero(chosen & ~small).squeeze(1)

    def _pruned(self, splat: Splat, also_big: bool) -> Splat:
        gaussians, config = splat.gaussians, self.config
        gone = torch.sigmoid(gaussians.logit_opacities) < config.prune_opa
        if also_big:
            gone |= gaussians.log_scales.amax(1).exp() > config.prune_scale3d * splat.state.task.scene_scale
        # Where all are transparent something is broken already; a run without Gaussians could not even say so.
        return splat.select(~gone) if bool(gone.any()) and not bool(gone.all()) else splat


def grow(splat: Splat, clones: Tensor, splits: Tensor, around: Surroundings) -> Splat:
    """`clones` (P,) once more at the end, then two Gaussians in place of each of `splits` (Q,): drawn from it, 1.6 times smaller; first ones, then
    second ones. State: `UpdateRule.grow`."""
    if len(clones) + len(splits) == 0:
        return splat
    old = splat.gaussians
    parents = old[splits]
    normal = torch.randn(2, len(splits), 3, generator=around.generator, dtype=old.means.dtype, device=around.generator.device).to(old.means)
    offsets = (quat_to_rotmat(parents.quats) @ (parents.log_scales.exp() * normal).unsqueeze(-1)).squeeze(-1)
    halves = [replace(parents, means=parents.means + offset, log_scales=parents.log_scales - math.log(SPLIT_SHRINKS)) for offset in offsets]
    new = Gaussians.cat([old[clones], *halves])
    grown = splat.grow(new, torch.cat([clones, splits, splits]), around.rule, around.generator)
    if len(splits) == 0:
        return grown
    keep = torch.ones(len(grown), dtype=torch.bool, device=splits.device)
    keep[splits] = False
    return grown.select(keep)


def reset_opacities(splat: Splat, largest: float, around: Surroundings) -> Splat:
    """All opacities at most `largest`, and their moments zero."""
    limit = math.log(largest / (1 - largest))
    gaussians = replace(splat.gaussians, logit_opacities=splat.gaussians.logit_opacities.clamp(max=limit))
    return replace(splat, gaussians=gaussians).reset_moments(COLUMNS["logit_opacities"], around.rule)

"""The objective `greedy`, as published (docs/method.md section 4; docs/training.md says point by point what is as published and what is not).

Every update is judged by the loss right after it; Gaussians are detached between steps, and only the latent state carries gradients on. After inner
step i of tau the loss is the sum of two means, over the targets, which are fixed for the episode, and over some of the photos that this step has
rendered, times 0.9^(tau - 1 - i). Two regularisers:

    delta loss      mean |delta| as predicted, before clamps, of the Gaussians that take part, over entries without a gradient or that go uphill;
                    discounted like the loss
    stability loss  sum over steps and watched views of relu(L1 now - L1 one step before, no gradient); not discounted. Watched are the targets, and
                    where the views of a step are always the same (sparse views) these too

Its bias against slow progress was measured (docs/lab.md, 1 to 8; Wu et al., arXiv:1803.02021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ..fitting.evaluate import by_size, render_photos
from ..fitting.gradients import loss_and_gradients
from ..gaussians.record import Gaussians
from ..optimizers import OptState, UpdateRule
from ..optimizers._moments import clean_gradients
from ..optimizers._point_transformer import TransformerRule
from ..scenes import Scene
from .config import MetaConfig
from .losses import meta_loss
from .tasks import Dice, Episode

NO_GRADIENT = 1e-8  # Below it an entry has none.


def stacked_views(context: Sequence[int], views_per_step: int, steps: int, dice: Dice) -> list[list[int]]:
    """Photo positions of each step from a shuffled stack in which each appears once; when it is empty it is shuffled anew."""
    stack: list[int] = []
    chosen = []
    for _ in range(steps):
        step: list[int] = []
        while len(step) < min(views_per_step, len(context)):
            if not stack:
                stack = dice.sample(context, len(context))
            later = [view for view in stack if view not in step]  # never the same photo twice in a step
            if not later:
                stack = dice.sample([view for view in context if view not in step], len(context))
                later = stack
            stack.remove(later[-1])
            step.append(later[-1])
        chosen.append(step)
    return chosen


def greedy_loss(
    rule: UpdateRule, episode: Episode, scene: Scene, config: MetaConfig, meta_step: int, views: list[list[int]], dice: Dice
) -> tuple[Tensor, Gaussians, OptState, float] | None:
    """(loss, Gaussians and state after the piece, loss of the targets at its end over that at its start); None where something is not finite."""
    tau = len(views)
    targets = list(episode.targets[: config.target_views])
    watched = targets + (list(episode.context) if len(views[0]) == len(episode.context) else [])
    gaussians, state = episode.gaussians, episode.state
    total, loss = torch.zeros(()), torch.zeros(())
    with torch.no_grad():
        start = float(meta_loss(scene, gaussians, targets, config))
        before = l1_per_view(scene, gaussians, watched)
    for i, chosen in enumerate(views):
        gaussians = gaussians.detach()
        inner, grads = loss_and_gradients(scene, gaussians, chosen)
        if not math.isfinite(inner):
            return None
        with low_precision(config, gaussians):
            new, state, change = predicted(rule, gaussians, grads, state)
        discount = config.step_decay ** (tau - 1 - i)
        loss = meta_loss(scene, new, targets, config)
        total = total + discount * (loss + meta_loss(scene, new, dice.sample(chosen, config.context_views), config))
        if config.delta_weight and meta_step >= config.delta_from:
            total = total + config.delta_weight * discount * delta_loss(change, grads.flatten(), state.tensors["m"])
        if config.stability_weight:
            after = l1_per_view(scene, new, watched)
            total = total + config.stability_weight * (after - before).relu().sum()
            before = after.detach()
        gaussians = new
    return total, gaussians, state, float(loss.detach()) / start


def predicted(rule: UpdateRule, gaussians: Gaussians, grads: Gaussians, state: OptState) -> tuple[Gaussians, OptState, Tensor]:
    """The new Gaussians and state, and what (N, 59) the rule adds to the parameters: before clamps where it says so."""
    if isinstance(rule, TransformerRule):
        delta, state = rule.propose(gaussians, grads, state)
        return rule.move(gaussians, delta, grads), state, -delta
    new, state = rule.update(gaussians, grads, state)
    return new, state, new.flatten() - gaussians.flatten()


def delta_loss(change: Tensor, grads: Tensor, momentum: Tensor) -> Tensor:
    """The mean of |change| over the entries of seen Gaussians that have no gradient, or go uphill: along Adam's first moment. All (N, 59)."""
    _, seen = clean_gradients(Gaussians.unflatten(grads))
    idle = ((grads.abs() < NO_GRADIENT) | (change.detach().sign() * momentum.sign() > 0)) & seen.unsqueeze(1)
    return (change.abs() * idle).sum() / idle.sum().clamp_min(1)


def l1_per_view(scene: Scene, gaussians: Gaussians, views: Sequence[int]) -> Tensor:
    """Mean absolute error of each view (V,)."""
    pairs = [render_photos(scene, gaussians, same) for same in by_size(scene, views)]
    return torch.cat([(renders - targets).abs().mean(dim=(1, 2, 3)) for renders, targets in pairs])


def low_precision(config: MetaConfig, gaussians: Gaussians) -> AbstractContextManager:
    """bf16 for the network on a GPU, where the configuration asks for it."""
    on = config.bf16 and gaussians.means.is_cuda
    return torch.autocast(gaussians.means.device.type, torch.bfloat16) if on else nullcontext()

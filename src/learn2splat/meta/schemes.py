"""The two objectives of meta-training: what an unrolled piece of an episode costs, with a graph to the weights.

`greedy` is the paper's: greedy.py.

`horizon` keeps the Gaussians in the graph and judges where the piece ends. All that the rule reads, gradients and parameters, are constants, so
d theta_T / d delta_t is the identity, no second derivatives occur and only the network's activations are kept. The loss is relative to what the piece
gains, or to what `nominal` gains from the same state with the same views: early steps gain a hundred times more than late ones, and so count
the same.

An episode may follow a plan (courses.py); then a piece may hold events of growth and changes of size, and the graph goes on through them. It is
judged at the size of its last step, in the second half of the plan on held-out views alone, towards its end by the average of the iterates.

A network that begins by moving nothing may imitate `nominal` first (`imitation`): its updates are compared with nominal's along nominal's own path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..fitting.gradients import loss_and_gradients
from ..fitting.views import ViewSampler
from ..gaussians.record import COLUMNS
from ..optimizers import OptState, UpdateRule
from ..optimizers.nominal import Nominal, NominalConfig, expand_groups, group_step_sizes
from ..scenes import Scene
from .buffer import unroll_bounds
from .config import MetaConfig
from .courses import LATE, Grounds, gradients, grown, most_gaussians, moved, photos, shown, steps_left
from .greedy import greedy_loss, low_precision, stacked_views
from .losses import meta_loss
from .tasks import Dice, Episode

IMITATED_STEPS = 8  # Of a piece, at most.


@dataclass(frozen=True)
class Unrolled:
    """What a scheme returns."""

    loss: Tensor  # Scalar with a graph to the weights.
    episode: Episode  # Where the unrolled steps ended; no graph.
    steps: int
    # Meta-loss at the end over that of `nominal` (horizon with advantage) or over that at the start; of an imitation the relative error.
    ratio: float


def unroll(
    rule: UpdateRule, episode: Episode, scene: Scene, config: MetaConfig, meta_step: int, dice: Dice, grounds: Grounds | None = None
) -> Unrolled | None:
    """One piece of the episode; None where something is not finite. `grounds`: of one that follows a plan."""
    low, high = unroll_bounds(config, episode.age)
    steps = dice.integer(low, high)
    least = low if grounds is None else config.unroll[0]  # grown episodes are large when they are old
    steps = min(steps, max(least, config.max_graph // most_gaussians(episode, steps)), steps_left(episode) or steps)
    views = draw_views(episode, scene, steps, config, dice)
    if meta_step >= config.imitation and config.scheme == "greedy":
        piece = greedy_loss(rule, episode, scene, config, meta_step, views, dice)
        return None if piece is None else Unrolled(piece[0], _ended(replace(episode, gaussians=piece[1], state=piece[2])), len(views), piece[3])
    if grounds is not None and episode.course.plan.progress(episode.age + steps, 0.0) > LATE:
        judged = dice.sample(episode.targets, config.late_target_views)
    else:
        judged = dice.sample(episode.targets, config.target_views) + dice.sample(episode.context, config.context_views)
    if meta_step < config.imitation:
        return _imitation(rule, episode, scene, views[:IMITATED_STEPS])
    return _horizon(rule, episode, scene, config, views, judged, dice, grounds)


def roll_out(
    rule: UpdateRule, episode: Episode, scene: Scene, steps: int, config: MetaConfig, dice: Dice, grounds: Grounds | None = None
) -> Episode | None:
    """The episode `steps` frozen steps later; None where something is not finite."""
    views = draw_views(episode, scene, steps, config, dice)
    generator = _generator(grounds, dice)
    for chosen in views:
        episode = grown(episode, rule, grounds, generator)
        total, grads, episode = gradients(episode, photos(episode, scene, grounds), chosen)
        with low_precision(config, episode.gaussians):
            stepped = rule.step(episode.gaussians, grads, episode.state)
        episode = moved(episode, *stepped, generator)
        if not math.isfinite(total) or not episode.gaussians.is_finite():
            return None
    return episode


def _generator(grounds: Grounds | None, dice: Dice) -> torch.Generator:
    """For density control: the same number from `dice` however many steps follow, and none where there is no control."""
    return torch.Generator() if grounds is None else dice.fork()


def draw_views(episode: Episode, scene: Scene, steps: int, config: MetaConfig, dice: Dice) -> list[list[int]]:
    """Photo positions of each step, chosen among the context as `fit` chooses them; greedy: as published, from a shuffled stack."""
    context = list(episode.context)
    if config.scheme == "greedy":
        return stacked_views(context, episode.state.task.views_per_step, steps, dice)
    sampler = ViewSampler(scene.camtoworlds[context, :3, 3], episode.state.task.views_per_step, dice.fork())
    return [[context[i] for i in sampler.next()] for _ in range(steps)]


def compressed(x: Tensor) -> Tensor:
    """x within +-1, beyond that +-(1 + log|x|): continuous with its slope, and a lucky or broken piece cannot outweigh all others."""
    size = x.abs()
    return torch.where(size <= 1, x, x.sign() * (1 + size.clamp_min(1).log()))


def nominal_of(rule: UpdateRule, episode: Episode) -> tuple[Nominal, OptState]:
    """The nominal rule and its state in the middle of an episode: the moments are the same, whatever rule led there."""
    nominal = Nominal(getattr(rule.config, "nominal", None) or NominalConfig())
    state = nominal.init(episode.gaussians, episode.state.task, torch.Generator())
    kept = {name: episode.state.tensors[name] for name in state.tensors if name in episode.state.tensors}
    return nominal, replace(state, tensors={**state.tensors, **kept}, step=episode.age)


def _horizon(
    rule: UpdateRule,
    episode: Episode,
    scene: Scene,
    config: MetaConfig,
    views: list[list[int]],
    judged: list[int],
    dice: Dice,
    grounds: Grounds | None,
) -> Unrolled | None:
    steps = len(views)
    marks = {steps: 1.0}  # Inner steps after which the loss is taken, and their weights.
    if config.intermediate and steps > 1:
        marks[int(dice.log_uniform(1, steps))] = config.intermediate
    generator = _generator(grounds, dice)
    seen = scene if grounds is None else grounds.scenes[episode.course.plan.stage(episode.course.plan.progress(episode.age + steps - 1, 0.0))]
    if config.advantage:
        same = torch.Generator()
        same.set_state(generator.get_state())
        references = _losses_of_nominal(rule, episode, scene, config, views, judged, marks, grounds, seen, same)
        if references is None:
            return None
    with torch.no_grad():
        start = float(meta_loss(seen, shown(episode), judged, config))

    total = torch.zeros(())
    ratio = math.nan
    for i, chosen in enumerate(views, 1):
        episode = grown(episode, rule, grounds, generator)
        inner, grads, episode = gradients(episode, photos(episode, scene, grounds), chosen)
        new, state = rule.update(episode.gaussians.detach(), grads, episode.state)
        # The value is `new` to the bit; the graph leads to this step's delta and to all before it.
        new = new.zip_map(lambda now, before: now + (before - before.detach()), episode.gaussians)
        episode = moved(episode, new, state, generator)
        if not math.isfinite(inner):
            return None
        if i in marks:
            loss = meta_loss(seen, shown(episode), judged, config)
            reference = references[i] if config.advantage else start
            gain = abs(start - (reference if config.advantage else float(loss.detach())))
            unit = gain + config.advantage_floor * start
            total = total + marks[i] * compressed((loss - reference) / unit)
            ratio = float(loss.detach()) / reference
    return Unrolled(total, _ended(episode), steps, ratio)


@torch.no_grad()
def _losses_of_nominal(
    rule: UpdateRule,
    episode: Episode,
    scene: Scene,
    config: MetaConfig,
    views: list[list[int]],
    judged: list[int],
    marks: dict[int, float],
    grounds: Grounds | None,
    seen: Scene,
    generator: torch.Generator,
) -> dict[int, float] | None:
    """Meta-losses in `seen` that the nominal rule reaches at `marks`."""
    nominal, state = nominal_of(rule, episode)
    episode, losses = replace(episode, state=state), {}
    for i, chosen in enumerate(views, 1):
        episode = grown(episode, nominal, grounds, generator)
        with torch.enable_grad():
            _, grads, episode = gradients(episode, photos(episode, scene, grounds), chosen)
        episode = moved(episode, *nominal.step(episode.gaussians, grads, episode.state), generator)
        if i in marks:
            losses[i] = float(meta_loss(seen, shown(episode), judged, config))
    return losses if all(math.isfinite(loss) for loss in losses.values()) else None


def _imitation(rule: UpdateRule, episode: Episode, scene: Scene, views: list[list[int]]) -> Unrolled | None:
    """The mean over steps and parameter groups of |update - that of nominal|^2 / |that of nominal|^2, both in units of nominal's step sizes.

    `nominal` leads the way."""
    nominal, lead = nominal_of(rule, episode)
    gaussians, state = episode.gaussians, episode.state
    total = torch.zeros(())
    for chosen in views:
        inner, grads = loss_and_gradients(scene, gaussians, chosen)
        if not math.isfinite(inner):
            return None
        mine, state = rule.update(gaussians, grads, state)
        gaussians, lead = nominal.step(before := gaussians, grads, lead)
        unit = expand_groups(group_step_sizes(lead.tensors["spacing"], nominal.config))
        taught = ((gaussians.flatten() - before.flatten()) / unit).square()
        errors = ((mine.flatten() - gaussians.flatten()) / unit).square()
        for columns in COLUMNS.values():
            total = total + errors[:, columns].sum() / taught[:, columns].sum().clamp_min(1e-12) / (len(COLUMNS) * len(views))
    return Unrolled(total, _ended(replace(episode, gaussians=gaussians, state=state)), len(views), math.sqrt(float(total.detach())))


def _ended(episode: Episode) -> Episode:
    """The episode without its graph."""
    state = replace(episode.state, tensors={name: tensor.detach() for name, tensor in episode.state.tensors.items()})
    course = episode.course
    if course is not None and course.average is not None:
        course = replace(course, average=course.average.detach())
    return replace(episode, gaussians=episode.gaussians.detach(), state=state, course=course)

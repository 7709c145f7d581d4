"""Episodes that follow a plan, as `fit` does: photos from coarse to fine, and density control at its events.

An episode without a course keeps its Gaussians and the size of its photos; every function here then changes nothing. One with a course has a plan
(`fitting/plan.py`) whose budget is a number of steps, so that its age says where it is in it.

A piece may be unrolled across an event. Its gradient goes on through it: rows that stay, move or are copied have the identity as their Jacobian,
brand-new ones are constants. What an event does depends on the weights in no other way, as far as meta-training is concerned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..density import Event, Splat, Surroundings, make_density
from ..fitting.gradients import loss_and_gradients, observed_gradients
from ..fitting.plan import Plan, make_plan
from ..gaussians import Gaussians
from ..initializers import DepthMaps
from ..optimizers import OptState, UpdateRule
from ..scenes import Scene
from .config import MetaConfig

if TYPE_CHECKING:
    from .tasks import Dice, Episode

DENSITY_SHARES = {"error": 0.6, "default": 0.2, "mcmc": 0.2}  # of the episodes with a course
COARSEST = 64  # px, the long side of the smallest photos that a course begins with
ORIGIN = "origin"  # state tensor during an event: 1 + the row before it that a row comes from, 0 for a brand-new one
LATE = 0.5  # progress from which a piece is late
JUST_BEFORE = 4  # steps: from at most so many before a change on, half of the pieces begin that could


@dataclass(frozen=True, eq=False)
class Course:
    """Where an episode is in its plan, apart from its age."""

    plan: Plan
    stats: dict[str, Tensor]  # of the density control
    events: int = 0  # of growth, done
    average: Gaussians | None = None  # of the iterates since the plan's `average_from`
    averaged: int = 0  # how many


@dataclass(frozen=True, eq=False)
class Grounds:
    """What an episode with a course needs of its scene."""

    scenes: tuple[Scene, ...]  # at the size of each stage of the plan; `train_idx` is the episode's context
    depths: Callable[[], DepthMaps]  # of the context


def new_course(config: MetaConfig, scene: Scene, context: Sequence[int], gaussians: Gaussians, views: int, meta_step: int, dice: Dice) -> Course:
    """A course for a start of `gaussians`: `views` photos per step, all else drawn from `dice`."""
    sizes = [scene.size(i) for i in context]
    halvings = 0
    while halvings < 3 and max(max(size) for size in sizes) >> (halvings + 1) >= COARSEST:
        halvings += 1
    least, most = config.plan_gaussians
    cap = round(least + (most - least) * min(1.0, meta_step / config.meta_steps))
    draw, density = dice.uniform(), "none"
    for name, share in DENSITY_SHARES.items():
        density, draw = (name, draw - share) if draw >= 0 else (density, draw)
    plan = make_plan(
        sizes,
        len(gaussians),
        steps=round(dice.log_uniform(*config.plan_steps)),
        views_per_step=views,
        num_downscales=dice.integer(min(1, halvings), halvings),
        density=density,
        max_gaussians=max(cap, len(gaussians)),
    )
    return Course(plan, make_density(density).init_stats(gaussians))


def progress_of(episode: Episode) -> float:
    """Where the next step of an episode with a course is in its plan, 0 to 1."""
    return episode.course.plan.progress(episode.age, 0.0)


def steps_left(episode: Episode) -> int | None:
    """Until its plan ends; None without one."""
    return None if episode.course is None else episode.course.plan.steps - episode.age


def shown(episode: Episode) -> Gaussians:
    """What a run would show now: the average of the iterates where the plan wants one, else the Gaussians."""
    average = None if episode.course is None else episode.course.average
    return episode.gaussians if average is None else average


def most_gaussians(episode: Episode, steps: int) -> int:
    """How many Gaussians there may be in the next `steps` steps."""
    count = len(episode.gaussians)
    if episode.course is None:
        return count
    plan = episode.course.plan
    until = plan.due(plan.progress(episode.age + steps, 0.0))
    return max([count, *(growth.target for growth in plan.growth[episode.course.events : until])])


def rollout_steps(episode: Episode, bound: int, dice: Dice) -> int:
    """How many frozen steps to make, 1 to `bound`: uniform, or such that the next piece begins just before a change of size or of the Gaussians."""
    drawn = dice.integer(1, bound)
    if episode.course is None:
        return drawn
    plan, age = episode.course.plan, episode.age
    places = [stage.until for stage in plan.stages[:-1]] + [growth.at for growth in plan.growth]
    changes = [step for place in places for step in (round(place * plan.steps) - age,) if 1 < step <= bound + JUST_BEFORE]
    if not changes or dice.chance(0.5):
        return drawn
    return min(bound, max(1, min(changes) - dice.integer(1, JUST_BEFORE)))


def photos(episode: Episode, scene: Scene, grounds: Grounds | None) -> Scene:
    """The scene with its photos at the size of the next step."""
    return scene if grounds is None else grounds.scenes[episode.course.plan.stage(progress_of(episode))]


def grown(episode: Episode, rule: UpdateRule, grounds: Grounds | None, generator: torch.Generator) -> Episode:
    """The episode after the events that are due before its next step; Gaussians and latent state keep their graph."""
    course = episode.course
    if course is None or (due := course.plan.due(progress_of(episode))) <= course.events:
        return episode
    old, state = episode.gaussians, episode.state
    fixed = {name: tensor.detach() for name, tensor in state.tensors.items()}
    rows = torch.arange(1, len(old) + 1, device=old.means.device)
    splat = Splat(old.detach(), replace(state, tensors={**fixed, ORIGIN: rows}), course.stats)
    event = Event(due - 1, len(course.plan.growth), progress_of(episode), course.plan.growth[due - 1].target)
    around = Surroundings(photos(episode, grounds.scenes[-1], grounds), rule, generator, grounds.depths)
    splat = make_density(course.plan.density).event(splat, event, around)
    tensors = dict(splat.state.tensors)
    origin = tensors.pop(ORIGIN) - 1
    for name, tensor in state.tensors.items():
        if tensor.requires_grad:
            tensors[name] = with_graph(tensors[name], tensor, origin)
    gaussians = splat.gaussians.zip_map(lambda now, before: with_graph(now, before, origin), old)
    course = replace(course, stats=splat.stats, events=due, average=None, averaged=0)
    return replace(episode, gaussians=gaussians, state=replace(splat.state, tensors=tensors), course=course)


def with_graph(now: Tensor, before: Tensor, origin: Tensor) -> Tensor:
    """`now` (M, ...) with the identity as its Jacobian with respect to the rows `origin` (M,) of `before`, and none where that is -1."""
    if not before.requires_grad:
        return now
    moved = before[origin.clamp_min(0)]
    known = (origin >= 0).view(-1, *[1] * (now.ndim - 1))
    return now + torch.where(known, moved - moved.detach(), 0.0)


def gradients(episode: Episode, scene: Scene, views: list[int]) -> tuple[float, Gaussians, Episode]:
    """Inner loss and gradients of `views`, with the penalty of the density control; the episode with what that has seen."""
    course, gaussians = episode.course, episode.gaussians.detach()
    if course is None:
        return *loss_and_gradients(scene, gaussians, views), episode
    control = make_density(course.plan.density)
    if control.observes:
        total, grads, observations = observed_gradients(scene, gaussians, views, control.observes)
        episode = replace(episode, course=replace(course, stats=control.observe(course.stats, observations)))
    else:
        total, grads = loss_and_gradients(scene, gaussians, views)
    penalty = control.penalty(gaussians, len(views))
    return total, grads if penalty is None else grads.zip_map(torch.add, penalty), episode


def moved(episode: Episode, gaussians: Gaussians, state: OptState, generator: torch.Generator) -> Episode:
    """The episode after an update to `gaussians` and `state`, what the density control does after one, and the average. Keeps their graph."""
    course = episode.course
    if course is not None:
        control, progress = make_density(course.plan.density), progress_of(episode)
        perturbed = control.perturb(gaussians.detach(), progress, state.task.scene_scale, generator)
        gaussians = perturbed.zip_map(lambda now, before: now + (before - before.detach()), gaussians)
        if progress >= course.plan.average_from:
            share = 1 / (course.averaged + 1)
            average = gaussians if course.average is None else course.average.zip_map(lambda a, b: torch.lerp(a, b, share), gaussians)
            course = replace(course, average=average, averaged=course.averaged + 1)
    return replace(episode, gaussians=gaussians, state=state, course=course)

"""The meta-training loop.

    for each meta-step:
        for each slot:  episode (new, or from the buffer) -> unroll -> meta-loss -> its gradient -> roll out with frozen weights -> store
        mean of the gradients -> AdamW -> average of the weights

What it promises: the same seed on one machine gives the same bits, also when the run was killed and resumed, and in one process or several
(workers.py). A slot whose loss or gradient is not finite is left out of the mean and its episode dropped.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import OptionError
from ..files import atomic_write, to_json
from ..optimizers.anchored import Anchored, AnchoredConfig
from ..optimizers.g3r import G3R, G3RConfig
from ..optimizers.paper import Paper, PaperConfig
from ..optimizers.weights import load_weights, save_weights
from . import resume as saved
from .buffer import rollout_bound
from .config import MetaConfig
from .courses import most_gaussians, progress_of, rollout_steps
from .resume import Slot
from .resume import has_save as has_save
from .schemes import roll_out, unroll
from .tasks import ScenePool
from .workers import Workers, flat

LOG = "log.jsonl"
WEIGHTS = "theta.safetensors"
BETAS = (0.9, 0.999)
ROLLOUT_WORK = 5  # A rollout of an episode with a plan has at most so many times `max_graph` Gaussians times steps: they cost less.


@dataclass(frozen=True)
class MetaStep:
    """What is known after a meta-step; one line of the log. Means are over the slots of this process that were finite."""

    step: int
    loss: float
    ratio: float  # Meta-loss at the end of the unroll over the reference's (schemes.py).
    ages: tuple[int, ...]  # Of the episodes, before the unroll.
    scenes: tuple[str, ...]
    grad_norm: float  # Before clipping.
    skipped: int  # Slots that were not finite.
    inner_steps: int  # Unrolled and rolled out; those of the reference not counted.
    lr: float
    seconds: float  # Of training, since the beginning of the run.
    gaussians: tuple[int, ...] = ()  # Of the episodes, before the unroll.
    plans: tuple[float | None, ...] = ()  # Where the episodes are in their plans, 0 to 1; None of those without one.


@dataclass(frozen=True)
class TrainResult:
    """How a call ended."""

    step: int
    seconds: float
    finished: bool  # All meta-steps done.
    weights: Path


def train(
    config: MetaConfig,
    out: Path,
    *,
    data: Sequence[Path] = (),
    device: torch.device | str = "cpu",
    init_weights: Path | None = None,
    resume: bool = False,
    max_minutes: float | None = None,
    save_every: float = 120.0,
    on_step: Callable[[MetaStep], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrainResult:
    """Meta-train, and leave the averaged weights in `out`/theta.safetensors.

    Args:
        data: folders of real scenes to learn from, besides procedural ones.
        device: where episodes and weights live; the gradients of several processes are summed on the CPU.
        init_weights: file of weights to begin with, of a network of the same sizes; constants of the rule are those of `config`.
        resume: go on with the run in `out`.
        max_minutes: of this call; the schedule of the learning rate does not depend on it.
        save_every: seconds between two saves.

    Raises:
        OptionError, SceneError, CheckpointError, SaveError: as their names say; a save that fails leaves the one before intact.
    """
    workers = Workers()
    mine = workers.slots(config.scenes_per_step)
    pool = ScenePool(config, out / "scenes", data, device)
    rule = make_rule(config)
    if init_weights is not None and not resume:
        begin_with(rule, init_weights)
    rule.network.to(device)
    names = [name for name, _ in rule.network.named_parameters()]
    parameters = [parameter for _, parameter in rule.network.named_parameters()]
    adamw = torch.optim.AdamW(parameters, lr=config.lr, betas=BETAS, weight_decay=config.weight_decay)
    average = [parameter.detach().clone() for parameter in parameters]
    if resume:
        step = saved.latest_step(out)
        groups, counts = saved.load_theta(out, step, config, pool.digests)
        before, adamw_steps = counts.seconds, counts.adamw_steps
        _restore(names, parameters, average, adamw, groups, adamw_steps)
        slots = [saved.load_slot(out, step, number, config, pool) for number in mine]
    else:
        step, adamw_steps, before = 0, 0, 0.0
        slots = [saved.new_slot(config, number) for number in mine]
    if workers.first:
        _cut_log(out / LOG, step)
        if resume:
            saved.remove_others(out, step)
    began = last_save = time.monotonic()

    def save() -> None:
        for slot in slots:
            saved.save_slot(out, step, slot)
        if workers.first:
            moments = {kind: {name: _moment(adamw, p, kind) for name, p in zip(names, parameters)} for kind in ("exp_avg", "exp_avg_sq")}
            counts = saved.Counts(before + time.monotonic() - began, adamw_steps, pool.digests)
            saved.save_theta(out, step, config, {"weights": dict(zip(names, parameters)), "average": dict(zip(names, average)), **moments}, counts)
        workers.wait()
        if workers.first:  # The weights first: a run that is killed in between has none that are older than its last complete save.
            _save_average(out / WEIGHTS, config, names, average, step, before + time.monotonic() - began, pool)
            saved.complete(out, step)
        workers.wait()

    stop, began_at = False, step
    while step < config.meta_steps and not stop:
        outcomes = [meta_gradient(rule, parameters, slot, pool, config, step) for slot in slots]
        good = [outcome for outcome in outcomes if outcome.gradient is not None]
        # One vector for all that the processes must agree on: gradients, how many there are, whether to stop, whether to save.
        elapsed = time.monotonic() - began
        wants_stop = (should_stop is not None and should_stop()) or (max_minutes is not None and elapsed >= 60 * max_minutes)
        wants_save = time.monotonic() - last_save >= save_every
        total = torch.zeros(sum(p.numel() for p in parameters))
        for outcome in good:
            total += outcome.gradient
        agreed = workers.sum(torch.cat([total, torch.tensor([len(good), wants_stop, wants_save and workers.first], dtype=torch.float32)]))
        count, stop, save_now = int(agreed[-3]), bool(agreed[-2] > 0), bool(agreed[-1] > 0)
        rate = learning_rate(config, step)
        if count:
            _apply(adamw, parameters, agreed[:-3] / count, rate)
            adamw_steps += 1
        step += 1
        if config.epoch and step % config.epoch == 0:
            for slot in slots:
                slot.buffer.episodes.clear()
        decay = min(config.ema, step / (step + 10))  # Short at first, so that the untrained weights are soon forgotten.
        for mean, parameter in zip(average, parameters):
            mean.lerp_(parameter.detach(), 1 - decay)
        report = MetaStep(
            step=step,
            loss=_mean([o.loss for o in good]),
            ratio=_mean([o.ratio for o in good]),
            ages=tuple(o.age for o in outcomes),
            scenes=tuple(o.scene for o in outcomes),
            grad_norm=_mean([o.norm for o in good]),
            skipped=len(outcomes) - len(good),
            inner_steps=sum(o.inner_steps for o in outcomes),
            lr=rate,
            seconds=round(before + time.monotonic() - began, 2),
            gaussians=tuple(o.gaussians for o in outcomes),
            plans=tuple(o.progress for o in outcomes),
        )
        if workers.first:
            with open(out / LOG, "a") as log:
                log.write(to_json(asdict(report)) + "\n")  # of a skipped step, loss and ratio are null
        if on_step and workers.first:
            on_step(report)
        if save_now or stop or step == config.meta_steps:
            save()
            last_save = time.monotonic()
    if began_at >= config.meta_steps and workers.first:  # nothing was left to do
        _save_average(out / WEIGHTS, config, names, average, step, before, pool)
    workers.leave()
    return TrainResult(step, before + time.monotonic() - began, step >= config.meta_steps, out / WEIGHTS)


@dataclass(frozen=True)
class Outcome:
    """What one slot contributes to a meta-step."""

    gradient: Tensor | None  # Flat, clipped; None: not finite.
    loss: float
    ratio: float
    norm: float
    age: int
    scene: str
    inner_steps: int
    gaussians: int
    progress: float | None


def meta_gradient(rule: Anchored | Paper | G3R, parameters: list[Tensor], slot: Slot, pool: ScenePool, config: MetaConfig, step: int) -> Outcome:
    """One slot of one meta-step: the gradient of an unrolled piece; the episode goes (back) to the buffer."""
    resumed = slot.buffer.take(slot.dice)
    episode = resumed or pool.start(config, rule, slot.dice, step)
    place = (len(episode.gaussians), None if episode.course is None else round(progress_of(episode), 3))
    failed = Outcome(None, math.nan, math.nan, math.nan, episode.age, episode.scene, 0, *place)
    scene, grounds = pool.scene_of(episode), pool.grounds_of(episode)
    unrolled = unroll(rule, episode, scene, config, step, slot.dice, grounds)
    if unrolled is None or not bool(torch.isfinite(unrolled.loss)):
        return failed
    gradient = flat(list(torch.autograd.grad(unrolled.loss, parameters, allow_unused=True, materialize_grads=True))).cpu()
    norm = float(gradient.norm())
    if not math.isfinite(norm) or not unrolled.episode.gaussians.is_finite():
        return failed
    inner_steps, rollout = unrolled.steps, 0
    bound = 0 if step < config.imitation else rollout_bound(config, unrolled.episode.age, step)  # The weights cannot lead yet.
    ends_at = None if grounds is None else episode.course.plan.steps
    if bound and ends_at is not None:
        bound = min(bound, max(8, ROLLOUT_WORK * config.max_graph // most_gaussians(unrolled.episode, bound)))
    if bound:
        rollout = rollout_steps(unrolled.episode, bound, slot.dice)
    if slot.buffer.wants(episode.age, unrolled.episode.age + rollout, resumed is not None, slot.dice, ends_at):
        stored = roll_out(rule, unrolled.episode, scene, rollout, config, slot.dice, grounds)
        inner_steps += rollout
        if stored is not None:
            slot.buffer.store(stored)
    gradient = gradient * min(1.0, config.clip / (norm + 1e-12))
    return Outcome(gradient, float(unrolled.loss.detach()), unrolled.ratio, norm, episode.age, episode.scene, inner_steps, *place)


def make_rule(config: MetaConfig) -> Anchored | Paper | G3R:
    """The untrained rule."""
    if config.architecture == "g3r":
        return G3R(G3RConfig(width=config.width, blocks=config.blocks, horizon=config.unroll[1]), seed=config.seed)
    if config.architecture == "paper":
        return Paper(PaperConfig(width=config.width, blocks=config.blocks), seed=config.seed)
    names = ("width", "blocks", "magnitude", "few_age", "pull_age", "trust_age", "decay_anisotropy", "decay_shN")
    same = {name: getattr(config, name) for name in names}
    return Anchored(AnchoredConfig(**same, trained_age=config.max_age / 2), seed=config.seed)


def begin_with(rule: Anchored | Paper | G3R, path: Path) -> None:
    """Gives `rule` the weights in the file `path`.

    Raises:
        OptionError: they are of another architecture or of other sizes.
        CheckpointError: see `load_weights`.
    """
    weights = load_weights(path).network.state_dict()
    sizes, here = ({name: tuple(tensor.shape) for name, tensor in state.items()} for state in (weights, rule.network.state_dict()))
    if sizes != here:
        raise OptionError(f"{path} holds the weights of another network than the one to be trained: give weights of its architecture and sizes")
    rule.network.load_state_dict(weights)


def learning_rate(config: MetaConfig, step: int) -> float:
    """One cycle: linear warm-up, then a half cosine down to `final_lr`."""
    warmup = max(1, round(config.warmup * config.meta_steps))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, config.meta_steps - warmup))
    return config.lr * (config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * done)))


def _apply(adamw: torch.optim.AdamW, parameters: list[Tensor], gradient: Tensor, rate: float) -> None:
    for parameter, part in zip(parameters, gradient.split([p.numel() for p in parameters])):
        parameter.grad = part.view_as(parameter).to(parameter.device, copy=True)
    for settings in adamw.param_groups:
        settings["lr"] = rate
    adamw.step()
    adamw.zero_grad(set_to_none=True)


def _moment(adamw: torch.optim.AdamW, parameter: Tensor, kind: str) -> Tensor:
    return adamw.state[parameter][kind] if parameter in adamw.state else torch.zeros_like(parameter)


def _restore(names, parameters, average, adamw, groups: dict[str, dict[str, Tensor]], adamw_steps: int) -> None:
    """Weights, average and moments of a save, into place."""
    with torch.no_grad():
        for name, parameter, mean in zip(names, parameters, average):
            parameter.copy_(groups["weights"][name])
            mean.copy_(groups["average"][name])
            if not adamw_steps:  # as a new AdamW
                continue
            moments = {kind: groups[kind][name].to(parameter.device, copy=True) for kind in ("exp_avg", "exp_avg_sq")}
            adamw.state[parameter] = {"step": torch.tensor(float(adamw_steps)), **moments}


def _save_average(path: Path, config: MetaConfig, names: list[str], average: list[Tensor], step: int, seconds: float, pool: ScenePool) -> None:
    rule = make_rule(config)
    rule.network.load_state_dict(dict(zip(names, average)), strict=False)
    provenance = {
        "scheme": config.scheme,
        "meta_steps": step,
        "scenes_per_step": config.scenes_per_step,
        "minutes": round(seconds / 60, 1),
        "seed": config.seed,
        "real_scenes": sorted(pool.real),
        "procedural_scenes": len(pool.procedural),
    }
    save_weights(path, rule, provenance)


def _cut_log(path: Path, step: int) -> None:
    """Lines beyond `step` belong to work that was lost with a kill and is about to be done again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.exists() and step else []
    atomic_write(path, "".join(line + "\n" for line in lines if _step_of(line) <= step))


def _step_of(line: str) -> float:
    """Infinity where a kill or a full disk has left half a line."""
    try:
        return json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return math.inf


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan

"""Training of the feed-forward initializer (initializers/cascade.py) on procedural scenes with exact depth: `learn2splat train --stage initializer`.

    for each step:  a window of photos -> a few of them as the one whose depth is asked for -> loss -> AdamW -> average of the weights

The coarse network has a head start; then it and the fine one take turns, which learns around the depths of the averaged coarse one and, every other
time, around its own. The same seed gives the same bits on one machine, also when the run was killed and resumed.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import CheckpointError
from ..files import to_json
from ..fitting.checkpoint import group, load_checkpoint, save_checkpoint
from ..initializers import cascade as net
from ..initializers.weights import save_initializer
from . import resume as saved
from .depth_data import DepthPool, Window, depth_range
from .tasks import Dice
from .trainer import BETAS, LOG, _cut_log

WEIGHTS = "initializer.safetensors"
DEPTH_WEIGHT = 0.3  # Of the error of the expected depth, in spacings of the candidates, beside the cross-entropy over the candidates.
CONFIDENCE_WEIGHT = 0.3
FAR_OFF = 3.0  # Spacings from where on an error counts no more: another surface.
SAME_SURFACE = 1.03  # Depths of neighbouring pixels that differ by less may be averaged.


@dataclass(frozen=True)
class InitializerConfig:
    """What a run is; two with the same one give the same bits."""

    steps: int = 7000
    head_start: int = 1500  # Steps of the coarse network alone.
    photos_per_step: int = 2
    pool: int = 600
    lr: float = 1e-3
    final_lr: float = 0.02  # Of lr, at the end.
    warmup: int = 100
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.998
    seed: int = 0

    def part(self, step: int) -> str:
        """What learns: `coarse`, or the fine network in its `wide` or in its `narrow` range."""
        turn = step - self.head_start
        return "coarse" if turn < 0 or turn % 2 == 0 else ("wide", "narrow")[turn // 2 % 2]


@dataclass(frozen=True)
class DepthStep:
    """One line of the log."""

    step: int
    part: str
    loss: float
    error: float  # Median relative error of depth.
    within: float  # Share of the pixels within 5 %.
    lr: float
    seconds: float


def train_initializer(
    config: InitializerConfig,
    out: Path,
    *,
    resume: bool = False,
    max_minutes: float | None = None,
    save_every: float = 120.0,
    on_step: Callable[[DepthStep], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[int, float]:
    """Train, and leave the averaged weights in `out`/initializer.safetensors.

    Args:
        resume: go on with the run in `out`.
        max_minutes: of this call.
        save_every: seconds between two saves.

    Returns:
        Steps done and seconds of training, both since the beginning of the run.

    Raises:
        CheckpointError, SaveError: as their names say; a save that fails leaves the one before intact.
    """
    torch.manual_seed(config.seed)
    network = net.Cascade()
    average = net.Cascade()
    average.load_state_dict(network.state_dict())
    modules = {"coarse": (network.coarse_features, network.coarse), "fine": (network.fine_features, network.fine, network.confidence)}
    parts = {name: [parameter for module in of for parameter in module.parameters()] for name, of in modules.items()}
    adamw = torch.optim.AdamW(network.parameters(), lr=config.lr, betas=BETAS, weight_decay=config.weight_decay)
    pool, dice = DepthPool(out / "scenes", config.pool), Dice(config.seed)
    step, before = 0, 0.0
    if resume:
        step = saved.latest_step(out)
        before = _restore(out, step, config, network, average, adamw, dice)
    _cut_log(out / LOG, step)
    began = last_save = time.monotonic()

    def save() -> None:
        seconds = before + time.monotonic() - began
        _save(out, step, config, network, average, adamw, dice, seconds)
        provenance = {"steps": step, "minutes": round(seconds / 60, 1), "seed": config.seed, "procedural_scenes": config.pool, "real_scenes": []}
        save_initializer(out / WEIGHTS, average, provenance)
        saved.complete(out, step)

    stop = False
    while step < config.steps and not stop:
        part = config.part(step)
        loss, error = depth_loss(network, average, pool.window(dice), config, dice, part)
        parameters = parts["coarse" if part == "coarse" else "fine"]
        gradients = torch.autograd.grad(loss, parameters)
        rate = learning_rate(config, step)
        _apply(adamw, parameters, gradients, rate, config.clip)
        step += 1
        decay = min(config.ema, step / (step + 10))
        with torch.no_grad():
            for mean, parameter in zip(average.parameters(), network.parameters()):
                mean.lerp_(parameter, 1 - decay)
        elapsed = time.monotonic() - began
        within = float((error < 0.05).float().mean())
        report = DepthStep(step, part, float(loss.detach()), float(error.median()), within, rate, round(before + elapsed, 2))
        with open(out / LOG, "a") as log:
            log.write(to_json(asdict(report)) + "\n")
        if on_step:
            on_step(report)
        stop = (should_stop is not None and should_stop()) or (max_minutes is not None and elapsed >= 60 * max_minutes)
        if stop or step == config.steps or time.monotonic() - last_save >= save_every:
            save()
            last_save = time.monotonic()
    return step, before + time.monotonic() - began


def depth_loss(network: net.Cascade, average: net.Cascade, window: Window, config: InitializerConfig, dice: Dice, part: str) -> tuple[Tensor, Tensor]:
    """The loss of a few photos of the window, and the relative errors of their depths (pixels,). Gradients reach what `part` names."""
    photos, neighbours = _drawn(len(window.images), config, dice)
    coarse = part == "coarse"
    with torch.set_grad_enabled(coarse):
        first = network if coarse else average
        seen = net.look(first.coarse_features, window.images, window.Ks, window.viewmats)
        shape = tuple(seen[0].features.shape[1:])
        depths = torch.stack([net.planes(*depth_range(window.depths[i], dice), shape) for i in photos])
        logits = net.coarse_logits(first, [seen[i] for i in photos], [[seen[j] for j in others] for others in neighbours], depths)
    if coarse:
        return _loss(logits, depths, at_size(window.depths[photos], 4))
    seen = net.look(network.fine_features, window.images, window.Ks, window.viewmats)
    arguments = ([seen[i] for i in photos], [[seen[j] for j in others] for others in neighbours])
    centres = net.enlarged(net.expected_log_depth(logits, depths).exp(), tuple(seen[0].features.shape[1:]))
    wide, narrow = net.WIDTHS
    if part == "narrow":
        with torch.no_grad():
            logits, depths, _ = net.fine_logits(network, *arguments, centres, wide)
            centres = net.expected_log_depth(logits, depths).exp()
    logits, depths, confidence = net.fine_logits(network, *arguments, centres, wide if part == "wide" else narrow)
    exact = at_size(window.depths[photos], 2)
    loss, error = _loss(logits, depths, exact)
    right = (error < net.WITHIN).float()
    return loss + CONFIDENCE_WEIGHT * F.binary_cross_entropy_with_logits(confidence.flatten(), right), error


def _loss(logits: Tensor, depths: Tensor, exact: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy with the two candidates beside the exact depth, and the error of the expected depth. All (B, ...) of one size."""
    spacing = (depths[:, -1] / depths[:, 0]).log() / (depths.shape[1] - 1)
    place = (exact / depths[:, 0]).log() / spacing
    inside = (place >= 0) & (place <= depths.shape[1] - 1)
    number = torch.arange(depths.shape[1]).view(1, -1, 1, 1)
    target = (1 - (number - place[:, None]).abs()).clamp_min(0)
    crossed = -(target * logits.log_softmax(1)).sum(1)
    off = net.expected_log_depth(logits, depths) - exact.log()
    missed = F.smooth_l1_loss((off / spacing).clamp(-FAR_OFF, FAR_OFF), torch.zeros_like(off), reduction="none")
    loss = ((crossed + DEPTH_WEIGHT * missed) * inside).sum() / inside.sum().clamp_min(1)
    return loss, off.detach().abs().flatten()


def _drawn(count: int, config: InitializerConfig, dice: Dice) -> tuple[list[int], list[list[int]]]:
    """Photos whose depth is asked for, and the neighbours of each: four mostly, sometimes fewer."""
    photos = dice.sample(range(min(count, 4)), config.photos_per_step)
    most = 4 if dice.chance(0.7) else dice.integer(1, 3)
    return photos, [[j for j in range(count) if j != i][:most] for i in photos]


def at_size(depths: Tensor, factor: int) -> Tensor:
    """(B, H, W) depths at 1/`factor` of the size: the mean inverse depth of the four pixels in the middle where they are of one surface."""
    first = factor // 2 - 1
    four = torch.stack([depths[:, first + a :: factor, first + b :: factor] for a in (0, 1) for b in (0, 1)])
    near, far = four.amin(0), four.amax(0)
    return torch.where(far < SAME_SURFACE * near, 4 / (1 / four).sum(0), four[3])


def learning_rate(config: InitializerConfig, step: int) -> float:
    """Linear warm-up, then half a cosine."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
    return config.lr * (config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * progress)))


def _apply(adamw: torch.optim.AdamW, parameters: list, gradients: tuple, rate: float, clip: float) -> None:
    adamw.zero_grad(set_to_none=True)
    for parameter, gradient in zip(parameters, gradients):
        parameter.grad = gradient
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
    adamw.param_groups[0]["lr"] = rate
    if bool(norm.isfinite()):
        adamw.step()


def _save(out: Path, step: int, config: InitializerConfig, network, average, adamw, dice: Dice, seconds: float) -> None:
    tensors = {"generator": dice.generator.get_state()}
    steps = {}
    for (name, parameter), mean in zip(network.named_parameters(), average.parameters()):
        tensors |= {f"weights.{name}": parameter, f"average.{name}": mean}
        if parameter in adamw.state:
            state = adamw.state[parameter]
            tensors |= {f"exp_avg.{name}": state["exp_avg"], f"exp_avg_sq.{name}": state["exp_avg_sq"]}
            steps[name] = int(state["step"])
    folder = saved.folder_of(out) / str(step) / "theta"
    save_checkpoint(folder, tensors, {"config": asdict(config), "seconds": seconds, "adamw_steps": steps})


def _restore(out: Path, step: int, config: InitializerConfig, network, average, adamw, dice: Dice) -> float:
    tensors, info = load_checkpoint(saved.folder_of(out) / str(step) / "theta")
    here = json.loads(json.dumps(asdict(config)))
    for key, value in here.items():
        if key not in ("steps", "lr") and info.get("config", {}).get(key) != value:
            difference = f"{key} = {info.get('config', {}).get(key)}, not {value}"
            raise CheckpointError(f"the run in {out} has {difference}: resume it with the options of its start, or choose another --out")
    network.load_state_dict(group(tensors, "weights"))
    average.load_state_dict(group(tensors, "average"))
    for name, parameter in network.named_parameters():
        if name in info["adamw_steps"]:
            moments = {kind: tensors[f"{kind}.{name}"].clone() for kind in ("exp_avg", "exp_avg_sq")}
            adamw.state[parameter] = {"step": torch.tensor(float(info["adamw_steps"][name])), **moments}
    dice.generator.set_state(tensors["generator"])
    return float(info["seconds"])

"""Everything that a meta-training run needs to go on to the same bits, as safetensors + JSON (fitting/checkpoint.py), never pickle.

    <out>/resume/latest.json            {"step": n}: the complete save; replaced last, atomically
    <out>/resume/<n>/theta/             weights, their average, AdamW's moments
    <out>/resume/<n>/slot<k>/           the episodes in the buffer of slot k and its random numbers

A save without slots (such as the one in training/ of the repository) resumes too: with empty buffers and random numbers that depend on the step.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from ..errors import CheckpointError
from ..files import atomic_write, read_json, to_json
from ..fitting.checkpoint import group, has_checkpoint, load_checkpoint, named, save_checkpoint
from ..fitting.plan import Plan
from ..gaussians import Gaussians
from ..optimizers import OptState
from .buffer import Buffer
from .config import MetaConfig
from .courses import Course
from .tasks import Dice, Episode, ScenePool

LATEST = "latest.json"


@dataclass
class Slot:
    """One of the scenes per meta-step: random numbers and buffer."""

    number: int
    dice: Dice
    buffer: Buffer


def new_slot(config: MetaConfig, number: int, step: int = 0) -> Slot:
    """`step`: where the run stands, so that a slot that starts late does not repeat the draws of the first."""
    return Slot(number, Dice(1_000_003 * config.seed + 1009 * number + 7 * step), Buffer(config))


def folder_of(out: Path) -> Path:
    return out / "resume"


def has_save(out: Path) -> bool:
    """Whether a save was ever completed."""
    return (folder_of(out) / LATEST).is_file()


def save_slot(out: Path, step: int, slot: Slot) -> None:
    tensors: dict[str, Tensor] = {"generator": slot.dice.generator.get_state()}
    infos = []
    for i, episode in enumerate(slot.buffer.episodes):
        state_tensors, state_info = episode.state.state_dict()
        tensors |= named(f"episode{i}.gaussians", episode.gaussians.tensors()) | named(f"episode{i}.state", state_tensors)
        tensors[f"episode{i}.rotation"] = episode.rotation
        about = {"scene": episode.scene, "long_side": episode.long_side, "context": episode.context, "targets": episode.targets, "state": state_info}
        if episode.course is not None:
            tensors |= named(f"episode{i}.stats", episode.course.stats)
            tensors |= named(f"episode{i}.average", episode.course.average.tensors() if episode.course.average else {})
            about["course"] = {"plan": episode.course.plan.to_json(), **{name: getattr(episode.course, name) for name in ("events", "averaged")}}
        infos.append(about)
    save_checkpoint(folder_of(out) / str(step) / f"slot{slot.number}", tensors, {"episodes": infos})


def load_slot(out: Path, step: int, number: int, config: MetaConfig, pool: ScenePool) -> Slot:
    """
    Raises:
        CheckpointError: damaged, or it holds a scene that the pool does not have.
    """
    slot = new_slot(config, number, step)
    folder = folder_of(out) / str(step) / f"slot{number}"
    if not has_checkpoint(folder):
        return slot
    tensors, info = load_checkpoint(folder)
    slot.dice.generator.set_state(tensors["generator"])
    for i, about in enumerate(info["episodes"]):
        if about["scene"] not in pool:
            raise CheckpointError(f"the run in {out} has scene {about['scene']} in its buffer, which is not here: give the --data of its start")
        parts, course = group(tensors, f"episode{i}"), None
        if "course" in about:
            stats = {name: tensor.to(pool.device) for name, tensor in group(parts, "stats").items()}
            average = group(parts, "average")
            course = Course(
                Plan.from_json(about["course"]["plan"]),
                stats,
                about["course"]["events"],
                Gaussians(**average).to(pool.device) if average else None,
                about["course"]["averaged"],
            )
        slot.buffer.store(
            Episode(
                scene=about["scene"],
                long_side=about["long_side"],
                rotation=parts["rotation"],
                context=tuple(about["context"]),
                targets=tuple(about["targets"]),
                gaussians=Gaussians(**group(parts, "gaussians")).to(pool.device),
                state=OptState.from_state_dict({name: tensor.to(pool.device) for name, tensor in group(parts, "state").items()}, about["state"]),
                course=course,
            )
        )
    return slot


@dataclass(frozen=True)
class Counts:
    """What a save remembers besides tensors."""

    seconds: float  # Of training so far.
    adamw_steps: int  # Fewer than meta-steps where some were left out.
    data: dict[str, str]  # Real scene -> hash of its photos and cameras.


def save_theta(out: Path, step: int, config: MetaConfig, weights: dict[str, dict[str, Tensor]], counts: Counts) -> None:
    """`weights`: groups of tensors by parameter name: weights, average, exp_avg, exp_avg_sq."""
    tensors = {f"{kind}.{name}": tensor for kind, by_name in weights.items() for name, tensor in by_name.items()}
    save_checkpoint(folder_of(out) / str(step) / "theta", tensors, {"config": asdict(config), **asdict(counts)})


def load_theta(out: Path, step: int, config: MetaConfig, data: dict[str, str]) -> tuple[dict[str, dict[str, Tensor]], Counts]:
    """The groups of `save_theta`, and the counts. `data`: of this call, as in `Counts`.

    Raises:
        CheckpointError: damaged, or of a run with other scenes or another configuration (`meta_steps` and `lr` may differ: what is left of the
            schedule). What the configuration could not say yet when it was saved is taken to have had its default.
    """
    tensors, info = load_checkpoint(folder_of(out) / str(step) / "theta")
    saved, here = info.get("config"), json.loads(json.dumps(asdict(config)))
    seconds, adamw_steps, scenes = info.get("seconds"), info.get("adamw_steps", step), info.get("data", data)
    counted = isinstance(seconds, (int, float)) and isinstance(adamw_steps, int)
    if not isinstance(saved, dict) or not isinstance(scenes, dict) or not counted:
        raise CheckpointError(f"the save in {folder_of(out) / str(step)} was written by another version or program: start again with --overwrite")
    saved = {**json.loads(json.dumps(asdict(MetaConfig()))), **saved}
    for key in here:
        if key not in ("meta_steps", "lr") and saved[key] != here[key]:
            difference = f"{key} = {saved[key]}, not {here[key]}"
            raise CheckpointError(f"the run in {out} has {difference}: resume it with the options of its start, or choose another --out")
    if scenes != data:
        changed = sorted(name for name in {**scenes, **data} if scenes.get(name) != data.get(name))
        raise CheckpointError(f"the run in {out} learns from other scenes (different: {', '.join(changed)}): give the --data of its start")
    counts = Counts(seconds, adamw_steps, data)
    return {kind: group(tensors, kind) for kind in ("weights", "average", "exp_avg", "exp_avg_sq")}, counts


def complete(out: Path, step: int) -> None:
    """Declares the save of `step` complete, and removes older ones."""
    atomic_write(folder_of(out) / LATEST, to_json({"step": step}))
    remove_others(out, step)


def remove_others(out: Path, step: int) -> None:
    """Remove all saves but that of `step`; also when a run goes on, for one that was killed in `complete` has left them."""
    for old in folder_of(out).iterdir():
        if old.is_dir() and old.name.isdecimal() and old.name != str(step):
            shutil.rmtree(old, ignore_errors=True)


def remove_saves(out: Path) -> None:
    """Remove what `save_slot`, `save_theta` and `complete` have written."""
    (folder_of(out) / LATEST).unlink(missing_ok=True)
    for old in folder_of(out).glob("*"):
        if old.is_dir() and old.name.isdecimal():
            shutil.rmtree(old, ignore_errors=True)


def latest_step(out: Path) -> int:
    """
    Raises:
        CheckpointError: there is no save, or its index is damaged.
    """
    try:
        step = read_json(folder_of(out) / LATEST)["step"]
        if not isinstance(step, int) or step < 0:
            raise ValueError(f"step is {step!r}")
        return step
    except FileNotFoundError:
        raise CheckpointError(f"no training run in {out}: expected resume/{LATEST}; run without --resume to start one") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder_of(out) / LATEST} is damaged ({error}): start again with --overwrite") from error

"""`learn2splat train`: meta-train the learned optimizer, or train the initializer; Ctrl-C and --resume lose nothing."""

from __future__ import annotations

import math
import os
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console

from ..errors import OptionError
from ..files import WRITTEN_BY, atomic_write, is_ours, locked
from ..meta import (
    PRESETS,
    DepthStep,
    InitializerConfig,
    MetaConfig,
    MetaStep,
    find_scenes,
    has_save,
    is_first_process,
    remove_saves,
    train,
    train_initializer,
    with_architecture,
    with_scheme,
)
from ..optimizers.weights import packaged_weights
from .common import (
    Command,
    DeviceName,
    Flag,
    Interrupted,
    MaybeFloat,
    MaybeInt,
    MaybePath,
    machine,
    note,
    portable_command,
    require_device,
    stop_on_signals,
    to_json,
)
from .display import Display

CONFIG, WRITER = "config.json", "learn2splat train"
LEFTOVERS = (".*.partial", "resume/**/.*.partial", "scenes/*/.*.partial")
MaybeScheme = Annotated[Literal["greedy", "horizon"] | None, tyro.conf.arg(metavar="{greedy,horizon}", help_behavior_hint="")]
MaybeArchitecture = Annotated[Literal["anchored", "paper"] | None, tyro.conf.arg(metavar="{anchored,paper}", help_behavior_hint="")]


@dataclass(frozen=True)
class Train(Command):
    """Meta-train the learned optimizer on procedural scenes and photos.

    Several processes share a run with: torchrun --nproc-per-node 2 --no-python learn2splat train ..."""

    out: Path
    """Folder for theta.safetensors or initializer.safetensors (the weights), log.jsonl and what --resume needs."""
    stage: Literal["optimizer", "initializer"] = "optimizer"
    """What is trained: the optimizer; or the initializer, the network behind --init feedforward, which learns depth from procedural scenes and takes
    of the options only --meta-steps, --max-minutes, --lr, --seed, --resume, --overwrite and --save-every."""
    preset: Literal["cpu", "grow", "paper", "g3r"] = "cpu"
    """Sizes and recipe: cpu, for hours on a few cores; grow, the same in the regime of use, from coarse to fine and with growth;
    paper, the published ones, for GPUs; g3r, the baseline of that name, on a few cores."""
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="GLOB [GLOB ...]", help_behavior_hint="")] = ()
    """Folders of scenes to learn from besides procedural ones, as glob patterns in quotes. Where a SOURCES.md beside them gives
    roles, only those of role train are used."""
    scheme: MaybeScheme = None
    """What an unrolled piece is judged by: greedy, the loss after each step; horizon, where it ends. Default: the preset's."""
    architecture: MaybeArchitecture = None
    """Network: anchored or paper (narrowed where the preset is cpu, and with --imitation 200). Default: the preset's."""
    imitation: MaybeInt = None
    """Updates at the start that teach the steps of the nominal rule to a network that begins with none. Default: the preset's."""
    meta_steps: MaybeInt = None
    """Updates of the weights in all; the schedule of the learning rate stretches over them. Default: the preset's."""
    max_minutes: MaybeFloat = None
    """Stop after so many minutes; go on with --resume."""
    scenes_per_step: MaybeInt = None
    """Scenes whose gradients are averaged in an update, a multiple of the number of processes. Default: the preset's."""
    lr: MaybeFloat = None
    """Learning rate of the weights. Default: the preset's."""
    seed: int = 0
    """Fixes everything that is random."""
    device: DeviceName = "cpu"
    """Where scenes are optimized and weights learn; processes of torchrun take one GPU each."""
    init_weights: MaybePath = None
    """File of weights to begin with, or the name of packaged ones. Default: new ones, drawn from --seed."""
    no_buffer: Flag = False
    """Ablation: start every piece from a new scene."""
    no_rollout: Flag = False
    """Ablation: store episodes as the unroll left them."""
    no_log_ages: Flag = False
    """Ablation: the paper's rule of which episodes are stored again, instead of log-uniform ages."""
    advantage: Flag = False
    """Horizon: measure losses by what the nominal rule reaches from the same state, instead of by the piece's own gain."""
    no_intermediate: Flag = False
    """Ablation: horizon with the loss at the end alone."""
    no_delta_loss: Flag = False
    """Ablation: greedy without delta loss."""
    no_stability_loss: Flag = False
    """Ablation: greedy without stability loss."""
    no_magnitude: Flag = False
    """Ablation: the anchored network without its magnitude path."""
    no_ema: Flag = False
    """Ablation: save the last weights instead of their average."""
    resume: Flag = False
    """Go on with the run in --out, to the same bits as if it had never stopped. Other options as at its start;
    --meta-steps, --lr and --max-minutes may differ."""
    overwrite: Flag = False
    """Replace the run in --out."""
    save_every: float = 120.0
    """Seconds between two saves."""

    def run(self) -> None:
        # Torch's sums depend on its number of threads, and on tensors as small as these two processes use two cores better than two threads.
        torch.set_num_threads(1)
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise OptionError(f"--max-minutes must be above 0, got {self.max_minutes}")
        if self.stage == "initializer":
            self._train_initializer()
            return
        config, device = self.config(), require_device(self.device)
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        data = find_scenes(self.data)
        init_weights = None if self.init_weights is None else packaged_weights(str(self.init_weights)) or self.init_weights
        self._check()
        first = is_first_process()
        with locked(self.out, leftovers=LEFTOVERS) if first else nullcontext():
            if first:
                self._announce(config, data)
            with stop_on_signals() as should_stop, TrainProgress(config.meta_steps) as progress, Board(self.out) as board:

                def on_step(step: MetaStep) -> None:
                    progress(step)
                    board(step)

                result = train(
                    config,
                    self.out,
                    data=data,
                    device=device,
                    init_weights=init_weights,
                    resume=self.resume and has_save(self.out),
                    max_minutes=self.max_minutes,
                    save_every=self.save_every,
                    on_step=on_step,
                    should_stop=should_stop,
                )
                stopped = should_stop()
        if stopped and not result.finished:
            raise Interrupted(f"stopped at meta-step {result.step}; everything is saved in {self.out}, go on with --resume and the same options")
        if is_first_process():
            print(f"Meta-step {result.step} of {config.meta_steps} after {result.seconds / 60:.1f} min. Weights: {result.weights}")

    def _train_initializer(self) -> None:
        taken = {"out", "stage", "meta_steps", "max_minutes", "lr", "seed", "resume", "overwrite", "save_every", "debug"}
        plain = Train(out=self.out)
        other = [name for name, value in vars(self).items() if name not in taken and value != getattr(plain, name)]
        if other:
            raise OptionError(f"--{other[0].replace('_', '-')} does not go with --stage initializer: leave it out")
        given = {"steps": self.meta_steps, "lr": self.lr}
        config = InitializerConfig(seed=self.seed, **{name: value for name, value in given.items() if value is not None})
        if config.steps < 1 or not config.lr > 0:
            raise OptionError(f"--meta-steps and --lr must be above 0, got {config.steps} and {config.lr:g}")
        self._check()
        with locked(self.out, leftovers=LEFTOVERS):
            self._prepare(asdict(config), {"stage": self.stage})
            note(f"training the initializer on {config.pool} procedural scenes with exact depth, which are made when first needed")
            with stop_on_signals() as should_stop, DepthProgress(config.steps) as progress:
                step, seconds = train_initializer(
                    config,
                    self.out,
                    resume=self.resume and has_save(self.out),
                    max_minutes=self.max_minutes,
                    save_every=self.save_every,
                    on_step=progress,
                    should_stop=should_stop,
                )
                stopped = should_stop()
        if stopped and step < config.steps:
            raise Interrupted(f"stopped at step {step}; everything is saved in {self.out}, go on with --resume and the same options")
        print(f"Step {step} of {config.steps} after {seconds / 60:.1f} min. Weights: {self.out / 'initializer.safetensors'}")

    def config(self) -> MetaConfig:
        """The preset with the options that were given."""
        config = PRESETS[self.preset]
        if self.scheme is not None and self.scheme != config.scheme:
            config = with_scheme(config, self.scheme)
        if self.architecture is not None:
            config = with_architecture(config, self.architecture)
        given = {"imitation": self.imitation, "meta_steps": self.meta_steps, "scenes_per_step": self.scenes_per_step, "lr": self.lr}
        without = {
            "buffer": self.no_buffer, "rollout": self.no_rollout, "log_ages": self.no_log_ages,
            "intermediate": self.no_intermediate, "delta_weight": self.no_delta_loss, "stability_weight": self.no_stability_loss, "ema": self.no_ema,
            "magnitude": self.no_magnitude,
        }  # fmt: skip
        changes = {name: value for name, value in given.items() if value is not None}
        changes |= {"advantage": True} if self.advantage else {}
        changes |= {name: type(getattr(config, name))(0) for name, left_out in without.items() if left_out}
        return replace(config, seed=self.seed, **changes)

    def _announce(self, config: MetaConfig, data: list[Path]) -> None:
        """Makes the folder ready, and says what is about to happen."""
        self._prepare(asdict(config), {"data": [str(folder) for folder in data]})
        note(f"meta-training {config.architecture} by {config.scheme} on {config.procedural_pool} procedural scenes and {len(data)} of photos; "
             f"loss: L1 + SSIM{' + log MSE' if config.psnr_weight else ''} (no LPIPS: its weights cannot be had offline)")  # fmt: skip

    def _prepare(self, config: dict, more: dict) -> None:
        self._check()  # again, for now nobody else can write there
        command = ["learn2splat", *portable_command(sys.argv[1:])]
        about = {WRITTEN_BY: WRITER, "command": command, "config": config, **more, "machine": machine()}
        if self.overwrite:  # Procedural scenes stay: they do not depend on the run.
            remove_saves(self.out)
        atomic_write(self.out / CONFIG, to_json(about, indent=1))
        if self.resume and not has_save(self.out):
            note(f"note: nothing saved in {self.out} yet, starting at step 0")

    def _check(self) -> None:
        """Refuses to write over another run."""
        if self.resume and self.overwrite:
            raise OptionError("--resume and --overwrite exclude each other: go on with the run, or start it again")
        is_ours(self.out, CONFIG, WRITER)
        if has_save(self.out) and not self.resume and not self.overwrite:
            raise OptionError(f"{self.out} already holds a training run: add --resume to go on with it, or --overwrite to start again")


class Board:
    """Scalars of every meta-step for TensorBoard, in `out`/tensorboard, where the extra `train` is installed; else nothing. A context manager."""

    def __init__(self, out: Path) -> None:
        self.folder, self.writer = out / "tensorboard", None

    def __enter__(self) -> Board:
        if is_first_process():
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                note("note: no TensorBoard here (pip install 'learn2splat[train]'); log.jsonl has the same numbers")
            else:
                self.writer = SummaryWriter(str(self.folder))
        return self

    def __exit__(self, *exception: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def __call__(self, step: MetaStep) -> None:
        if self.writer is None:
            return
        scalars = {"loss": step.loss, "ratio": step.ratio, "grad_norm": step.grad_norm, "lr": step.lr, "age": sum(step.ages) / len(step.ages)}
        for name, value in scalars.items():
            if math.isfinite(value):
                self.writer.add_scalar(f"meta/{name}", value, step.step)


class TrainProgress(Display):
    """One line. Call it with every `MetaStep`."""

    def __init__(self, meta_steps: int, console: Console | None = None) -> None:
        self.meta_steps = meta_steps
        super().__init__(console)
        self.live = self.console.status("starting")
        self.last_line = 0.0  # the first line at once
        self.loss = self.ratio = self.speed = None  # running means
        self.before: float | None = None

    def __call__(self, step: MetaStep) -> None:
        def mean(old: float | None, new: float) -> float | None:
            return old if new != new else new if old is None else 0.95 * old + 0.05 * new

        if step.step == 1:  # of a run, or of the next one of an ablation
            self.loss = self.ratio = self.speed = self.before = None
        self.loss, self.ratio = mean(self.loss, step.loss), mean(self.ratio, step.ratio)
        if self.before is not None:
            self.speed = mean(self.speed, step.inner_steps / max(1e-6, step.seconds - self.before))
        self.before = step.seconds
        ages = " ".join(map(str, step.ages))
        text = f"meta-step {step.step}/{self.meta_steps}  {step.seconds / 60:.1f} min"
        if self.loss is not None and self.speed is not None:
            text += f"  meta-loss {self.loss:+.3f}  end/reference {self.ratio:.3f}  {self.speed:.1f} inner steps/s  ages {ages}"
        if self.console.is_terminal:
            self.live.update(text)
        elif self.line_is_due():
            self.line(text)


class DepthProgress(Display):
    """As `TrainProgress`, of the initializer."""

    def __init__(self, steps: int, console: Console | None = None) -> None:
        self.steps = steps
        super().__init__(console)
        self.live = self.console.status("starting")
        self.last_line = 0.0  # the first line at once
        self.means: dict[str, tuple[float, float]] = {}

    def __call__(self, step: DepthStep) -> None:
        error, within = self.means.get(step.part, (step.error, step.within))
        self.means[step.part] = (0.97 * error + 0.03 * step.error, 0.97 * within + 0.03 * step.within)
        text = f"step {step.step}/{self.steps}  {step.seconds / 60:.1f} min  depth error and share within 5 %:"
        text += "".join(f"  {part} {100 * error:.1f} % {100 * within:.0f} %" for part, (error, within) in self.means.items())
        if self.console.is_terminal:
            self.live.update(text)
        elif self.line_is_due():
            self.line(text)

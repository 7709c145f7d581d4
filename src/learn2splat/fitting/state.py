"""All that changes during a run, and its checkpoint: everything that is needed to go on with the same bits."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..density.base import Splat
from ..errors import CheckpointError
from ..gaussians.record import Gaussians
from ..optimizers import OptState
from .checkpoint import check_same_run, group, load_checkpoint, named, save_checkpoint
from .plan import Plan
from .records import Change, CurvePoint
from .views import ViewSampler


@dataclass(eq=False)
class RunState:
    """All that changes during a run, apart from the view sampler and the generator of the density control."""

    gaussians: Gaussians
    state: OptState
    stats: dict[str, Tensor]  # of the density control
    average: Gaussians | None = None  # of the iterates since the plan's `average_from`
    averaged: int = 0  # how many
    step: int = 0
    events: int = 0  # of growth, done
    settled_at: int | None = None  # of an open run: the step at which it was found to improve no longer
    seconds: float = 0.0  # wall clock of the steps; evaluation and saving not counted
    cpu_seconds: float = 0.0  # the same, processor time of all threads
    update_seconds: float = 0.0  # the part of `seconds` that is the update rule's, ...
    growth_seconds: float = 0.0  # ... and the density control's; the rest is views, rendering, loss and gradients
    losses: list[float] = field(default_factory=list)  # per view, of the steps since size and growth are final: tells when an open run has settled
    curve: list[CurvePoint] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)  # of photo size and number of Gaussians
    diverged: bool = False

    @property
    def splat(self) -> Splat:
        return Splat(self.gaussians, self.state, self.stats)

    def shown(self) -> Gaussians:
        """The Gaussians that are evaluated and returned."""
        return self.gaussians if self.average is None else self.average


NUMBERS = ("step", "averaged", "events", "settled_at", "seconds", "cpu_seconds", "update_seconds", "growth_seconds", "losses", "diverged")


def save_state(folder: Path, run: RunState, sampler: ViewSampler, generator: torch.Generator, plan: Plan, identity: dict) -> None:
    """One checkpoint: everything that `load_state` needs for the same bits."""
    state_tensors, state_info = run.state.state_dict()
    tensors = {
        **named("gaussians", run.gaussians.tensors()),
        **named("optimizer", state_tensors),
        **named("density", run.stats),
        **named("sampler", sampler.state_dict()),
        "density_generator": generator.get_state(),
        **(named("average", run.average.tensors()) if run.average else {}),
    }
    info = {
        "run": identity,
        "plan": plan.to_json(),
        **{name: getattr(run, name) for name in NUMBERS},
        "curve": [asdict(point) for point in run.curve],
        "changes": [asdict(change) for change in run.changes],
        "optimizer": state_info,
    }
    save_checkpoint(folder, tensors, info)


def load_state(folder: Path, sampler: ViewSampler, generator: torch.Generator, identity: dict, device: torch.device) -> tuple[RunState, Plan]:
    """The run of a checkpoint and its plan; sampler and generator are brought to where they were.

    Raises:
        CheckpointError: it is damaged, or that of another run or version.
    """
    tensors, info = load_checkpoint(folder)
    try:
        check_same_run(info["run"], identity, folder)
        on_cpu = ("sampler.", "density_generator")
        tensors = {name: tensor if name.startswith(on_cpu) else tensor.to(device) for name, tensor in tensors.items()}
        sampler.load_state_dict(group(tensors, "sampler"))
        generator.set_state(tensors["density_generator"])
        average = group(tensors, "average")
        run = RunState(
            gaussians=Gaussians(**group(tensors, "gaussians")),
            state=OptState.from_state_dict(group(tensors, "optimizer"), info["optimizer"]),
            stats=group(tensors, "density"),
            average=Gaussians(**average) if average else None,
            curve=[CurvePoint(**point) for point in info["curve"]],
            changes=[Change(**change) for change in info["changes"]],
            **{name: info[name] for name in NUMBERS},
        )
        _check(run)
        return run, Plan.from_json(info["plan"])
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint in {folder} was written by another version ({error}): start again with --overwrite") from error


def _check(run: RunState) -> None:
    """Raise ValueError for what no run leaves behind, whoever wrote it."""
    rows = len(run.gaussians)
    others = {"state": len(run.state) if run.state.tensors else rows, "average": rows if run.average is None else len(run.average)}
    if any(count != rows for count in others.values()):
        raise ValueError(f"{rows} Gaussians, but {others}")
    if not run.gaussians.is_finite() or not (run.average is None or run.average.is_finite()):
        raise ValueError("Gaussians that are not finite")
    whole, real = (run.step, run.averaged, run.events), (run.seconds, run.cpu_seconds, run.update_seconds, run.growth_seconds)
    if not all(isinstance(value, int) and value >= 0 for value in whole) or not all(isinstance(value, (int, float)) and value >= 0 for value in real):
        raise ValueError(f"counts {whole} and seconds {real}")

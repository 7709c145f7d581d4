"""What every update rule obeys: the state of one run, the task it may know about, and the abstract rule.

A rule is a value without memory of any scene: all that changes from step to step is in `OptState`. Every tensor of the state has one row per
Gaussian, so that density control can permute, prune and grow it without knowing the rule.
"""

from __future__ import annotations

import abc
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from ..errors import CheckpointError, OptionError, ShapeError
from ..gaussians.record import Gaussians
from .world import World


@dataclass(frozen=True)
class Task:
    """What a rule may know about the run."""

    scene_scale: float = 1.0  # World units, the extent of the cameras.
    views_per_step: int = 8  # Views whose losses are summed in one inner step.
    steps: int | None = None  # Horizon for schedules; None: open-ended.
    num_views: int | None = None  # Different views that the steps draw from; None: unknown, taken as many.
    view_angle: float | None = None  # Degrees between neighbouring views (`scenes.view_angle`); None: unknown, taken as close.

    def __post_init__(self) -> None:
        known = (self.num_views is None or self.num_views >= 1) and (self.view_angle is None or self.view_angle >= 0)
        if not self.scene_scale > 0 or self.views_per_step < 1 or (self.steps or 0) < 0 or not known:
            raise OptionError(
                "a task needs scene_scale > 0, views_per_step >= 1, and where they are given steps >= 0, num_views >= 1 and view_angle >= 0, "
                f"got {self}"
            )


@dataclass(eq=False)
class OptState:
    """What a rule remembers about one scene.

    Raises:
        ShapeError: the tensors do not have the same number of rows, or one of `index_tensors` is missing or not int64.
    """

    tensors: dict[str, Tensor]  # One row per Gaussian, always.
    step: int = 0  # Inner steps done.
    task: Task = Task()
    index_tensors: frozenset[str] = frozenset()  # Those of `tensors` that hold positions of Gaussians (neighbour lists): renumbered when rows move.

    def __post_init__(self) -> None:
        sizes = {name: len(tensor) for name, tensor in self.tensors.items()}
        if len(set(sizes.values())) > 1:
            raise ShapeError(f"all state tensors must have the same first dimension N, got {sizes}")
        for name in self.index_tensors:
            if name not in self.tensors or self.tensors[name].dtype != torch.int64:
                found = self.tensors[name].dtype if name in self.tensors else "none"
                raise ShapeError(f"the state tensor {name!r} is said to hold positions of Gaussians: expected an int64 tensor, got {found}")

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values()))) if self.tensors else 0

    def select(self, idx: Tensor) -> OptState:
        """The state of `gaussians[idx]`: permutes, prunes or repeats rows. `idx`: positions (M,) or a mask (N,)."""
        if idx.dtype == torch.bool:
            idx = torch.nonzero(idx).squeeze(1)
        tensors = {}
        for name, tensor in self.tensors.items():
            rows = tensor[idx]
            if name in self.index_tensors:
                own = torch.arange(len(idx), device=tensor.device)
                new_position = torch.full((len(tensor),), len(idx), device=tensor.device)
                # Where a row is repeated: its first copy, whatever the threads do.
                new_position.scatter_reduce_(0, idx % max(1, len(tensor)), own, "amin")
                moved, own = new_position[rows], own.view(-1, *[1] * (tensor.ndim - 1))
                rows = torch.where(moved == len(idx), own, moved)  # a neighbour that is gone: the Gaussian itself, until the lists are refreshed
            tensors[name] = rows
        return replace(self, tensors=tensors)

    def cat(self, other: OptState) -> OptState:
        """Rows of `self`, then those of `other` (a state of the same rule); step and task are those of `self`."""
        if self.tensors.keys() != other.tensors.keys():
            raise ShapeError(f"both states must have the same tensors, got {sorted(self.tensors)} and {sorted(other.tensors)}")
        shift = len(self)
        tensors = {}
        for name, tensor in self.tensors.items():
            rows = other.tensors[name]
            tensors[name] = torch.cat([tensor, rows + shift if name in self.index_tensors else rows])
        return replace(self, tensors=tensors)

    def state_dict(self) -> tuple[dict[str, Tensor], dict]:
        """(flat dict of contiguous tensors for safetensors, JSON-able dict of the rest)."""
        info = {"step": self.step, "task": asdict(self.task), "index_tensors": sorted(self.index_tensors)}
        return {name: tensor.detach().contiguous() for name, tensor in self.tensors.items()}, info

    @staticmethod
    def from_state_dict(tensors: dict[str, Tensor], info: dict) -> OptState:
        """The inverse of `state_dict`.

        Raises:
            CheckpointError: `info` lacks a key, has an unknown one, or the tensors do not fit together.
        """
        try:
            # Up to version 0.1.0 positions were told by their type.
            indices = info.get("index_tensors", [name for name, tensor in tensors.items() if tensor.dtype == torch.int64])
            return OptState(dict(tensors), int(info["step"]), Task(**info["task"]), frozenset(indices))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the optimizer state of this checkpoint does not fit this version ({error}): start the run again") from error


@dataclass(frozen=True, eq=False)
class RenderedViews:
    """Photos of one size and their renders: (V, H, W, 3) each, `viewmats` (V, 4, 4), `Ks` (V, 3, 3) px."""

    renders: Tensor
    photos: Tensor
    viewmats: Tensor
    Ks: Tensor


class Problem(abc.ABC):
    """The views of one step as a least-squares problem, 1/2 |r|^2, at the Gaussians of the step; for rules that set `needs_problem`.

    J (M, N x 59) is the Jacobian of the residuals; only products with it exist. Vectors of parameters are (N, 59), in the order of `flatten`.
    """

    residuals: Tensor  # (M,)

    def views(self) -> tuple[RenderedViews, ...]:
        """The photos of the step and their renders, for rules that look at them."""
        return ()

    @abc.abstractmethod
    def jvp(self, direction: Tensor) -> Tensor:
        """J v (M,) of `direction` (N, 59)."""

    @abc.abstractmethod
    def vjp(self, cotangent: Tensor) -> Tensor:
        """J^T u (N, 59) of `cotangent` (M,)."""

    @abc.abstractmethod
    def cost(self, gaussians: Gaussians) -> float:
        """1/2 |r|^2 at other Gaussians."""


class UpdateRule(abc.ABC):
    """An update rule: from Gaussians, their gradients and the state to new Gaussians and a new state."""

    name: str = "abstract"
    world: World = World()  # The frame and the renderer that its weights were trained in.
    needs_problem: bool = (
        False  # Whether `step` takes the `Problem` of the step as a fourth argument: rules of second order, or that see the renders.
    )
    # State tensors that start at zero in a new Gaussian even when it has a parent: Adam's moments. The others (latent state, counts) are copied.
    # Their columns are those of `Gaussians.flatten`, all of them or the first ones.
    zero_when_grown: frozenset[str] = frozenset({"m", "v"})
    # Those that are measured, and so depend on who the neighbours are: not taken over from a parent but as in a brand-new Gaussian.
    measured: frozenset[str] = frozenset()

    @abc.abstractmethod
    def init(self, gaussians: Gaussians, task: Task, generator: torch.Generator) -> OptState:
        """The state before the first step. All randomness comes from `generator`."""

    @abc.abstractmethod
    def step(self, gaussians: Gaussians, grads: Gaussians, state: OptState) -> tuple[Gaussians, OptState]:
        """One inner step. Inputs stay unchanged; results share no memory with them.

        `grads` is the gradient of the loss *summed* over the views of the step. A Gaussian whose gradient is NaN, infinite or above
        1e15 (`_moments.MAX_GRADIENT`) counts as unseen in this step.
        """

    def admit(self, gaussians: Gaussians) -> Gaussians:
        """`gaussians` as the rule wants to find them where a run starts or new ones have come: within its limits, for rules that have some."""
        return gaussians

    def grow(self, state: OptState, parents: Tensor, generator: torch.Generator) -> OptState:
        """The state after `len(parents)` Gaussians were appended (docs/method.md section 6, last paragraph).

        Args:
            state: N rows; they come first and stay as they are.
            parents: (P,) int64, the position of the Gaussian that each new one copies, or -1 for a brand-new one.
            generator: for what is random in a brand-new Gaussian.

        Returns:
            N + P rows. With a parent: its latent state and its count of steps, Adam moments zero. Brand-new, and what is `measured`: as `fresh_rows`
            says.
        """
        if parents.ndim != 1 or parents.dtype != torch.int64:
            raise ShapeError(f"parents must be int64 of shape (P,), got {parents.dtype} of shape {tuple(parents.shape)}")
        if state.tensors and len(parents) and not (-1 <= int(parents.min()) and int(parents.max()) < len(state)):
            raise ShapeError(f"parents must be -1 or positions below N = {len(state)}, got {int(parents.min())} to {int(parents.max())}")
        has_parent = parents >= 0
        tensors = {}
        for name, tensor in state.tensors.items():
            if name in self.zero_when_grown:
                rows = tensor.new_zeros(len(parents), *tensor.shape[1:])
            else:
                if name in state.index_tensors:  # brand-new ones have no neighbours yet but themselves
                    own = torch.arange(len(state), len(state) + len(parents), device=tensor.device)
                    rows = own.view(-1, *[1] * (tensor.ndim - 1)).expand(len(parents), *tensor.shape[1:]).clone()
                else:
                    rows = self.fresh_rows(name, tensor, len(parents), generator)
                if name not in self.measured:
                    rows[has_parent] = tensor[parents[has_parent]]
            tensors[name] = torch.cat([tensor, rows])
        return replace(state, tensors=tensors)

    def reset_moments(self, state: OptState, columns: slice) -> OptState:
        """The state after the parameters `columns` (of `gaussians.record.COLUMNS`) were set anew: their moments are zero, all else stays."""
        tensors = dict(state.tensors)
        for name in self.zero_when_grown & tensors.keys():
            tensors[name] = tensors[name].clone()
            tensors[name][:, columns] = 0
        return replace(state, tensors=tensors)

    def fresh_rows(self, name: str, like: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """`count` rows of the state tensor `name`, which holds no positions, for brand-new Gaussians: zeros."""
        return like.new_zeros(count, *like.shape[1:])

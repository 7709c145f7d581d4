"""What every density control obeys: which Gaussians there are is decided here, how they move is the update rule's business.

A control is a value without memory: what it remembers has one row per Gaussian (`Splat.stats`), what is random comes from the generator that it is
given. *When* something happens is not its business either: the plan of the run (`fitting/plan.py`) says at which moments `event` is called, and
how many Gaussians there should be afterwards.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..gaussians.record import Gaussians
from ..initializers import DepthMaps
from ..optimizers.base import OptState, UpdateRule
from ..scenes import Scene


@dataclass(frozen=True, eq=False)
class Observation:
    """What rendering some views of one size, and the backward pass of the loss summed over all views of the step, say about N Gaussians."""

    means2d_grads: Tensor  # (C, N, 2) d loss / d means2d in px^-1, or the sum over pixels of its absolute values where `observes` is "absgrad"
    radii: Tensor  # (C, N, 2) int32 px; 0: not visible
    width: int  # px
    height: int
    num_views: int  # of the whole step, over all sizes


@dataclass(frozen=True, eq=False)
class Splat:
    """The Gaussians, and everything else that has a row for each of them."""

    gaussians: Gaussians
    state: OptState
    stats: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.gaussians)

    def select(self, idx: Tensor) -> Splat:
        """The Gaussians `idx`, positions (M,) or a mask (N,): permutes, prunes or repeats them."""
        if idx.dtype == torch.bool:
            idx = torch.nonzero(idx).squeeze(1)
        return Splat(self.gaussians[idx], self.state.select(idx), {name: rows[idx] for name, rows in self.stats.items()})

    def grow(self, new: Gaussians, parents: Tensor, rule: UpdateRule, generator: torch.Generator) -> Splat:
        """`new` appended. `parents` (P,) int64: whose state each one copies, -1 for brand-new ones (`UpdateRule.grow`). New stats are zero."""
        stats = {name: torch.cat([rows, rows.new_zeros(len(new), *rows.shape[1:])]) for name, rows in self.stats.items()}
        return Splat(Gaussians.cat([self.gaussians, new]), rule.grow(self.state, parents, generator), stats)

    def reset_moments(self, columns: slice, rule: UpdateRule) -> Splat:
        """Zero what the rule remembers about the gradients of the parameters `columns`, one of `COLUMNS`."""
        return replace(self, state=rule.reset_moments(self.state, columns))


@dataclass(frozen=True)
class Event:
    """A moment at which the plan lets the number of Gaussians change."""

    index: int  # 0 for the first event of the run
    count: int  # events of the whole run
    progress: float  # of the run, 0 to 1
    target: int  # Gaussians wanted after the event, at most


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What a control may use beside the Gaussians."""

    scene: Scene  # with the photos at their present size; only those of `scene.train_idx` may be looked at
    rule: UpdateRule
    generator: torch.Generator  # on the CPU
    depths: Callable[[], DepthMaps] | None = None  # multi-view depth maps of the train photos, made on first use; None: there are none


class DensityControl(abc.ABC):
    """Adds, splits, moves and removes Gaussians."""

    name: str = "abstract"
    observes: Literal["grad", "absgrad"] | None = None  # What `observe` wants to see of every step; None: nothing, which is cheapest.

    def init_stats(self, gaussians: Gaussians) -> dict[str, Tensor]:
        """What is remembered about every Gaussian: tensors with N rows. Zeros must be right for a new one."""
        return {}

    def observe(self, stats: dict[str, Tensor], observations: Sequence[Observation]) -> dict[str, Tensor]:
        """The stats after a step was rendered and differentiated, before its update."""
        return stats

    def penalty(self, gaussians: Gaussians, num_views: int) -> Gaussians | None:
        """The gradient of a regulariser, to be added to that of the loss *summed* over `num_views` views; None: there is none."""
        return None

    def perturb(self, gaussians: Gaussians, progress: float, scene_scale: float, generator: torch.Generator) -> Gaussians:
        """The Gaussians after the update of a step."""
        return gaussians

    @abc.abstractmethod
    def event(self, splat: Splat, event: Event, around: Surroundings) -> Splat:
        """The Gaussians after an event of the plan."""

"""The hand-made scale-free rule `nominal`: an Adam per Gaussian whose steps for the means know the local spacing.

Direction: Adam per Gaussian with a count per Gaussian, clamped; unseen Gaussians stay untouched. Step sizes: constants per parameter group, for
the means times the local spacing. No schedule. Clamps of docs/method.md section 2. The learned rule `anchored` multiplies the same direction and step
sizes by gains and adds a bounded correction: the functions here are its parts, and untrained it takes the same steps to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache

import torch
from torch import Tensor

from ..errors import OptionError
from ..gaussians import knn
from ..gaussians.record import COLUMNS, FIELDS, NUM_PARAMS, Gaussians
from . import _native_step
from ._checks import require_finite
from ._moments import adam_direction, clean_gradients, init_moments, update_moments
from ._schedule import MAX_LOG_SCALE, MAX_LOGIT_OPACITY, MAX_SH, MIN_LOG_SCALE
from .base import OptState, Task, UpdateRule


@dataclass(frozen=True)
class NominalConfig:
    """The constants of the rule. Step sizes are per unit of the Adam direction, which is about 1 where the gradient keeps its sign."""

    means: float = 3.5e-4  # World units, for a Gaussian whose spacing is `reference_spacing`.
    quats: float = 1.6e-2  # Of a unit quaternion.
    log_scales: float = 4.8e-2
    logit_opacities: float = 0.14
    sh0: float = 2.1e-2
    shN: float = 2.2e-3
    beta1: float = 0.9
    beta2: float = 0.995
    max_direction: float = 5.0  # Bound of every entry of the direction.
    reference_spacing: float = 0.02  # World units.
    min_spacing_ratio: float = 0.2  # Bounds of spacing / reference_spacing.
    max_spacing_ratio: float = 10.0
    neighbours: int = 8  # The spacing is the mean distance to this many nearest neighbours.
    refresh_every: int = 20  # Steps between two measurements of the spacing.

    def __post_init__(self) -> None:
        require_finite(self)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("beta1", "beta2"):
                if not 0 <= value < 1:
                    raise OptionError(f"{field.name} must be in [0, 1), got {value}")
            elif not value > 0:
                raise OptionError(f"{field.name} of the nominal rule must be above 0, got {value}")


class Nominal(UpdateRule):
    """The rule of this module. State: `m`, `v` (N, 59), `count` (N,), `spacing` (N,) world units, NaN where not measured yet."""

    name = "nominal"
    measured = frozenset({"spacing"})

    def __init__(self, config: NominalConfig | None = None) -> None:
        self.config = config or NominalConfig()

    def init(self, gaussians: Gaussians, task: Task, generator: torch.Generator) -> OptState:
        return OptState({**init_moments(gaussians), "spacing": unknown_spacing(gaussians.means)}, task=task)

    @torch.no_grad()
    def step(self, gaussians: Gaussians, grads: Gaussians, state: OptState) -> tuple[Gaussians, OptState]:
        config = self.config
        if _native_step.applies(gaussians, grads, state.tensors):
            spacing = refreshed_spacing(gaussians.means, state, config)
            new, tensors = _native_step.nominal_step(gaussians, grads, state.tensors, spacing, config)
            return new, replace(state, tensors={**tensors, "spacing": spacing}, step=state.step + 1)
        flat_grads, seen = clean_gradients(grads)
        direction, tensors = nominal_direction(flat_grads, seen, state.tensors, config)
        tensors["spacing"] = refreshed_spacing(gaussians.means, state, config)
        delta = direction * expand_groups(group_step_sizes(tensors["spacing"], config))
        return apply_update(gaussians.flatten(), delta, seen), replace(state, tensors=tensors, step=state.step + 1)

    def fresh_rows(self, name: str, like: Tensor, count: int, generator: torch.Generator) -> Tensor:
        rows = super().fresh_rows(name, like, count, generator)
        return rows.fill_(torch.nan) if name == "spacing" else rows


def nominal_direction(flat_grads: Tensor, seen: Tensor, tensors: dict[str, Tensor], config: NominalConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Direction (N, 59) within +-max_direction, zero for the unseen; the new `m`, `v`, `count`. `flat_grads`, `seen`: of `clean_gradients`."""
    moments = update_moments(tensors, flat_grads, seen, config.beta1, config.beta2)
    direction = adam_direction(moments, seen, config.beta1, config.beta2)
    return direction.clamp_(-config.max_direction, config.max_direction), moments


def group_step_sizes(spacing: Tensor, config: NominalConfig) -> Tensor:
    """How far a direction of 1 moves the numbers of each parameter group: (N, 6), positive; `spacing` (N,) world units."""
    sizes = spacing.new_tensor([getattr(config, name) for name in FIELDS]).repeat(len(spacing), 1)
    sizes[:, FIELDS.index("means")] *= (spacing / config.reference_spacing).clamp(config.min_spacing_ratio, config.max_spacing_ratio)
    return sizes


def expand_groups(per_group: Tensor) -> Tensor:
    """(N, 6) -> (N, 59): the number of each column's parameter group."""
    # A product with a 0/1 matrix: exact for finite numbers, and on a CPU ten times faster than an indexed copy.
    return per_group @ _group_columns(per_group.dtype, per_group.device)


@lru_cache(maxsize=8)
def _group_columns(dtype: torch.dtype, device: torch.device) -> Tensor:
    matrix = torch.zeros(len(FIELDS), NUM_PARAMS, dtype=dtype, device=device)
    for i, name in enumerate(FIELDS):
        matrix[i, COLUMNS[name]] = 1
    return matrix


def local_spacing(means: Tensor, neighbours: int = 8) -> Tensor:
    """Mean distance (N,) in world units to the `neighbours` nearest others (to fewer where fewer exist, 0 for a lone Gaussian)."""
    others = min(neighbours, len(means) - 1)
    if others < 1:
        return torch.zeros_like(means[:, 0])
    _, distances = knn(means, others + 1)
    return distances[:, 1:].mean(1)


def unknown_spacing(means: Tensor) -> Tensor:
    """(N,) NaN: to be measured at the next step."""
    return torch.full_like(means[:, 0], torch.nan)


def refreshed_spacing(means: Tensor, state: OptState, config: NominalConfig) -> Tensor:
    """`state.tensors["spacing"]`, measured anew every `refresh_every` steps and when there are new Gaussians."""
    spacing = state.tensors["spacing"]
    if state.step % config.refresh_every == 0 or bool(spacing.sum().isnan()):
        return local_spacing(means, config.neighbours)
    return spacing.clone()


def apply_update(flat: Tensor, delta: Tensor, seen: Tensor) -> Gaussians:
    """`flat - delta` (N, 59), quaternions normalised, clamps of docs/method.md section 2. Rows that were not seen keep their bits.

    Differentiable: meta-training back-propagates through it, so nothing is changed in place.
    """
    low, high = _bounds(flat.dtype, flat.device)
    rows = seen.unsqueeze(1)
    new = Gaussians.unflatten(torch.where(rows, torch.clamp(flat - delta, low, high), flat))
    return replace(new, quats=torch.where(rows, torch.nn.functional.normalize(new.quats, dim=1, eps=1e-12), new.quats))


@lru_cache(maxsize=8)
def _bounds(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """The clamps of the 59 columns."""
    limits = {
        "log_scales": (MIN_LOG_SCALE, MAX_LOG_SCALE),
        "logit_opacities": (-MAX_LOGIT_OPACITY, MAX_LOGIT_OPACITY),
        "sh0": (-MAX_SH, MAX_SH),
        "shN": (-MAX_SH, MAX_SH),
    }
    low, high = torch.full((2, NUM_PARAMS), -torch.inf, dtype=dtype, device=device)
    high = -high
    for name, (smallest, largest) in limits.items():
        low[COLUMNS[name]], high[COLUMNS[name]] = smallest, largest
    return low, high

"""The steps of `nominal` and `anchored` in one native call each, for float32 on the CPU: same numbers as the torch code but for rounding.

For meta-training, in two calls, with the network in torch between them (`step_ends`).

The torch code defines the rules, and is what runs everywhere else. Both rules come from the same native code, so that an untrained `anchored`
takes the steps of `nominal` to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..gaussians.record import Gaussians
from ..threads import num_threads
from ._features import FEATURES, MAGNITUDE_FEATURES, NUM_RELATIONS, plenty, scarcity, wideness
from ._schedule import MAX_LOG_SCALE, MAX_LOGIT_OPACITY, MAX_SH, MIN_LOG_SCALE, settled_age

if TYPE_CHECKING:
    from .._native import StepEnds
    from .anchored import AnchoredConfig, AnchoredNetwork
    from .base import OptState
    from .nominal import NominalConfig

MEMORY = ("slow", "running", "seen_rate")  # float32 state of `anchored` beyond the moments and the latent one


def applies(gaussians: Gaussians, grads: Gaussians, tensors: dict[str, Tensor], weights: Iterable[Tensor] = ()) -> bool:
    """Whether the native step can take this one: everything in float32 (counts and lists in their integer types) on the CPU."""
    floats = [gaussians.means, grads.means, *weights, *(tensor for tensor in tensors.values() if tensor.is_floating_point())]
    return all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in floats)


def nominal_step(
    gaussians: Gaussians, grads: Gaussians, tensors: dict[str, Tensor], spacing: Tensor, config: NominalConfig
) -> tuple[Gaussians, dict[str, Tensor]]:
    """The new Gaussians, and the new `m`, `v`, `count`."""
    from .. import _native

    new, moments, arguments = _shared(gaussians, grads, tensors, spacing, config)
    _native.nominal_step(*arguments, num_threads())
    return new, moments


def anchored_step(
    gaussians: Gaussians,
    grads: Gaussians,
    state: OptState,
    spacing: Tensor,
    neighbours: Tensor,
    config: AnchoredConfig,
    network: AnchoredNetwork,
    *,
    speaks: bool,
) -> tuple[Gaussians, dict[str, Tensor]]:
    """The new Gaussians, and all new state tensors but `spacing` and `neighbours`. The weights are read anew at every call.

    `speaks`: whether the network is asked; else what it said last is taken.
    """
    from .. import _native

    weights = torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])
    sizes = [config.width, config.blocks, config.heads, config.head_dim, config.mlp_ratio * config.width]
    new, tensors, arguments = _arguments(gaussians, grads, state, spacing, neighbours, config)
    kept = {name: state.tensors[name] for name in ("latent", "said")}
    written = {name: torch.empty_like(old, memory_format=torch.contiguous_format) for name, old in kept.items()} if speaks else {}
    pairs = [array for name, old in kept.items() for array in (_array(old), written[name].numpy() if speaks else None)]
    _native.anchored_step(*arguments, sizes, weights.numpy(), *pairs)
    return new, {**tensors, **kept, **written}


@dataclass(frozen=True)
class Ends:
    """The two ends of a step of `anchored`, of which the first is done: what the network reads about the n seen Gaussians, and the new state."""

    rows: Tensor  # (n,) int64
    features: Tensor  # (n, F), those of the configuration
    noise: Tensor  # (n, Z), those of the magnitude path, none without one
    relations: Tensor  # (n, k, NUM_RELATIONS)
    neighbours: Tensor  # (n, k) int64 numbers among the seen
    exists: Tensor  # (n, k) bool
    tensors: dict[str, Tensor]  # The new state but for `spacing`, `neighbours`, `latent`.
    new: Gaussians  # Written by `finish`; the unseen are there already.
    native: StepEnds

    def finish(self, outputs: Tensor) -> Gaussians:
        """The new Gaussians, with a graph to what the network says: log-gains (n, 6) before they are squashed, coefficients (n, NUM_TERMS)."""
        return Gaussians(*_Finish.apply(outputs, self))


def step_ends(gaussians: Gaussians, grads: Gaussians, state: OptState, spacing: Tensor, neighbours: Tensor, config: AnchoredConfig) -> Ends:
    """The first end of a step: all that does not need the network."""
    from .. import _native

    new, tensors, arguments = _arguments(gaussians, grads, state, spacing, neighbours, config)
    n, k = len(gaussians), min(config.neighbours, neighbours.shape[1])
    read, noise = (sum(FEATURES[name] for name in names) for names in (config.features, _magnitude(config)))
    inputs = [
        torch.empty(n, dtype=torch.int64), torch.empty(n, read), torch.empty(n, noise), torch.empty(n, k, NUM_RELATIONS),
        torch.empty(n, k, dtype=torch.int64), torch.empty(n, k, dtype=torch.bool),
    ]  # fmt: skip
    native = _native.step_ends(*arguments, *(tensor.numpy() for tensor in inputs))
    return Ends(*(tensor[: native.seen] for tensor in inputs), tensors, new, native)


class _Finish(torch.autograd.Function):
    """From what the network says, (n, 6 + NUM_TERMS), to the fields of the new Gaussians."""

    @staticmethod
    def forward(ctx, outputs: Tensor, ends: Ends) -> tuple[Tensor, ...]:
        ctx.ends, ctx.outputs = ends.native, outputs.detach().contiguous()
        ctx.ends.finish(ctx.outputs.numpy())
        return tuple(ends.new.tensors().values())

    @staticmethod
    @once_differentiable
    def backward(ctx, *v_fields: Tensor) -> tuple[Tensor, None]:
        v_outputs = torch.empty_like(ctx.outputs)
        ctx.ends.backward(ctx.outputs.numpy(), [_array(v) for v in v_fields], v_outputs.numpy())
        return v_outputs, None


def _magnitude(config: AnchoredConfig) -> tuple[str, ...]:
    return MAGNITUDE_FEATURES if config.magnitude else ()


def _arguments(
    gaussians: Gaussians, grads: Gaussians, state: OptState, spacing: Tensor, neighbours: Tensor, config: AnchoredConfig
) -> tuple[Gaussians, dict[str, Tensor], tuple]:
    """The Gaussians and the state, latent apart, that will be written, and the arguments that both native functions of `anchored` take first."""
    tensors = state.tensors
    new, moments, arguments = _shared(gaussians, grads, tensors, spacing, config.nominal)
    memory = {name: torch.empty_like(tensors[name], memory_format=torch.contiguous_format) for name in (*MEMORY, "last_seen")}
    task, named = state.task, ("max_log_growth", "max_log_shrink", "max_correction", "pull_age", "trust_age", "decay_anisotropy", "decay_shN")
    bounds = {name: getattr(config, name) for name in named} | {
        "settled_age": settled_age(task, config), "plenty": plenty(task), "scarcity": scarcity(task.num_views), "wideness": wideness(task.view_angle),
    }  # fmt: skip
    return new, {**moments, **memory}, (
        *arguments, config.neighbours, bounds, _rows(config.features), _rows(_magnitude(config)), state.step, _array(neighbours),
        [_array(tensors[name]) for name in MEMORY], _array(tensors["last_seen"]),
        [memory[name].numpy() for name in MEMORY], memory["last_seen"].numpy(), num_threads(),
    )  # fmt: skip


def _shared(
    gaussians: Gaussians, grads: Gaussians, tensors: dict[str, Tensor], spacing: Tensor, config: NominalConfig
) -> tuple[Gaussians, dict[str, Tensor], tuple]:
    """The tensors to be written, and the arguments that both native functions take first."""
    new = gaussians.map(lambda tensor: torch.empty_like(tensor, memory_format=torch.contiguous_format))
    moments = {name: torch.empty_like(tensors[name], memory_format=torch.contiguous_format) for name in ("m", "v", "count")}
    limits = {"min_log_scale": MIN_LOG_SCALE, "max_log_scale": MAX_LOG_SCALE, "max_logit_opacity": MAX_LOGIT_OPACITY, "max_sh": MAX_SH}
    constants = vars(config) | limits
    return (
        new,
        moments,
        (
            [_array(tensor) for tensor in gaussians.tensors().values()],
            [_array(tensor) for tensor in grads.tensors().values()],
            [_array(tensors["m"]), _array(tensors["v"]), _array(spacing)],
            _array(tensors["count"]),
            [tensor.numpy() for tensor in new.tensors().values()],
            [moments["m"].numpy(), moments["v"].numpy()],
            moments["count"].numpy(),
            constants,
        ),
    )


def _array(tensor: Tensor) -> np.ndarray:
    """A NumPy view: binding one costs a tenth of binding a torch tensor."""
    return tensor.detach().contiguous().numpy()


def _rows(names: Iterable[str]) -> np.ndarray:
    """Rows of the native table of all features, which has the order of `FEATURES`."""
    starts, row = {}, 0
    for name, width in FEATURES.items():
        starts[name], row = row, row + width
    return np.array([starts[name] + i for name in names for i in range(FEATURES[name])], dtype=np.int32)

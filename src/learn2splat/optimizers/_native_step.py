"""The steps of `nominal` and `anchored` in one native call each, for float32 on the CPU: same numbers as the torch code but for rounding.

The torch code defines the rules, and is what runs everywhere else. Both rules come from the same native code, so that an untrained `anchored`
takes the steps of `nominal` to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..gaussians.record import FIELDS, Gaussians
from ..threads import num_threads
from ._features import FEATURES, MAGNITUDE_FEATURES, plenty, scarcity, wideness

if TYPE_CHECKING:
    from .anchored import AnchoredConfig, AnchoredNetwork
    from .base import OptState
    from .nominal import NominalConfig

MEMORY = ("latent", "slow", "running", "seen_rate")  # float32 state of `anchored` beyond the moments


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
    gaussians: Gaussians, grads: Gaussians, state: OptState, spacing: Tensor, neighbours: Tensor, config: AnchoredConfig, network: AnchoredNetwork
) -> tuple[Gaussians, dict[str, Tensor]]:
    """The new Gaussians, and all new state tensors but `spacing` and `neighbours`. The weights are read anew at every call."""
    from .. import _native
    from .anchored import settled_age

    tensors = state.tensors
    new, moments, arguments = _shared(gaussians, grads, tensors, spacing, config.nominal)
    weights = torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])
    memory = {name: torch.empty_like(tensors[name], memory_format=torch.contiguous_format) for name in (*MEMORY, "last_seen")}
    sizes = [config.width, config.latent, config.blocks, config.heads, config.head_dim, config.mlp_ratio * config.width, config.neighbours]
    bounds = [
        config.max_log_growth, config.max_log_shrink, config.max_correction, settled_age(state.task, config), config.pull_age, config.trust_age,
        plenty(state.task), scarcity(state.task.num_views), wideness(state.task.view_angle), config.decay_anisotropy, config.decay_shN,
    ]  # fmt: skip
    _native.anchored_step(
        *arguments, sizes, bounds,
        _rows(config.features), _rows(MAGNITUDE_FEATURES if config.magnitude else ()), weights.numpy(),
        state.step, _array(neighbours),
        [_array(tensors[name]) for name in MEMORY], _array(tensors["last_seen"]),
        [memory[name].numpy() for name in MEMORY], memory["last_seen"].numpy(), num_threads(),
    )  # fmt: skip
    return new, {**moments, **memory}


def _shared(
    gaussians: Gaussians, grads: Gaussians, tensors: dict[str, Tensor], spacing: Tensor, config: NominalConfig
) -> tuple[Gaussians, dict[str, Tensor], tuple]:
    """The tensors to be written, and the arguments that both native functions take first."""
    from .nominal import MAX_LOG_SCALE, MAX_LOGIT_OPACITY, MAX_SH, MIN_LOG_SCALE

    new = gaussians.map(lambda tensor: torch.empty_like(tensor, memory_format=torch.contiguous_format))
    moments = {name: torch.empty_like(tensors[name], memory_format=torch.contiguous_format) for name in ("m", "v", "count")}
    constants = [
        *(getattr(config, name) for name in FIELDS), config.beta1, config.beta2, config.max_direction, config.reference_spacing,
        config.min_spacing_ratio, config.max_spacing_ratio, MIN_LOG_SCALE, MAX_LOG_SCALE, MAX_LOGIT_OPACITY, MAX_SH,
    ]  # fmt: skip
    return new, moments, (
        [_array(tensor) for tensor in gaussians.tensors().values()],
        [_array(tensor) for tensor in grads.tensors().values()],
        [_array(tensors["m"]), _array(tensors["v"]), _array(spacing)],
        _array(tensors["count"]),
        [tensor.numpy() for tensor in new.tensors().values()],
        [moments["m"].numpy(), moments["v"].numpy()],
        moments["count"].numpy(),
        constants,
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

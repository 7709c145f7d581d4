"""The baseline G3R* of the Learn2Splat paper (docs/method.md section 5): its network as earlier learned optimizers use it (G3R, arXiv:2409.19405).

What differs from `paper`: the network reads this step's gradient, each of its 59 channels divided by the largest absolute value among the seen
Gaussians, in place of Adam's direction; it reads how far a fixed horizon has been walked; and no head scales the latent state. Normalised so,
gradients look alike however small they have become, and only the clock says that it is late: beyond the horizon it stands still.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import OptionError
from ..gaussians.record import NUM_PARAMS
from ._point_transformer import TransformerConfig, TransformerRule, make_delta_head, unit_times_length
from .attention import Block
from .base import OptState

TIME_FREQUENCIES = 4  # sin and cos of 1, 2, 4 and 8 half turns over the horizon


@dataclass(frozen=True)
class G3RConfig(TransformerConfig):
    """Sizes of the network, and the horizon that its weights were trained for."""

    horizon: int = 24  # Steps.

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.horizon < 1:
            raise OptionError(f"the horizon of g3r must be at least 1 step, got {self.horizon}")


class G3RNetwork(nn.Module):
    """Point transformer and delta head."""

    def __init__(self, config: G3RConfig) -> None:
        super().__init__()
        width = config.width
        self.input = nn.Linear(2 * NUM_PARAMS + width + 2 * TIME_FREQUENCIES, width)
        self.blocks = nn.ModuleList(Block(width, config.head_dim, config.heads, config.mlp_ratio * width) for _ in range(config.blocks))
        self.delta_head = make_delta_head(width)

    def forward(self, params: Tensor, latent: Tensor, gradient: Tensor, time: Tensor, neighbours: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
        """One prediction for n Gaussians.

        Args:
            params, gradient: (n, 59) paper order; the gradient normalised per channel.
            latent: (n, width).
            time: (8,), of `time_encoding`.
            neighbours, exists: (n, k), as `seen_neighbours` returns them.

        Returns:
            delta (n, 59) paper order, to be subtracted; the new latent state (n, width).
        """
        u = self.input(torch.cat([params, latent, gradient, time.expand(len(params), -1)], dim=1))
        for block in self.blocks:
            u = block(u, neighbours, exists)
        return unit_times_length(self.delta_head(u)), u


class G3R(TransformerRule):
    """The rule of this module. It has no state of its own."""

    name = "g3r"
    architecture = "g3r"
    network_class = G3RNetwork

    def __init__(self, config: G3RConfig = G3RConfig(), *, network: G3RNetwork | None = None, seed: int = 0) -> None:
        super().__init__(config, network=network, seed=seed)

    def read(self, flat_grads: Tensor, seen: Tensor, state: OptState) -> tuple[dict[str, Tensor], Tensor, tuple[Tensor, ...]]:
        return {}, largest_one(flat_grads), (time_encoding(state.step, self.config.horizon),)


def largest_one(flat_grads: Tensor) -> Tensor:
    """Gradients (N, 59) with the largest absolute value of every channel at 1; channels without a gradient stay zero."""
    largest = flat_grads.abs().amax(0, keepdim=True) if len(flat_grads) else flat_grads.new_ones(1, NUM_PARAMS)
    return torch.where(largest > 0, flat_grads / torch.where(largest > 0, largest, 1.0), 0.0)


def time_encoding(step: int, horizon: int) -> Tensor:
    """(8,): sines, then cosines of 1, 2, 4, 8 half turns times the share of the horizon that is behind; as at the horizon from there on."""
    angles = math.pi * min(1.0, step / horizon) * 2.0 ** torch.arange(TIME_FREQUENCIES, dtype=torch.float64)
    return torch.cat([angles.sin(), angles.cos()])

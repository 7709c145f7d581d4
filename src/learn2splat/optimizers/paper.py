"""The Learn2Splat network and its inner step, as published: docs/method.md section 3 (arXiv:2605.15760), of any width."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..gaussians.record import NUM_PARAMS, Gaussians
from ..scenes.scene import EPS2D
from ._moments import adam_direction, init_moments, update_moments
from ._point_transformer import TransformerConfig, TransformerRule, make_delta_head, unit_times_length
from .attention import Block
from .base import OptState
from .world import World

BETAS = (0.9, 0.999)
# By the Cauchy-Schwarz inequality |mhat| / sqrt(vhat) stays below 7.3 for these betas; more is an underflow of squared gradients below 1e-38.
MAX_DIRECTION = 8.0


@dataclass(frozen=True)
class PaperConfig(TransformerConfig):
    """Sizes of the network, and the world that its weights are of."""

    state_proj: bool = True  # Whether there is a first state from the features of a feed-forward initializer; weights for dense views have none.
    world_frame: str = "normalised"  # Or "scene": released weights work in the units of the files.
    eps2d: float = EPS2D  # px^2; released weights: 1e-4.

    def __post_init__(self) -> None:
        super().__post_init__()
        World(self.world_frame, self.eps2d)


class _Input(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class _Blocks(nn.Module):
    def __init__(self, config: PaperConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config.width, config.head_dim, config.heads, config.mlp_ratio * config.width) for _ in range(config.blocks))


class PaperNetwork(nn.Module):
    """Point transformer, state scale head and delta head. Module names are those of the released checkpoint."""

    def __init__(self, config: PaperConfig) -> None:
        super().__init__()
        inputs, width = 2 * NUM_PARAMS + config.width, config.width
        # Turns features of a feed-forward initializer into a first state. Not used when starting from points; here so that released files load whole.
        if config.state_proj:
            self.state_proj = nn.Conv2d(width, width, 1)
        self.point_transformer = nn.Sequential(_Input(inputs, width), _Blocks(config))
        self.state_scale_head = nn.Sequential(nn.Linear(inputs, inputs // 2), nn.ReLU(), nn.Linear(inputs // 2, 1))
        self.delta_head = make_delta_head(width)
        with torch.no_grad():
            self.state_scale_head[2].bias.fill_(1.0)

    def forward(self, params: Tensor, latent: Tensor, direction: Tensor, neighbours: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
        """One prediction for n Gaussians.

        Args:
            params, direction: (n, 59) paper order; the parameters and the Adam-normalised gradient.
            latent: (n, width).
            neighbours, exists: (n, k), as `seen_neighbours` returns them.

        Returns:
            delta (n, 59) paper order, to be subtracted; the new latent state (n, width), unscaled.
        """
        x = torch.cat([params, latent, direction], dim=1)
        u = self.point_transformer[0](x)
        for block in self.point_transformer[1].blocks:
            u = block(u, neighbours, exists)
        scale = F.relu(self.state_scale_head(x.detach()))
        return unit_times_length(self.delta_head(scale * u)), u


class Paper(TransformerRule):
    """The published update rule. State: Adam's moments `m`, `v`, `count` and the frame's."""

    name = "paper"
    architecture = "paper"
    network_class = PaperNetwork

    def __init__(self, config: PaperConfig = PaperConfig(), *, network: PaperNetwork | None = None, seed: int = 0) -> None:
        super().__init__(config, network=network, seed=seed)

    @property
    def world(self) -> World:
        return World(self.config.world_frame, self.config.eps2d)

    def own_state(self, gaussians: Gaussians) -> dict[str, Tensor]:
        return init_moments(gaussians)

    def read(self, flat_grads: Tensor, seen: Tensor, state: OptState) -> tuple[dict[str, Tensor], Tensor, tuple[Tensor, ...]]:
        tensors = update_moments(state.tensors, flat_grads, seen, *BETAS)
        return tensors, adam_direction(tensors, seen, *BETAS).clamp_(-MAX_DIRECTION, MAX_DIRECTION), ()

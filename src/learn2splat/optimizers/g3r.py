"""The baseline G3R* of the Learn2Splat paper (METHOD.md section 5): its network family as earlier learned optimizers use it (G3R, arXiv:2409.19405).

What differs from `paper`: the network reads this step's gradient, each of its 59 channels divided by the largest absolute value among the seen
Gaussians, in place of Adam's direction; it reads how far a fixed horizon has been walked; and no head scales the latent state. Normalised so,
gradients look alike however small they have become, and only the clock says that it is late: beyond the horizon it stands still.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import OptionError
from ..gaussians.record import NUM_PARAMS, Gaussians
from ._moments import clean_gradients
from .attention import NUM_CANDIDATES, Block, refreshed_candidates, seen_neighbours
from .base import OptState, Task, UpdateRule
from .paper import OPACITY, SCALES, SH, clamp_columns, from_paper_order, to_paper_order

TIME_FREQUENCIES = 4  # sin and cos of 1, 2, 4 and 8 half turns over the horizon


@dataclass(frozen=True)
class G3RConfig:
    """Sizes of the network, and the horizon that its weights were trained for."""

    width: int = 256  # Of the network and of the latent state.
    blocks: int = 4
    heads: int = 1
    head_dim: int = 64
    mlp_ratio: int = 4
    neighbours: int = 4  # k, the Gaussian itself included.
    refresh_every: int = 10  # Steps between two searches for neighbours.
    horizon: int = 24  # Steps.

    def __post_init__(self) -> None:
        positive = min(self.width, self.heads, self.head_dim, self.mlp_ratio, self.neighbours, self.refresh_every, self.horizon) > 0
        if not positive or self.blocks < 0 or self.neighbours > NUM_CANDIDATES:
            raise OptionError(f"the g3r network needs positive sizes and horizon and 1 <= neighbours <= {NUM_CANDIDATES}, got {self}")


class G3RNetwork(nn.Module):
    """Point transformer and delta head. The last layer is zero at the start."""

    def __init__(self, config: G3RConfig) -> None:
        super().__init__()
        width = config.width
        self.input = nn.Linear(2 * NUM_PARAMS + width + 2 * TIME_FREQUENCIES, width)
        self.blocks = nn.ModuleList(Block(width, config.head_dim, config.heads, config.mlp_ratio * width) for _ in range(config.blocks))
        self.delta_head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, NUM_PARAMS + 1))
        with torch.no_grad():
            self.delta_head[2].weight.zero_()
            self.delta_head[2].bias.zero_()
            self.delta_head[2].bias[NUM_PARAMS] = 1e-8

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
        y = self.delta_head(u)
        direction, length = y[:, :NUM_PARAMS], F.relu(y[:, NUM_PARAMS:])
        return length * direction / (torch.linalg.vector_norm(direction, dim=1, keepdim=True) + 1e-8), u


class G3R(UpdateRule):
    """The rule of this module. State: `latent` (N, width), `neighbours` (N, candidates). Untrained it moves nothing."""

    name = "g3r"
    architecture = "g3r"

    def __init__(self, config: G3RConfig = G3RConfig(), *, network: G3RNetwork | None = None, seed: int = 0) -> None:
        """`network`: trained weights for this `config`; by default random ones drawn from `seed`."""
        self.config = config
        if network is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)  # torch's initialisers know no generator; the global state is restored on leaving
                network = G3RNetwork(config)
        self.network = network

    def init(self, gaussians: Gaussians, task: Task, generator: torch.Generator) -> OptState:
        n, device = len(gaussians), gaussians.means.device
        tensors = {
            "latent": self._random_latent(n, generator, device),
            "neighbours": torch.arange(n, device=device).unsqueeze(1).repeat(1, NUM_CANDIDATES),  # none yet: the first step searches
        }
        return OptState(tensors, task=task)

    def fresh_rows(self, name: str, like: Tensor, count: int, generator: torch.Generator) -> Tensor:
        if name == "latent":
            return self._random_latent(count, generator, like.device).to(like.dtype)
        return super().fresh_rows(name, like, count, generator)

    def step(self, gaussians: Gaussians, grads: Gaussians, state: OptState) -> tuple[Gaussians, OptState]:
        with torch.no_grad():
            return self.update(gaussians, grads, state)

    def update(self, gaussians: Gaussians, grads: Gaussians, state: OptState, theta: dict[str, Tensor] | None = None) -> tuple[Gaussians, OptState]:
        """The step as a pure function, differentiable in the weights, the latent state and the Gaussians; `grads` enter as constants.

        `theta`: weights by name that replace those of `self.network`, as in `torch.func.functional_call`.
        """
        if self.network.input.weight.device != gaussians.means.device:
            self.network.to(gaussians.means.device)  # the weights follow the Gaussians
        old = state.tensors
        flat_grads, seen = clean_gradients(grads.detach())
        candidates = old["neighbours"].clone()
        if state.step % self.config.refresh_every == 0:
            candidates = refreshed_candidates(gaussians.means, NUM_CANDIDATES)
        neighbours, exists = seen_neighbours(candidates, seen, self.config.neighbours)

        flat = gaussians.flatten()
        rows = torch.nonzero(seen).squeeze(1)
        params = clamp_columns(to_paper_order(flat[rows]), OPACITY)
        latent = old["latent"][rows]
        gradient = to_paper_order(largest_one(flat_grads)[rows]).to(latent.dtype)
        inputs = (params.to(latent.dtype), latent, gradient, time_encoding(state.step, self.config.horizon).to(latent), neighbours, exists)
        delta, latent = self.network(*inputs) if theta is None else torch.func.functional_call(self.network, theta, inputs)
        moved = clamp_columns(params - delta.to(flat.dtype), SCALES, OPACITY, SH)
        tensors = {"latent": old["latent"].index_copy(0, rows, latent), "neighbours": candidates}
        new = Gaussians.unflatten(flat.index_copy(0, rows, from_paper_order(moved)))
        return new, replace(state, tensors=tensors, step=state.step + 1)

    def _random_latent(self, n: int, generator: torch.Generator, device: torch.device) -> Tensor:
        dtype = self.network.input.weight.dtype
        return torch.randn(n, self.config.width, generator=generator, dtype=dtype, device=generator.device).to(device)


def largest_one(flat_grads: Tensor) -> Tensor:
    """Gradients (N, 59) with the largest absolute value of every channel at 1; channels without a gradient stay zero."""
    largest = flat_grads.abs().amax(0, keepdim=True) if len(flat_grads) else flat_grads.new_ones(1, NUM_PARAMS)
    return torch.where(largest > 0, flat_grads / torch.where(largest > 0, largest, 1.0), 0.0)


def time_encoding(step: int, horizon: int) -> Tensor:
    """(8,): sines, then cosines of 1, 2, 4, 8 half turns times the share of the horizon that is behind; as at the horizon from there on."""
    angles = math.pi * min(1.0, step / horizon) * 2.0 ** torch.arange(TIME_FREQUENCIES, dtype=torch.float64)
    return torch.cat([angles.sin(), angles.cos()])

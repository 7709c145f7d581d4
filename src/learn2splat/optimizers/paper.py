"""The Learn2Splat network and its inner step, as published: METHOD.md sections 2 and 3 (arXiv:2605.15760), of any width.

The network has its own order of the 59 numbers of a Gaussian (`TO_PAPER`): means, log-scales, quats *xyzw*, opacity logit, SH channel-major. Inside
this module "paper order" is that one; records, gradients and results are in the order of `Gaussians.flatten`. State tensors are in paper order.

Two decisions where the paper leaves room. Neighbours come from the Gaussians that are seen in this step (the others are left out of it
altogether), out of candidate lists that are refreshed every `refresh_every` steps. The opacity logit is clamped both where the network reads it
and after the update.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import OptionError
from ..gaussians.record import COLUMNS, NUM_PARAMS, Gaussians
from ._moments import adam_direction, clean_gradients, init_moments, update_moments
from .attention import NUM_CANDIDATES, Block, refreshed_candidates, seen_neighbours
from .base import OptState, Task, UpdateRule
from .nominal import MAX_LOG_SCALE, MAX_LOGIT_OPACITY, MAX_SH, MIN_LOG_SCALE

BETAS = (0.9, 0.999)
# By the Cauchy-Schwarz inequality |mhat| / sqrt(vhat) stays below 7.3 for these betas; more is an underflow of squared gradients below 1e-38.
MAX_DIRECTION = 8.0


def _paper_columns() -> list[int]:
    """Column of `Gaussians.flatten` for each of the 59 columns of the paper."""
    start = {name: columns.start for name, columns in COLUMNS.items()}
    means = [start["means"] + i for i in range(3)]
    scales = [start["log_scales"] + i for i in range(3)]
    quats = [start["quats"] + i for i in (1, 2, 3, 0)]  # xyzw from wxyz
    sh = [start["sh0"] + c if k == 0 else start["shN"] + 3 * (k - 1) + c for c in range(3) for k in range(16)]
    return [*means, *scales, *quats, start["logit_opacities"], *sh]


TO_PAPER = torch.tensor(_paper_columns())
FROM_PAPER = torch.argsort(TO_PAPER)


def to_paper_order(flat: Tensor) -> Tensor:
    """(N, 59) in the order of `Gaussians.flatten` -> (N, 59) in the order of the released network."""
    return flat[:, TO_PAPER.to(flat.device)]


def from_paper_order(flat: Tensor) -> Tensor:
    """The inverse of `to_paper_order`."""
    return flat[:, FROM_PAPER.to(flat.device)]


# Columns in paper order that are clamped, and their bounds (METHOD.md section 2).
SCALES = (slice(3, 6), MIN_LOG_SCALE, MAX_LOG_SCALE)
OPACITY = (slice(10, 11), -MAX_LOGIT_OPACITY, MAX_LOGIT_OPACITY)
SH = (slice(11, 59), -MAX_SH, MAX_SH)


def clamp_columns(params: Tensor, *parts: tuple[slice, float, float]) -> Tensor:
    """`params` (n, 59) in paper order with some columns clamped; out of place, for autograd."""
    for columns, low, high in parts:
        params = torch.cat([params[:, : columns.start], params[:, columns].clamp(low, high), params[:, columns.stop :]], dim=1)
    return params


@dataclass(frozen=True)
class PaperConfig:
    """Sizes of the network. The defaults are the released ones (2.7 million parameters)."""

    width: int = 256  # Of the network and of the latent state.
    blocks: int = 4
    heads: int = 1
    head_dim: int = 64
    mlp_ratio: int = 4
    neighbours: int = 4  # k, the Gaussian itself included.
    refresh_every: int = 10  # Steps between two searches for neighbours.

    def __post_init__(self) -> None:
        positive = min(self.width, self.heads, self.head_dim, self.mlp_ratio, self.neighbours, self.refresh_every) > 0
        if not positive or self.blocks < 0 or self.neighbours > NUM_CANDIDATES:
            raise OptionError(f"the paper network needs positive sizes and 1 <= neighbours <= {NUM_CANDIDATES}, got {self}")


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
        self.state_proj = nn.Conv2d(width, width, 1)
        self.point_transformer = nn.Sequential(_Input(inputs, width), _Blocks(config))
        self.state_scale_head = nn.Sequential(nn.Linear(inputs, inputs // 2), nn.ReLU(), nn.Linear(inputs // 2, 1))
        self.delta_head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, NUM_PARAMS + 1))
        with torch.no_grad():
            self.state_scale_head[2].bias.fill_(1.0)
            self.delta_head[2].weight.zero_()
            self.delta_head[2].bias.zero_()
            self.delta_head[2].bias[NUM_PARAMS] = 1e-8

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
        y = self.delta_head(scale * u)
        direction_out, length = y[:, :NUM_PARAMS], F.relu(y[:, NUM_PARAMS:])
        return length * direction_out / (torch.linalg.vector_norm(direction_out, dim=1, keepdim=True) + 1e-8), u


class Paper(UpdateRule):
    """The published update rule. Untrained it moves nothing (its last layer is zero)."""

    name = "paper"
    architecture = "paper"

    def __init__(self, config: PaperConfig = PaperConfig(), *, network: PaperNetwork | None = None, seed: int = 0) -> None:
        """`network`: trained weights for this `config`; by default random ones drawn from `seed`."""
        self.config = config
        if network is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)  # torch's initialisers know no generator; the global state is restored on leaving
                network = PaperNetwork(config)
        self.network = network

    def init(self, gaussians: Gaussians, task: Task, generator: torch.Generator) -> OptState:
        n, device = len(gaussians), gaussians.means.device
        tensors = {
            **init_moments(gaussians),
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
        if self.network.state_proj.weight.device != gaussians.means.device:
            self.network.to(gaussians.means.device)  # the weights follow the Gaussians
        old = state.tensors
        flat_grads, seen = clean_gradients(grads.detach())
        tensors = update_moments(old, flat_grads, seen, *BETAS)
        direction = adam_direction(tensors, seen, *BETAS).clamp_(-MAX_DIRECTION, MAX_DIRECTION)
        if state.step % self.config.refresh_every == 0:
            tensors["neighbours"] = refreshed_candidates(gaussians.means, NUM_CANDIDATES)
        else:
            tensors["neighbours"] = old["neighbours"].clone()
        neighbours, exists = seen_neighbours(tensors["neighbours"], seen, self.config.neighbours)

        flat = gaussians.flatten()
        rows = torch.nonzero(seen).squeeze(1)
        params = clamp_columns(to_paper_order(flat[rows]), OPACITY)
        latent = old["latent"][rows]
        inputs = (params.to(latent.dtype), latent, to_paper_order(direction[rows]).to(latent.dtype), neighbours, exists)
        delta, latent = self.network(*inputs) if theta is None else torch.func.functional_call(self.network, theta, inputs)
        moved = clamp_columns(params - delta.to(flat.dtype), SCALES, OPACITY, SH)
        tensors["latent"] = old["latent"].index_copy(0, rows, latent)
        new = Gaussians.unflatten(flat.index_copy(0, rows, from_paper_order(moved)))
        return new, replace(state, tensors=tensors, step=state.step + 1)

    def _random_latent(self, n: int, generator: torch.Generator, device: torch.device) -> Tensor:
        dtype = self.network.state_proj.weight.dtype
        return torch.randn(n, self.config.width, generator=generator, dtype=dtype, device=generator.device).to(device)

"""The frame of the rules `paper` and `g3r`: a network that maps parameters, latent state and some normalised gradient of every seen Gaussian to its
whole update. docs/method.md sections 2 and 3 (arXiv:2605.15760).

The networks have their own order of the 59 numbers of a Gaussian (`TO_PAPER`): means, log-scales, quats *xyzw*, opacity logit, SH channel-major.
"Paper order" is that one; records, gradients, results and moments are in the order of `Gaussians.flatten`.

Two decisions where the paper leaves room. Neighbours come from the Gaussians that are seen in this step (the others are left out of it
altogether), out of candidate lists that are refreshed every `refresh_every` steps. "Clamped whenever read" is: where a run starts and after
growth (`admit`), so before the first render, where the network reads, and after the update.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import OptionError
from ..gaussians.record import COLUMNS, NUM_PARAMS, Gaussians
from ._checks import require_finite
from ._moments import clean_gradients
from ._schedule import MAX_LOG_SCALE, MAX_LOGIT_OPACITY, MAX_SH, MIN_LOG_SCALE
from .attention import NUM_CANDIDATES, refreshed_candidates, seen_neighbours
from .base import OptState, Task, UpdateRule


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


# Columns in paper order that are clamped, and their bounds (docs/method.md section 2).
SCALES = (slice(3, 6), MIN_LOG_SCALE, MAX_LOG_SCALE)
OPACITY = (slice(10, 11), -MAX_LOGIT_OPACITY, MAX_LOGIT_OPACITY)
SH = (slice(11, 59), -MAX_SH, MAX_SH)


def clamp_columns(params: Tensor, *parts: tuple[slice, float, float]) -> Tensor:
    """`params` (n, 59) in paper order with some columns clamped; out of place, for autograd."""
    for columns, low, high in parts:
        params = torch.cat([params[:, : columns.start], params[:, columns].clamp(low, high), params[:, columns.stop :]], dim=1)
    return params


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the network. The defaults are the released ones (2.7 million parameters)."""

    width: int = 256  # Of the network and of the latent state.
    blocks: int = 4
    heads: int = 1
    head_dim: int = 64
    mlp_ratio: int = 4
    neighbours: int = 4  # k, the Gaussian itself included.
    refresh_every: int = 10  # Steps between two searches for neighbours.

    def __post_init__(self) -> None:
        require_finite(self)
        positive = min(self.width, self.heads, self.head_dim, self.mlp_ratio, self.neighbours, self.refresh_every) > 0
        if not positive or self.blocks < 0 or self.neighbours > NUM_CANDIDATES:
            raise OptionError(f"the network needs positive sizes and 1 <= neighbours <= {NUM_CANDIDATES}, got {self}")


def make_delta_head(width: int) -> nn.Sequential:
    """The last layers: 59 numbers of a direction and a length; the last one starts at zero, so untrained it moves nothing."""
    head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, NUM_PARAMS + 1))
    with torch.no_grad():
        head[2].weight.zero_()
        head[2].bias.zero_()
        head[2].bias[NUM_PARAMS] = 1e-8
    return head


def unit_times_length(y: Tensor) -> Tensor:
    """(n, 60) -> (n, 59): the first 59 numbers as a unit vector, times ReLU of the last."""
    direction, length = y[:, :NUM_PARAMS], F.relu(y[:, NUM_PARAMS:])
    return length * direction / (torch.linalg.vector_norm(direction, dim=1, keepdim=True) + 1e-8)


class TransformerRule(UpdateRule):
    """A rule whose network predicts the update. State: `latent` (N, width), `neighbours` (N, candidates) and what `own_state` has."""

    network_class: type[nn.Module]

    def __init__(self, config: TransformerConfig, *, network: nn.Module | None = None, seed: int = 0) -> None:
        """`network`: trained weights for this `config`; by default random ones drawn from `seed`."""
        self.config = config
        if network is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)  # torch's initialisers know no generator; the global state is restored on leaving
                network = self.network_class(config)
        self.network = network

    def admit(self, gaussians: Gaussians) -> Gaussians:
        return Gaussians.unflatten(from_paper_order(clamp_columns(to_paper_order(gaussians.flatten()), SCALES, OPACITY)))

    def own_state(self, gaussians: Gaussians) -> dict[str, Tensor]:
        """State tensors of this rule before the first step, besides latent state and neighbours."""
        return {}

    @abc.abstractmethod
    def read(self, flat_grads: Tensor, seen: Tensor, state: OptState) -> tuple[dict[str, Tensor], Tensor, tuple[Tensor, ...]]:
        """What the network reads of clean gradients (N, 59): the rule's own state after this step, normalised gradients (N, 59), further inputs."""

    def init(self, gaussians: Gaussians, task: Task, generator: torch.Generator) -> OptState:
        n, device = len(gaussians), gaussians.means.device
        tensors = {
            **self.own_state(gaussians),
            "latent": self._random_latent(n, generator, device),
            "neighbours": torch.arange(n, device=device).unsqueeze(1).repeat(1, NUM_CANDIDATES),  # none yet: the first step searches
        }
        return OptState(tensors, task=task, index_tensors=frozenset({"neighbours"}))

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
        delta, new_state = self.propose(gaussians, grads, state, theta)
        return self.move(gaussians, delta, grads), new_state

    def propose(self, gaussians: Gaussians, grads: Gaussians, state: OptState, theta: dict[str, Tensor] | None = None) -> tuple[Tensor, OptState]:
        """What (N, 59) the network wants to subtract, before clamps, zero for the unseen; and the state after the step. Arguments of `update`."""
        if next(self.network.parameters()).device != gaussians.means.device:
            self.network.to(gaussians.means.device)  # the weights follow the Gaussians
        old = state.tensors
        flat_grads, seen = clean_gradients(grads.detach())
        tensors, gradient, more = self.read(flat_grads, seen, state)
        if state.step % self.config.refresh_every == 0:
            tensors["neighbours"] = refreshed_candidates(gaussians.means, NUM_CANDIDATES)
        else:
            tensors["neighbours"] = old["neighbours"].clone()
        neighbours, exists = seen_neighbours(tensors["neighbours"], seen, self.config.neighbours)

        flat = gaussians.flatten()
        rows = torch.nonzero(seen).squeeze(1)
        params = clamp_columns(to_paper_order(flat[rows]), SCALES, OPACITY)
        latent = old["latent"][rows]
        inputs = (params.to(latent.dtype), latent, to_paper_order(gradient[rows]).to(latent.dtype), *(x.to(latent) for x in more), neighbours, exists)
        delta, latent = self.network(*inputs) if theta is None else torch.func.functional_call(self.network, theta, inputs)
        tensors["latent"] = old["latent"].index_copy(0, rows, latent.to(old["latent"].dtype))  # of autocast, bf16 comes back
        delta = torch.zeros_like(flat).index_copy(0, rows, from_paper_order(delta.to(flat.dtype)))
        return delta, replace(state, tensors=tensors, step=state.step + 1)

    def move(self, gaussians: Gaussians, delta: Tensor, grads: Gaussians) -> Gaussians:
        """The Gaussians minus `delta` (N, 59), clamped; those that are not seen keep their bits."""
        flat, (_, seen) = gaussians.flatten(), clean_gradients(grads.detach())
        rows = torch.nonzero(seen).squeeze(1)
        read = clamp_columns(to_paper_order(flat[rows]), SCALES, OPACITY)
        moved = clamp_columns(read - to_paper_order(delta[rows]), SCALES, OPACITY, SH)
        return Gaussians.unflatten(flat.index_copy(0, rows, from_paper_order(moved)))

    def _random_latent(self, n: int, generator: torch.Generator, device: torch.device) -> Tensor:
        dtype = next(self.network.parameters()).dtype
        return torch.randn(n, self.config.width, generator=generator, dtype=dtype, device=generator.device).to(device)

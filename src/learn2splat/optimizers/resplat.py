"""The baseline ReSplat of the sparse setting (docs/method.md section 8), in small: a recurrent network driven by the error of the render in feature
space, not by gradients.

Every step: the features of each context photo and of its render, by a small convolutional network of ours (the published one is a ResNet-18, whose
weights cannot be had here), are subtracted. Each Gaussian reads the difference where it lies in each view, weighs the views by attention, and a point
transformer over its neighbours predicts what is *added* to its 59 numbers. Every Gaussian moves in every step; there are no gradients, moments,
clocks or step sizes.

What differs from the published one besides sizes: there a Gaussian belongs to a patch of a context photo and reads the error of that patch; here
starts of any kind are refined, so that a Gaussian reads the error wherever it projects to, whether or not something hides it there. The latent state
starts at zero where the published one starts with features of its initializer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..gaussians.record import NUM_PARAMS, Gaussians
from ._point_transformer import OPACITY, SCALES, SH, TransformerConfig, clamp_columns, from_paper_order, to_paper_order
from .attention import NUM_CANDIDATES, Block, refreshed_candidates
from .base import OptState, Problem, RenderedViews, Task, UpdateRule

CHANNELS = (16, 32, 32)  # of the features at 1/2, 1/4 and 1/8 of the size of the photos
ERROR_WIDTH = 3 + sum(CHANNELS)  # the difference of the colours, and that of all features


@dataclass(frozen=True)
class ReSplatConfig(TransformerConfig):
    """Sizes of the network."""

    width: int = 64
    blocks: int = 2
    head_dim: int = 32
    mlp_ratio: int = 2
    neighbours: int = 8


class Features(nn.Module):
    """Features of photos (V, 3, H, W) at 1/2, 1/4 and 1/8 of their size."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, *CHANNELS)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))

    def forward(self, photos: Tensor) -> list[Tensor]:
        found, x = [], photos - 0.5
        for layer in self.layers:
            x = F.gelu(layer(x))
            found.append(x)
        return found


class ReSplatNetwork(nn.Module):
    """Features, attention over views, point transformer and head."""

    def __init__(self, config: ReSplatConfig) -> None:
        super().__init__()
        width = config.width
        self.features = Features()
        self.view_score = nn.Linear(ERROR_WIDTH, 1)
        self.input = nn.Linear(NUM_PARAMS + width + ERROR_WIDTH + 1, width)
        self.blocks = nn.ModuleList(Block(width, config.head_dim, config.heads, config.mlp_ratio * width) for _ in range(config.blocks))
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, NUM_PARAMS))
        with torch.no_grad():
            self.head[2].weight.zero_()  # untrained it moves nothing
            self.head[2].bias.zero_()

    def forward(
        self, params: Tensor, latent: Tensor, means: Tensor, views: tuple[RenderedViews, ...], neighbours: Tensor, exists: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One prediction for N Gaussians.

        Args:
            params: (N, 59) paper order.
            latent: (N, width).
            means: (N, 3) world units.
            views: the context photos and their renders; any sizes.
            neighbours, exists: (N, k).

        Returns:
            delta (N, 59) paper order, to be added; the new latent state (N, width).
        """
        u = self.input(torch.cat([params, latent, self.error(means, views)], dim=1))
        for block in self.blocks:
            u = block(u, neighbours, exists)
        return self.head(u), u

    def error(self, means: Tensor, views: tuple[RenderedViews, ...]) -> Tensor:
        """(N, error width + 1): the difference of features at each Gaussian, weighed over the views it lies in; the share of views that these are."""
        read, inside = [], []
        for group in views:
            renders, photos = (images.permute(0, 3, 1, 2).to(means) for images in (group.renders, group.photos))
            height, width = renders.shape[2:]
            differences = [photos - renders, *(a - b for a, b in zip(self.features(photos), self.features(renders)))]
            p_cam = torch.nan_to_num(means) @ group.viewmats[:, :3, :3].mT.to(means) + group.viewmats[:, None, :3, 3].to(means)
            z = p_cam[..., 2:]
            uv = (p_cam @ group.Ks.mT.to(means))[..., :2] / z.clamp_min(1e-6)
            grid = 2 * uv / torch.tensor([width, height], dtype=means.dtype, device=means.device) - 1  # pixel corners: align_corners=False
            inside.append((z[..., 0] > 0) & (grid.abs() <= 1).all(-1))
            grid = grid.clamp(-2, 2)[:, None]
            read.append(torch.cat([F.grid_sample(x, grid, padding_mode="border", align_corners=False)[:, :, 0] for x in differences], 1).mT)
        if not read:
            return means.new_zeros(len(means), ERROR_WIDTH + 1)
        every, seen = torch.cat(read), torch.cat(inside)  # (V, N, error width), (V, N)
        score = self.view_score(every)[..., 0].masked_fill(~seen, -1e9)
        weight = score.softmax(0) * seen
        return torch.cat([(weight[..., None] * every).sum(0), seen.to(means).mean(0)[:, None]], 1)


class ReSplat(UpdateRule):
    """The rule of this module. State: `latent` (N, width), `neighbours` (N, candidates)."""

    name = "resplat"
    architecture = "resplat"
    needs_problem = True

    def __init__(self, config: ReSplatConfig = ReSplatConfig(), *, network: ReSplatNetwork | None = None, seed: int = 0) -> None:
        """`network`: trained weights for this `config`; by default random ones drawn from `seed`."""
        self.config = config
        if network is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                network = ReSplatNetwork(config)
        self.network = network

    def init(self, gaussians: Gaussians, task: Task, generator: torch.Generator) -> OptState:
        n, device = len(gaussians), gaussians.means.device
        tensors = {
            "latent": torch.zeros(n, self.config.width, dtype=next(self.network.parameters()).dtype, device=device),
            "neighbours": torch.arange(n, device=device).unsqueeze(1).repeat(1, NUM_CANDIDATES),  # none yet: the first step searches
        }
        return OptState(tensors, task=task, index_tensors=frozenset({"neighbours"}))

    def step(self, gaussians: Gaussians, grads: Gaussians, state: OptState, problem: Problem) -> tuple[Gaussians, OptState]:
        with torch.no_grad():
            return self.update(gaussians, problem.views(), state)

    def update(self, gaussians: Gaussians, views: tuple[RenderedViews, ...], state: OptState) -> tuple[Gaussians, OptState]:
        """The step, differentiable in the weights, the latent state and the Gaussians that it adds to; the network reads these detached."""
        if next(self.network.parameters()).device != gaussians.means.device:
            self.network.to(gaussians.means.device)
        tensors = dict(state.tensors)
        tensors["neighbours"] = tensors["neighbours"].clone()
        if state.step % self.config.refresh_every == 0:
            tensors["neighbours"] = refreshed_candidates(gaussians.means, NUM_CANDIDATES)
        k = self.config.neighbours
        neighbours = tensors["neighbours"][:, :k].contiguous()
        exists = neighbours != torch.arange(len(neighbours), device=neighbours.device).unsqueeze(1)
        exists[:, 0] = True  # the Gaussian itself; further entries that are itself mean "none"
        dtype = tensors["latent"].dtype
        flat = to_paper_order(gaussians.flatten())
        params = clamp_columns(torch.nan_to_num(flat.detach()), SCALES, OPACITY, SH).to(dtype)
        delta, latent = self.network(params, tensors["latent"], gaussians.means.detach().to(dtype), views, neighbours, exists)
        moved = clamp_columns(flat + delta.to(flat.dtype), SCALES, OPACITY, SH)
        tensors["latent"] = latent
        return Gaussians.unflatten(from_paper_order(moved)), replace(state, tensors=tensors, step=state.step + 1)

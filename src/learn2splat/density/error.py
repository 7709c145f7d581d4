"""The density control `error`: new Gaussians where the render is wrong.

At each event some train photos are rendered. A pixel is drawn with a probability that grows with the error around it, and gets a Gaussian: at the
depth that several photos agree on where there is one (`initializers.stereo`), else at the rendered depth; with the colour of the photo, round, as
large as the drawn pixels lie apart, nearly transparent. Gaussians that have become invisible are pruned before.

Unlike clone and split, which need hundreds of steps to move copies to where they belong, this puts a Gaussian at its place at once: what a short
run needs (docs/lab.md, 50).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..gaussians.record import SH_C0, SHAPES, Gaussians
from ..initializers import DepthMaps
from ..render import rasterize
from ..scenes import Scene
from .base import DensityControl, Event, Splat, Surroundings

PROBED_PHOTOS = 16  # rendered at an event, ...
RENDERED_AT_ONCE = 4  # ... so many together


@dataclass(frozen=True)
class ErrorConfig:
    """The constants of the control."""

    prune_opacity: float = 0.02  # below it a Gaussian is pruned
    opacity: float = 0.15  # of a new Gaussian
    spread: float = 0.08  # its size, as a share of the distance between drawn pixels
    box: int = 5  # px, side of the window over which errors are averaged
    min_alpha: float = 0.3  # a rendered depth counts where the render covers so much
    power: float = 2.0  # of the error in the probability


class ErrorGrowth(DensityControl):
    """The control of this module. It has no stats."""

    name = "error"

    def __init__(self, config: ErrorConfig | None = None) -> None:
        self.config = config or ErrorConfig()

    @torch.no_grad()
    def event(self, splat: Splat, event: Event, around: Surroundings) -> Splat:
        config = self.config
        splat = splat.select(splat.gaussians.logit_opacities > math.log(config.prune_opacity / (1 - config.prune_opacity)))
        wanted = event.target - len(splat)
        if wanted <= 0:
            return splat
        scene, train = around.scene, list(around.scene.train_idx)
        chosen = [train[i] for i in torch.randperm(len(train), generator=around.generator)[:PROBED_PHOTOS].tolist()]
        probed, maps = [], []
        for batch in _batches(scene, chosen):
            probed += batch
            maps += _probe(scene, splat.gaussians, batch, config, around.depths)
        totals = torch.stack([weights.sum() for weights, _ in maps])
        if not float(totals.sum()) > 0:
            return splat
        bounds = [0, *(wanted * totals.double().cumsum(0) / totals.double().sum()).round().int().tolist()]  # rounded so that they add up
        new = []
        for view, (weights, depth), first, last in zip(probed, maps, bounds, bounds[1:]):
            count = min(last - first, int((weights > 0).sum()))
            if count:
                rows = _drawn(weights.flatten().cpu().double(), count, around.generator)
                new.append(_at_pixels(scene, view, rows.to(depth.device), depth, config))
        if not new:
            return splat
        grown = Gaussians.cat(new)
        return splat.grow(grown, torch.full((len(grown),), -1, dtype=torch.int64, device=grown.means.device), around.rule, around.generator)


def _batches(scene: Scene, views: list[int]) -> list[list[int]]:
    """Photos of one size, at most RENDERED_AT_ONCE together: cheaper than one by one."""
    ordered = sorted(views, key=scene.size)  # stable
    batches: list[list[int]] = []
    for view in ordered:
        if batches and len(batches[-1]) < RENDERED_AT_ONCE and scene.size(batches[-1][0]) == scene.size(view):
            batches[-1].append(view)
        else:
            batches.append([view])
    return batches


def _probe(
    scene: Scene, gaussians: Gaussians, views: list[int], config: ErrorConfig, depths: Callable[[], DepthMaps] | None
) -> list[tuple[Tensor, Tensor]]:
    """Of each of the photos `views`, all of one size: (weights (H, W) of its pixels, depth (H, W) in world units at which a new Gaussian of a
    pixel would be)."""
    like = gaussians.means
    width, height = scene.size(views[0])
    renders, alphas, _ = rasterize(
        gaussians.means, gaussians.quats, gaussians.log_scales.exp(), gaussians.logit_opacities.sigmoid(), gaussians.sh(),
        scene.viewmats[views].to(like), scene.Ks[views].to(like), width, height, sh_degree=3, render_mode="RGB+D",
        backgrounds=scene.background.to(like).expand(len(views), 3), eps2d=scene.eps2d,
    )  # fmt: skip
    maps = []
    for view, render, alpha in zip(views, renders, alphas[..., 0]):
        error = _window_means(_absolute_error(render, scene.images[view].to(like.device)), scene.masks[view] if scene.masks else None, config.box)
        depth = render[..., 3] / alpha.clamp(min=1e-10)
        known = (alpha > config.min_alpha) & (depth > 0)
        if depths is not None:
            confirmed = _confirmed(depths(), view, width, height).to(depth)
            sure = confirmed > 0
            depth, known = torch.where(sure, confirmed, depth), known | sure
        weights = error.pow(config.power) * known
        maps.append((weights if scene.masks is None else weights * scene.masks[view].to(weights), depth))
    return maps


def _absolute_error(render: Tensor, photo: Tensor) -> Tensor:
    """(H, W) mean over the colours of a photo of uint8. Channel by channel: three times as fast on a CPU as a mean over the short last dimension."""
    differences = torch.sub(render[..., :3], photo, alpha=1 / 255).abs_()
    return (differences[..., 0] + differences[..., 1] + differences[..., 2]) / 3


def _window_means(error: Tensor, mask: Tensor | None, side: int) -> Tensor:
    """(H, W) means over windows of `side` px, the border repeated; masked pixels count as 0. Shifted images: thrice as fast as pooling."""
    if mask is not None:
        error = error * mask.to(error)
    height, width = error.shape
    padded = F.pad(error[None, None], (side // 2,) * 4, mode="replicate")[0, 0]
    rows = sum(padded[:, k : k + width] for k in range(side))
    return sum(rows[k : k + height] for k in range(side)) / side**2


def _drawn(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count,) different positions, drawn one after the other by the weights (P,) of those that are left: `torch.multinomial`, several times as fast.

    Drawing from all of them and passing over what has been drawn before has the same probabilities. What is still wanted after twice as many draws,
    torch draws from the rest.
    """
    bounds = weights.cumsum(0)
    at = torch.searchsorted(bounds, torch.rand(2 * count, generator=generator, dtype=bounds.dtype) * bounds[-1], right=True)
    at = at[at < len(weights)]  # beyond: by rounding
    values, inverse = at.unique(return_inverse=True)
    first = torch.full((len(values),), len(at)).scatter_reduce_(0, inverse, torch.arange(len(at)), "amin")
    drawn = at[first.sort().values[:count]]
    if len(drawn) == count:
        return drawn
    rest = weights.index_fill(0, drawn, 0.0)
    return torch.cat([drawn, torch.multinomial(rest, count - len(drawn), generator=generator)])


def _confirmed(maps: DepthMaps, view: int, width: int, height: int) -> Tensor:
    """(height, width) the depth of photo `view` where another photo confirms it, else 0; of the nearest pixel of the map."""
    i = maps.idx.index(view)
    depth = torch.where(maps.confirmed[i], maps.depths[i], 0.0)
    return F.interpolate(depth[None, None], size=(height, width), mode="nearest-exact")[0, 0]


def _at_pixels(scene: Scene, view: int, rows: Tensor, depth: Tensor, config: ErrorConfig) -> Gaussians:
    """New Gaussians at the pixels `rows` (positions in the flattened photo) of photo `view`."""
    like = depth
    width, height = scene.size(view)
    x, y = (rows % width).to(like.dtype) + 0.5, (rows // width).to(like.dtype) + 0.5
    K, camtoworld = scene.Ks[view].to(like), scene.camtoworlds[view].to(like)
    z = depth.flatten()[rows]
    in_camera = torch.stack([(x - K[0, 2]) / K[0, 0] * z, (y - K[1, 2]) / K[1, 1] * z, z], dim=1)
    n = len(rows)
    size = config.spread * math.sqrt(width * height / n)  # px
    color = scene.images[view].to(like.device).view(-1, 3)[rows].to(like) / 255
    return Gaussians(
        means=in_camera @ camtoworld[:3, :3].T + camtoworld[:3, 3],
        quats=like.new_tensor([1.0, 0.0, 0.0, 0.0]).repeat(n, 1),
        log_scales=torch.log(size * z / K[0, 0]).unsqueeze(1).repeat(1, 3),
        logit_opacities=like.new_full((n,), math.log(config.opacity / (1 - config.opacity))),
        sh0=((color - 0.5) / SH_C0).unsqueeze(1),
        shN=like.new_zeros(n, *SHAPES["shN"]),
    )

"""Where a run starts: Gaussians from SfM points (docs/method.md section 5), or at random in front of the cameras."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import OptionError, SceneError, ShapeError
from ..scenes.scene import Scene
from ._knn import knn
from .record import SH_C0, SHAPES, Gaussians

INITIAL_OPACITY = 0.1
SCALE_NEIGHBOURS = 3  # The scale is the root mean square distance to this many others.
# Points that coincide would get scale 0, whose log is -inf: never below this share of the median scale ...
MIN_SHARE_OF_MEDIAN = 0.01
FALLBACK_SCALE = 0.01  # ... and where there is no positive distance at all (one point), this: world units, the subject is about 1 away.
RANDOM_DEPTHS = (0.3, 3.0)  # World units; the median depth of a normalised scene is 1.


def init_from_points(points: Tensor, colors: Tensor, *, max_points: int | None = None, generator: torch.Generator | None = None) -> Gaussians:
    """One isotropic Gaussian per point: opacity 0.1, scale from the 3 nearest neighbours, no rotation, SH of degree 0 from the colour.

    Args:
        points: (P, 3) world units.
        colors: (P, 3) uint8 sRGB, or floating in [0, 1].
        max_points: use at most this many, drawn at random without replacement (their order is kept).
        generator: draws them; needed only if P is above `max_points`.

    Raises:
        SceneError: there are no points, or some are not finite.
        ShapeError: `points` or `colors` have other shapes.
        OptionError: `max_points` < 1, or it needs a generator and there is none.
    """
    if points.ndim != 2 or points.shape[1] != 3 or colors.shape != points.shape:
        raise ShapeError(f"points and colors must both have shape (P, 3), got {tuple(points.shape)} and {tuple(colors.shape)}")
    if len(points) == 0:
        raise SceneError("the scene has no points to start from: add --init feedforward (what the photos show), --init random or --init FILE.ply")
    broken = int((~torch.isfinite(points)).any(1).sum())
    if broken:
        raise SceneError(f"{broken} of {len(points)} points of the scene are not finite: remove them from its point cloud")
    if max_points is not None and max_points < 1:
        raise OptionError(f"max_points must be at least 1, got {max_points}")
    if max_points is not None and len(points) > max_points:
        if generator is None:
            raise OptionError("max_points draws points at random: pass a torch.Generator")
        chosen = torch.randperm(len(points), generator=generator)[:max_points].sort().values
        points, colors = points[chosen], colors[chosen]
    rgb = colors.to(points.dtype) / 255 if colors.dtype == torch.uint8 else colors.to(points.dtype)
    return _isotropic(points, rgb, initial_scales(points))


def init_random(scene: Scene, count: int, *, generator: torch.Generator) -> Gaussians:
    """`count` Gaussians of random colours in front of random training cameras of `scene`.

    A random pixel of a random camera, at a depth drawn log-uniformly from 0.3 to 3 world units: dense where many cameras look, for cameras around
    an object and for cameras side by side alike (a box around the cameras would be empty in front of the latter).

    Raises:
        OptionError: `count` < 1.
    """
    if count < 1:
        raise OptionError(f"random initialisation needs the number of Gaussians, at least 1, got {count}: pass --max-points 5000")
    train = torch.tensor(scene.train_idx)
    camera = train[torch.randint(len(train), (count,), generator=generator)]
    sizes = torch.tensor([scene.size(i) for i in range(len(scene))], dtype=torch.float32)[camera]
    pixels = torch.rand(count, 2, generator=generator) * sizes
    near, far = RANDOM_DEPTHS
    depths = near * (far / near) ** torch.rand(count, 1, generator=generator)
    Ks = scene.Ks[camera]
    rays = (pixels - Ks[:, :2, 2]) / torch.stack([Ks[:, 0, 0], Ks[:, 1, 1]], dim=1)
    in_camera = torch.cat([rays, torch.ones(count, 1)], dim=1) * depths
    camtoworlds = scene.camtoworlds[camera]
    means = torch.einsum("nij,nj->ni", camtoworlds[:, :3, :3], in_camera) + camtoworlds[:, :3, 3]
    return _isotropic(means, torch.rand(count, 3, generator=generator), initial_scales(means))


def initial_scales(points: Tensor) -> Tensor:
    """Root mean square distance (P,) to the 3 nearest other points (to fewer where fewer exist); positive also where points coincide."""
    others = min(SCALE_NEIGHBOURS, len(points) - 1)
    if others < 1:
        return torch.full_like(points[:, 0], FALLBACK_SCALE)
    _, distances = knn(points, others + 1)
    scales = distances[:, 1:].square().mean(1).sqrt()
    positive = scales[scales > 0]
    floor = MIN_SHARE_OF_MEDIAN * float(positive.median()) if len(positive) else FALLBACK_SCALE
    return scales.clamp_min(floor)


def _isotropic(means: Tensor, rgb: Tensor, scales: Tensor) -> Gaussians:
    """Round Gaussians of one opacity; `rgb` (N, 3) in [0, 1], `scales` (N,) world units."""
    n = len(means)
    return Gaussians(
        means=means.detach().clone(),
        quats=means.new_tensor([1.0, 0.0, 0.0, 0.0]).repeat(n, 1),
        log_scales=scales.log().unsqueeze(1).repeat(1, 3),
        logit_opacities=means.new_full((n,), math.log(INITIAL_OPACITY / (1 - INITIAL_OPACITY))),
        sh0=((rgb - 0.5) / SH_C0).unsqueeze(1),
        shN=means.new_zeros(n, *SHAPES["shN"]),
    )

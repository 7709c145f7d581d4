"""Which photos a photo is compared with, and between which depths: both follow from points that the photo sees.

The points are the scene's. A photo that sees too few of them gets stand-ins on its own rays, at depths where other cameras see them under an angle
worth measuring: only ratios of distances between cameras decide, so nothing depends on the unit of length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BEST_ANGLE = 5.0  # Degrees between two rays to a point: enough parallax to measure its depth, and the point still looks the same.
ANGLE_BELOW, ANGLE_ABOVE = 3.0, 10.0  # Standard deviations of the weight on either side of it.
LOG_DISTANCE = 0.2  # The same of the logarithm of how much farther from the point the neighbour is: its details are as large as the photo's.
TURN = 20.0  # The same of the angle between the optical axes, degrees: photos that look elsewhere share points by their frustums only.
MIN_ANGLE = 0.5  # Degrees: closer photos tell nothing.
MIN_POINTS = 16  # A photo that sees fewer gets stand-ins.
MIN_OVERLAP = 0.1  # Share of a photo's points that a neighbour must see.
MAX_POINTS = 512
QUANTILE = 0.02  # Outliers among SfM points: depths are searched between this quantile and its counterpart ...
MARGIN = 1.25  # ... widened by this factor on both sides.
RAYS = 5  # Stand-ins lie on RAYS x RAYS rays of the photo,
STAND_IN_DEPTHS = 48  # at so many depths, spaced logarithmically
STAND_IN_RANGE = (0.3, 300.0)  # between these multiples of the distance to the nearest other camera.


@dataclass(frozen=True)
class Surroundings:
    """Of M photos: `neighbours` (M, n) int32 positions, best first, -1 from where there are no more; `near`, `far` (M,) world units."""

    neighbours: Tensor
    near: Tensor
    far: Tensor


def surroundings(viewmats: Tensor, Ks: Tensor, sizes: Tensor, points: Tensor, count: int) -> Surroundings:
    """
    Args:
        viewmats: (M, 4, 4) float64.
        Ks: (M, 3, 3) float64 px.
        sizes: (M, 2) width, height in px.
        points: (P, 3) world units.
        count: neighbours wanted.
    """
    centres = -(viewmats[:, :3, :3].mT @ viewmats[:, :3, 3:])[:, :, 0]
    points = points[torch.linspace(0, len(points) - 1, min(len(points), 8 * MAX_POINTS)).long()].double() if len(points) else points.double()
    seen = _inside(viewmats, Ks, sizes, points)
    neighbours = torch.full((len(viewmats), count), -1, dtype=torch.int32)
    near, far = torch.ones(2, len(viewmats), dtype=torch.float64)
    for i in range(len(viewmats)):
        mine = points[seen[i]]
        mine = mine[torch.linspace(0, len(mine) - 1, min(len(mine), MAX_POINTS)).long()]
        if len(mine) < MIN_POINTS:
            mine = _stand_ins(i, viewmats, Ks, sizes, centres)
            if len(mine) == 0:
                continue
        depths = mine @ viewmats[i, 2, :3] + viewmats[i, 2, 3]
        near[i] = depths.quantile(QUANTILE) / MARGIN
        far[i] = depths.quantile(1 - QUANTILE) * MARGIN
        shared = _inside(viewmats, Ks, sizes, mine)
        angles, distances = _angles(centres, i, mine), (mine - centres[:, None]).norm(dim=2)
        turns = (viewmats[:, 2, :3] @ viewmats[i, 2, :3]).clamp(-1, 1).acos().rad2deg()
        angle_spread = torch.where(angles < BEST_ANGLE, ANGLE_BELOW, ANGLE_ABOVE)
        unlike = ((angles - BEST_ANGLE) / angle_spread).square() + ((distances / distances[i]).log() / LOG_DISTANCE).square()
        unlike += (turns / TURN).square()[:, None]
        score = ((-0.5 * unlike).exp() * shared).sum(1)
        usable = (shared.double().mean(1) >= MIN_OVERLAP) & ((angles >= MIN_ANGLE) & shared).any(1)
        usable[i] = False
        order = torch.where(usable, score, -1.0).argsort(descending=True, stable=True)[: min(count, int(usable.sum()))]
        neighbours[i, : len(order)] = order.int()
    return Surroundings(neighbours, near, far)


def _inside(viewmats: Tensor, Ks: Tensor, sizes: Tensor, points: Tensor) -> Tensor:
    """(M, P) bool: which points lie in front of a camera and inside of its photo."""
    p_cam = points @ viewmats[:, :3, :3].mT + viewmats[:, None, :3, 3]
    z = p_cam[..., 2:]
    uv = (p_cam @ Ks.mT)[..., :2]
    return (z[..., 0] > 0) & ((uv >= 0) & (uv < z * sizes[:, None])).all(2)


def _angles(centres: Tensor, i: int, points: Tensor) -> Tensor:
    """(M, P) degrees between the rays of camera i and of every camera to each point."""
    rays = torch.nn.functional.normalize(points - centres[:, None], dim=2)
    return (rays * rays[i]).sum(2).clamp(-1, 1).acos().rad2deg()


def _stand_ins(i: int, viewmats: Tensor, Ks: Tensor, sizes: Tensor, centres: Tensor) -> Tensor:
    """Points on rays of photo i that another camera sees under an angle that tells their depth; none where the cameras share nothing."""
    distances = (centres - centres[i]).norm(dim=1)
    apart = distances[distances > 1e-9 * distances.max()]
    if len(apart) == 0:
        return centres[:0]
    steps = (torch.arange(RAYS, dtype=torch.float64) + 0.5) / RAYS
    pixels = torch.cartesian_prod(steps, steps) * sizes[i]
    rays = torch.cat([pixels, torch.ones(len(pixels), 1)], 1) @ torch.linalg.inv(Ks[i]).mT
    low, high = STAND_IN_RANGE
    depths = apart.min() * low * (high / low) ** torch.linspace(0, 1, STAND_IN_DEPTHS, dtype=torch.float64)
    p_cam = (rays[:, None] * depths[:, None]).reshape(-1, 3)
    points = (p_cam - viewmats[i, :3, 3]) @ viewmats[i, :3, :3]
    angles = _angles(centres, i, points)
    seen = _inside(viewmats, Ks, sizes, points) & (angles >= MIN_ANGLE) & (angles <= BEST_ANGLE + 2 * ANGLE_ABOVE)
    seen[i] = False
    return points[seen.any(0)]

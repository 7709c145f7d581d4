"""How far apart the views of a run are: what a rule may know about how new a photo from elsewhere will be to it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_POINTS = 512  # Evenly spaced ones stand for all; so do as many views as the next number.
MAX_VIEWS = 64


def view_angle(camtoworlds: Tensor, Ks: Tensor, sizes: Sequence[tuple[int, int]], points: Tensor) -> float | None:
    """Median angle in degrees, over views and the points they see, between the ray to a view and that to the nearest other view that sees the point.

    180 where most points are seen once. It depends neither on the unit of length nor on the frame.

    Args:
        camtoworlds: (M, 4, 4) poses, OpenCV axes.
        Ks: (M, 3, 3) px.
        sizes: (width, height) of each view in px.
        points: (P, 3), in the frame of the poses.

    Returns:
        None where no view sees a point.
    """
    points = points[_evenly(len(points), MAX_POINTS)].double()
    camtoworlds = camtoworlds.double()
    seen = seen_points(camtoworlds, Ks, sizes, points)
    rays = F.normalize(points - camtoworlds[:, None, :3, 3], dim=2)  # (M, P, 3)
    angles = []
    for view in _evenly(len(rays), MAX_VIEWS).tolist():
        mine = seen[view]
        cosines = (rays[:, mine] * rays[view, mine]).sum(2)  # (M, points seen)
        others = seen[:, mine]
        others[view] = False
        angles.append(cosines.masked_fill(~others, -1.0).amax(0).clamp(-1.0, 1.0).acos())
    every = torch.cat(angles) if angles else points.new_zeros(0)
    return float(every.median().rad2deg()) if len(every) else None


def seen_points(camtoworlds: Tensor, Ks: Tensor, sizes: Sequence[tuple[int, int]], points: Tensor) -> Tensor:
    """(M, P) bool: which points lie in front of a view and inside of its photo; nothing hides them. Arguments as those of `view_angle`."""
    camtoworlds, Ks, points = camtoworlds.double(), Ks.double(), points.double()
    p_cam = (points - camtoworlds[:, None, :3, 3]) @ camtoworlds[:, :3, :3]
    uv = (p_cam @ Ks.mT)[..., :2] / p_cam[..., 2:].clamp_min(1e-9)
    inside = (uv >= 0) & (uv < torch.tensor(sizes, dtype=torch.float64).view(-1, 1, 2))
    return (p_cam[..., 2] > 1e-6) & inside.all(2)


def _evenly(count: int, most: int) -> Tensor:
    """At most `most` positions below `count`, evenly spaced."""
    return torch.linspace(0, count - 1, min(count, most)).long()

"""The k nearest neighbours of every Gaussian, by a kd-tree (scipy.spatial.cKDTree) on the CPU."""

from __future__ import annotations

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from ..errors import OptionError, ShapeError


def knn(means: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Nearest neighbours in Euclidean distance; every point counts as its own nearest neighbour.

    Args:
        means: (N, 3) world units, any floating type; gradients are not tracked.
        k: neighbours per point, the point itself included.

    Returns:
        indices (N, k) int64, nearest first, column 0 = the point itself (also where points coincide);
        distances (N, k) world units, of the type of `means`, not decreasing along a row.
        Where fewer than k points exist, the last columns hold the point itself at distance 0: use `min(k, N)` columns.

    Raises:
        ShapeError: `means` is not (N, 3), or holds NaN or infinities.
        OptionError: k < 1.
    """
    if means.ndim != 2 or means.shape[1] != 3:
        raise ShapeError(f"means must have shape (N, 3), got {tuple(means.shape)}")
    if k < 1:
        raise OptionError(f"k must be at least 1 (the point itself), got {k}")
    points = means.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(points).all()):
        raise ShapeError(f"means must be finite, {int((~torch.isfinite(points)).any(1).sum())} of {len(points)} are not: the run has diverged")
    n, found = len(points), min(k, len(points))
    own = torch.arange(n).unsqueeze(1)
    indices, distances = own.repeat(1, k), torch.zeros(n, k, dtype=torch.float64)
    if n > 0:
        # The result does not depend on the number of workers.
        found_distances, found_indices = cKDTree(points.numpy()).query(points.numpy(), k=range(1, found + 1), workers=torch.get_num_threads())
        indices[:, :found], distances[:, :found] = torch.from_numpy(found_indices), torch.from_numpy(found_distances)
        _put_self_first(indices[:, :found])
    return indices.to(means.device), distances.to(means)


def _put_self_first(indices: Tensor) -> None:
    """Where points coincide, the tree may name a twin (at the same distance 0) first: swap in place, or overwrite if the row lacks itself."""
    own = torch.arange(len(indices))
    rows = torch.nonzero(indices[:, 0] != own).squeeze(1)
    if len(rows) == 0:
        return
    is_self = indices[rows] == rows.unsqueeze(1)
    column = is_self.to(torch.uint8).argmax(1)  # 0 where absent: then column 0 is overwritten below
    indices[rows, column] = indices[rows, 0]
    indices[rows, 0] = rows

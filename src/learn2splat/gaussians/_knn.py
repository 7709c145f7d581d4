"""The k nearest neighbours of every Gaussian, by a kd-tree on the CPU (native/knn.hpp)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import OptionError, ShapeError
from ..threads import num_threads


def knn(means: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Nearest neighbours in Euclidean distance; every point counts as its own nearest neighbour.

    Exact, but where several are equally far, any of them may be left out. The same result for any number of threads.

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
    from .. import _native

    if means.ndim != 2 or means.shape[1] != 3:
        raise ShapeError(f"means must have shape (N, 3), got {tuple(means.shape)}")
    if k < 1:
        raise OptionError(f"k must be at least 1 (the point itself), got {k}")
    points = means.detach().to("cpu", torch.float64 if means.dtype == torch.float64 else torch.float32).contiguous()
    finite = torch.isfinite(points)
    if not bool(finite.all()):
        raise ShapeError(f"means must be finite, {int((~finite).any(1).sum())} of {len(points)} are not: the run has diverged")
    found = min(k, len(points))
    indices, distances = torch.empty(len(points), found, dtype=torch.int64), points.new_empty(len(points), found)
    search = _native.knn_f64 if points.dtype == torch.float64 else _native.knn_f32
    search(points.numpy(), num_threads(), indices.numpy(), distances.numpy())
    if found < k:
        own = torch.arange(len(points)).unsqueeze(1).expand(-1, k - found)
        indices, distances = torch.cat([indices, own], 1), torch.nn.functional.pad(distances, (0, k - found))
    return indices.to(means.device), distances.to(means)

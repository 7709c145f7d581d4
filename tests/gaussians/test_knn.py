"""Nearest neighbours against brute force, and the conventions callers rely on where points coincide or are few."""

from __future__ import annotations

import pytest
import torch

from learn2splat.errors import OptionError, ShapeError
from learn2splat.gaussians import knn


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 4, 9])
def test_against_brute_force(k, dtype):
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(k), dtype=dtype)
    indices, distances = knn(points, k)
    expected = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist").topk(k, largest=False)
    assert indices.dtype == torch.int64 and distances.dtype == dtype
    assert torch.equal(indices, expected.indices)
    torch.testing.assert_close(distances.double(), expected.values, rtol=1e-6, atol=0)  # rounding to float32


def test_every_point_is_its_own_first_neighbour_even_among_twins():
    points = torch.cat([torch.zeros(30, 3), torch.ones(2, 3), torch.randn(20, 3)])
    indices, distances = knn(points, 5)
    assert torch.equal(indices[:, 0], torch.arange(52)) and (distances[:, 0] == 0).all()
    assert (distances[:30] == 0).all() and (indices[:30] < 30).all()
    assert torch.equal(indices[30:32, :2], torch.tensor([[30, 31], [31, 30]]))
    assert all(len(set(row.tolist())) == 5 for row in indices)


def test_fewer_points_than_neighbours():
    indices, distances = knn(torch.tensor([[0.0, 0, 0], [3.0, 4, 0]]), 4)
    assert indices.tolist() == [[0, 1, 0, 0], [1, 0, 1, 1]]
    assert distances.tolist() == [[0, 5, 0, 0], [0, 5, 0, 0]]
    assert knn(torch.zeros(0, 3), 2)[0].shape == (0, 2)


def test_errors():
    with pytest.raises(ShapeError, match=r"\(N, 3\)"):
        knn(torch.zeros(4, 2), 2)
    with pytest.raises(ShapeError, match="1 of 4 are not"):
        knn(torch.tensor([[0.0, 0, 0], [1, 1, 1], [2, torch.nan, torch.nan], [3, 3, 3]]), 2)
    with pytest.raises(OptionError, match="at least 1"):
        knn(torch.zeros(4, 3), 0)

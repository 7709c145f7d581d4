"""Nearest neighbours against brute force and scipy's kd-tree, and the conventions callers rely on where points coincide or are few."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from instruction_sets import LOWER, results_of_lower
from scipy.spatial import cKDTree

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


def same_as_kdtree(points, k):
    """Distances are those of scipy's kd-tree in float64, and each index is a different point at the distance that is said."""
    indices, distances = knn(points, k)
    exact = points.double().numpy()
    found = min(k, len(points))
    expected = cKDTree(exact).query(exact, k=range(1, found + 1))[0]
    rounding = 4e-7 if points.dtype == torch.float32 else 1e-14
    assert np.allclose(distances[:, :found].double().numpy(), expected, rtol=rounding, atol=0)
    assert (distances.diff(dim=1)[:, : found - 1] >= 0).all()
    assert torch.equal(indices[:, 0], torch.arange(len(points)))
    there = np.linalg.norm(exact[:, None] - exact[indices[:, :found].numpy()], axis=2)
    assert np.allclose(there, expected, rtol=rounding, atol=0)
    assert all(len(set(row)) == found for row in indices[:, :found].tolist())


@st.composite
def clouds(draw):
    """Clusters of very different sizes, lines, grids full of ties, points that coincide, far outliers; in either type, in any unit of length."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.sampled_from([1, 2, 15, 16, 17, 33, 200, 700]))
    parts = [
        rng.standard_normal((n, 3)),
        rng.standard_normal((n, 3)) * 1e-4 + 5,
        rng.standard_normal((n, 1)) * [[1.0, 0.0, 0.0]],
        rng.integers(0, 4, (n, 3)).astype(float),
        np.repeat(rng.standard_normal((1, 3)), n, 0),
        rng.standard_normal((n, 3)) * 10 ** rng.uniform(-3, 6, (n, 1)),
    ]
    chosen = draw(st.lists(st.sampled_from(range(len(parts))), min_size=1, max_size=3))
    points = rng.permutation(np.concatenate([parts[i] for i in chosen])) * draw(st.sampled_from([1.0, 1e-25, 1e25]))
    return torch.from_numpy(points).to(draw(st.sampled_from([torch.float32, torch.float64])))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(clouds(), st.sampled_from([1, 2, 9, 13, 40]))
def test_against_scipy(points, k):
    same_as_kdtree(points, k)


def test_many_points_against_scipy():
    points = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1.0, 0.05])
    same_as_kdtree(points, 9)


def test_points_that_coincide_are_not_quadratic():
    points = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0))
    seconds = []
    for same in (0, 19_000):
        cloud = points.clone()
        cloud[:same] = 0
        start = time.process_time()
        knn(cloud, 9)
        seconds.append(time.process_time() - start)
    assert seconds[1] < 3 * seconds[0] + 0.02


def test_bits_do_not_depend_on_the_thread_count(monkeypatch):
    points = torch.randn(30_000, 3, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    results = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("LEARN2SPLAT_NUM_THREADS", threads)
        results.append(knn(points, 9))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))


def found_by_lower():
    points = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    results = {dtype: knn(points.to(dtype), 9) for dtype in (torch.float32, torch.float64)}
    return {f"{name}{dtype}": value for dtype, found in results.items() for name, value in zip(("indices", "distances"), found)}


@pytest.mark.parametrize("isa", LOWER)
def test_instruction_sets_agree(isa, tmp_path):
    there = results_of_lower(isa, "test_knn", "found_by_lower", tmp_path)
    for name, here in found_by_lower().items():
        assert torch.allclose(here.double(), there[name].double(), rtol=4e-7)

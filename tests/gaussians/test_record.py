"""The Gaussians record: shapes at the border, selection, concatenation, the flat layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_gaussians import random_gaussians, same_bits

from learn2splat.errors import ShapeError
from learn2splat.gaussians import COLUMNS, FIELDS, Gaussians


@pytest.mark.parametrize("name", FIELDS)
def test_wrong_shape_names_the_field(name):
    fields = random_gaussians(5).tensors()
    fields[name] = fields[name][:4] if name != "means" else fields[name][:, :2]
    with pytest.raises(ShapeError, match=f"{name} must have shape"):
        Gaussians(**fields)


def test_lower_sh_degrees_are_refused():
    fields = random_gaussians(5).tensors()
    fields["shN"] = fields["shN"][:, :8]
    with pytest.raises(ShapeError, match=r"shN must have shape \(N, 15, 3\) with N = 5 \(from means\), got \(5, 8, 3\)"):
        Gaussians(**fields)


def test_one_dtype_for_all():
    fields = random_gaussians(5).tensors()
    fields["quats"] = fields["quats"].double()
    with pytest.raises(ShapeError, match="quats is torch"):
        Gaussians(**fields)
    with pytest.raises(ShapeError, match="floating"):
        random_gaussians(5).map(torch.Tensor.long)


def test_flat_layout_is_the_documented_one():
    g = random_gaussians(7)
    flat = g.flatten()
    assert flat.shape == (7, 59)
    assert torch.equal(flat[:, :3], g.means) and torch.equal(flat[:, 3:7], g.quats) and torch.equal(flat[:, 7:10], g.log_scales)
    assert torch.equal(flat[:, 10], g.logit_opacities) and torch.equal(flat[:, 11:14], g.sh0[:, 0])
    for k in range(15):  # coefficient-major, RGB fastest
        assert torch.equal(flat[:, 14 + 3 * k : 17 + 3 * k], g.shN[:, k])
    assert [COLUMNS[name] for name in FIELDS] == [slice(0, 3), slice(3, 7), slice(7, 10), slice(10, 11), slice(11, 14), slice(14, 59)]


@given(n=st.integers(0, 9), seed=st.integers(0, 99))
def test_flatten_round_trip(n, seed):
    g = random_gaussians(n, seed)
    back = Gaussians.unflatten(g.flatten())
    assert same_bits(g, back) and all(tensor.is_contiguous() for tensor in back.tensors().values())


def test_flatten_carries_gradients():
    g = random_gaussians(4).requires_grad_()
    (Gaussians.unflatten(g.flatten()).sh() * 3).sum().backward()
    assert torch.equal(g.shN.grad, torch.full((4, 15, 3), 3.0)) and torch.equal(g.means.grad, torch.zeros(4, 3))


@given(n=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_permutation_and_its_inverse_change_nothing(n, seed):
    g = random_gaussians(n, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert same_bits(g[order][order.argsort()], g)


def test_selection_by_mask_slice_and_position():
    g = random_gaussians(6)
    mask = torch.tensor([True, False, True, False, False, True])
    assert same_bits(g[mask], g[torch.tensor([0, 2, 5])])
    assert same_bits(Gaussians.cat([g[:2], g[2:]]), g)
    assert same_bits(g[3], g[3:4]) and same_bits(g[-1], g[5:])
    assert same_bits(g[np.int64(4)], g[4:5]) and same_bits(g[torch.tensor(-2)], g[4:5]) and same_bits(g[[1, 0]], g[torch.tensor([1, 0])])
    assert len(g[torch.tensor([False] * 6)]) == 0 and len(g[:1][torch.tensor([False])]) == 0


@pytest.mark.parametrize("position", [6, 99, -7, np.int64(6)])
def test_there_is_nothing_out_of_range(position):
    with pytest.raises(IndexError, match="there are 6 Gaussians, none at position"):
        random_gaussians(6)[position]


def test_iteration_ends():
    g = random_gaussians(3)
    assert same_bits(Gaussians.cat(list(g)), g) and len(list(zip(g, g))) == 3 and list(g[:0]) == []


def test_records_are_equal_only_to_themselves():
    g = random_gaussians(3)
    assert g == g and g != g.clone() and len({g, g, g.clone()}) == 2


def test_maps_and_flags():
    g = random_gaussians(3)
    doubled = g.zip_map(torch.add, g)
    assert same_bits(doubled, g.map(lambda tensor: 2 * tensor))
    assert g.to(torch.float64).means.dtype == torch.float64
    copy = g.clone().requires_grad_()
    assert copy.shN.requires_grad and not copy.detach().shN.requires_grad and not g.shN.requires_grad
    assert g.sh().shape == (3, 16, 3) and torch.equal(g.sh()[:, :1], g.sh0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_is_finite_sees_one_bad_number(bad):
    g = random_gaussians(3)
    assert g.is_finite()
    g.shN[2, 14, 2] = bad
    assert not g.is_finite()


def test_numbers_whose_sum_overflows_are_finite():
    g = random_gaussians(4)
    g.means[:] = 3e38
    assert g.is_finite()
    g.means[0, 0], g.means[1, 0] = torch.inf, -torch.inf
    assert not g.is_finite()

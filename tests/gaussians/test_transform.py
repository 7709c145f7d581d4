"""Similarity transforms: SH against gsplat's basis, covariances and colours against what they should look like in the new frame."""

from __future__ import annotations

import math

import pytest
import torch
from gsplat.cuda._torch_impl import _eval_sh_bases_fast, _quat_scale_to_covar_preci
from random_gaussians import random_gaussians, same_bits
from scipy.spatial.transform import Rotation

from learn2splat.gaussians import sh_basis, sh_rotation, transform_gaussians
from learn2splat.scenes import Similarity


def directions(count: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def similarity(seed: int, scale: float = 2.5) -> Similarity:
    rotation = torch.from_numpy(Rotation.random(random_state=seed).as_matrix())
    return Similarity(scale, rotation, torch.tensor([0.3, -2.0, 5.0], dtype=torch.float64))


def test_basis_is_that_of_gsplat():
    d = directions(200)
    torch.testing.assert_close(sh_basis(d), _eval_sh_bases_fast(16, d), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("seed", range(3))
def test_rotation_matrix_turns_the_basis(seed):
    rotation, d = similarity(seed).rotation, directions(200, seed)
    D = sh_rotation(rotation)
    torch.testing.assert_close(_eval_sh_bases_fast(16, d @ rotation.T), _eval_sh_bases_fast(16, d) @ D.T, rtol=0, atol=1e-13)
    torch.testing.assert_close(D @ D.T, torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_colours_turn_along(seed):
    """Every Gaussian shows the same colour from the turned direction, every degree by itself."""
    g, s, d = random_gaussians(20, seed, torch.float64), similarity(seed), directions(50, seed + 10)
    turned = transform_gaussians(g, s)
    for part in (slice(0, 1), slice(1, 4), slice(4, 9), slice(9, 16)):
        before = torch.einsum("dk,nkc->ndc", _eval_sh_bases_fast(16, d)[:, part], g.sh()[:, part])
        after = torch.einsum("dk,nkc->ndc", _eval_sh_bases_fast(16, d @ s.rotation.T)[:, part], turned.sh()[:, part])
        torch.testing.assert_close(after, before, rtol=0, atol=1e-13)
    assert (turned.shN - g.shN).abs().max() > 0.01  # the test would see a transform that forgets SH


@pytest.mark.parametrize("seed", range(3))
def test_means_and_covariances(seed):
    g, s = random_gaussians(20, seed, torch.float64), similarity(seed)
    g.quats *= torch.rand(20, 1, dtype=torch.float64) + 0.5  # any length
    turned = transform_gaussians(g, s)
    torch.testing.assert_close(turned.means, s.scale * g.means @ s.rotation.T + s.translation)
    covars, _ = _quat_scale_to_covar_preci(g.quats, g.log_scales.exp(), compute_preci=False)
    turned_covars, _ = _quat_scale_to_covar_preci(turned.quats, turned.log_scales.exp(), compute_preci=False)
    torch.testing.assert_close(turned_covars, s.scale**2 * s.rotation @ covars @ s.rotation.T, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(turned.quats.norm(dim=1), g.quats.norm(dim=1))
    assert torch.equal(turned.logit_opacities, g.logit_opacities)


def test_there_and_back_and_identity():
    g, s = random_gaussians(30), similarity(4)
    back = transform_gaussians(transform_gaussians(g, s), s.inverse())
    sign = (g.quats * back.quats).sum(1, keepdim=True).sign()  # q and -q are the same rotation
    back.quats *= sign
    for a, b in zip(g.tensors().values(), back.tensors().values()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=5e-6)  # float32 rounding of means of size 10
    same = transform_gaussians(g, Similarity.identity())
    assert same_bits(same, g) and all(a.data_ptr() != b.data_ptr() for a, b in zip(same.tensors().values(), g.tensors().values()))


def test_scale_alone_keeps_orientation_and_colours():
    g = random_gaussians(5)
    s = Similarity(0.5, torch.eye(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    scaled = transform_gaussians(g, s)
    assert torch.equal(scaled.quats, g.quats) and torch.equal(scaled.shN, g.shN)
    torch.testing.assert_close(scaled.log_scales, g.log_scales - math.log(2))
    assert scaled.means.dtype == torch.float32 and scaled.log_scales.dtype == torch.float32

"""Initialisation against brute-force distances and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from learn2splat.errors import OptionError, SceneError, ShapeError
from learn2splat.gaussians import init_from_points, init_random
from learn2splat.scenes import Scene, Similarity


def cloud(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=g), torch.randint(0, 256, (count, 3), generator=g, dtype=torch.uint8)


def test_scales_are_the_root_mean_square_distance_to_three_neighbours():
    points, colors = cloud(100)
    g = init_from_points(points, colors)
    nearest = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist").sort(dim=1).values[:, 1:4]
    expected = nearest.square().mean(1).sqrt().log().float()
    torch.testing.assert_close(g.log_scales, expected[:, None].expand(-1, 3), rtol=1e-5, atol=1e-6)


def test_the_other_fields():
    points, colors = cloud(20)
    g = init_from_points(points, colors)
    assert torch.equal(g.means, points) and g.means.data_ptr() != points.data_ptr()
    assert torch.equal(g.quats, torch.tensor([[1.0, 0, 0, 0]]).repeat(20, 1))
    torch.testing.assert_close(torch.sigmoid(g.logit_opacities), torch.full((20,), 0.1))
    Y0 = 1 / (2 * math.sqrt(math.pi))  # the SH basis function of degree 0
    torch.testing.assert_close(0.5 + Y0 * g.sh0[:, 0], colors.float() / 255, rtol=0, atol=1e-6)
    assert (g.shN == 0).all()


def test_coinciding_points_stay_finite():
    points, colors = cloud(30)
    points[:10] = points[0]
    scales = init_from_points(points, colors).log_scales.exp()
    assert torch.isfinite(scales.log()).all() and (scales[:10] < scales[10:].min()).all()
    assert init_from_points(points[:10], colors[:10]).is_finite()  # nothing but twins
    assert init_from_points(points[:1], colors[:1]).is_finite()  # a single point


def test_two_points_use_the_one_neighbour_there_is():
    g = init_from_points(torch.tensor([[0.0, 0, 0], [3.0, 4, 0]]), torch.zeros(2, 3, dtype=torch.uint8))
    torch.testing.assert_close(g.log_scales, torch.full((2, 3), math.log(5)))


def test_max_points_draws_without_replacement_from_the_generator():
    points, colors = cloud(100)
    draws = [init_from_points(points, colors, max_points=30, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0].means, draws[1].means) and not torch.equal(draws[0].means, draws[2].means)
    match = (draws[0].means[:, None] == points[None]).all(-1)
    assert (match.sum(1) == 1).all() and (match.sum(0) <= 1).all()
    torch.testing.assert_close(draws[0].sh0[:, 0] * 0.28209479 + 0.5, colors[match.nonzero()[:, 1]].float() / 255, rtol=0, atol=1e-6)
    assert len(init_from_points(points, colors, max_points=100)) == 100  # nothing to draw: no generator needed


def test_errors_of_points():
    points, colors = cloud(4)
    with pytest.raises(SceneError, match="no points"):
        init_from_points(points[:0], colors[:0])
    with pytest.raises(ShapeError, match=r"\(P, 3\)"):
        init_from_points(points, colors[:3])
    with pytest.raises(OptionError, match="at least 1"):
        init_from_points(points, colors, max_points=0)
    with pytest.raises(OptionError, match="Generator"):
        init_from_points(points, colors, max_points=2)
    points[2, 1] = torch.nan
    with pytest.raises(SceneError, match="1 of 4 points"):
        init_from_points(points, colors)


def posed_scene(views: int) -> Scene:
    """Black photos of two sizes from random poses; no points."""
    camtoworlds = torch.eye(4).repeat(views, 1, 1)
    camtoworlds[:, :3, :3] = torch.from_numpy(Rotation.random(views, random_state=0).as_matrix())
    camtoworlds[:, :3, 3] = torch.randn(views, 3, generator=torch.Generator().manual_seed(0))
    return Scene(
        name="posed",
        image_names=tuple(f"{i}.png" for i in range(views)),
        images=tuple(torch.zeros(24 if i % 2 else 36, 32, 3, dtype=torch.uint8) for i in range(views)),
        camtoworlds=camtoworlds,
        Ks=torch.tensor([[40.0, 0, 17], [0, 42, 11], [0, 0, 1]]).repeat(views, 1, 1),
        points=torch.zeros(0, 3),
        colors=torch.zeros(0, 3, dtype=torch.uint8),
        train_idx=tuple(range(1, views)),
        test_idx=(0,),
        to_normalised=Similarity.identity(),
        background=torch.zeros(3),
    )


def test_random_gaussians_are_in_front_of_a_training_camera():
    scene = posed_scene(6)
    g = init_random(scene, 200, generator=torch.Generator().manual_seed(3))
    assert len(g) == 200 and g.is_finite()
    train = list(scene.train_idx)
    homogeneous = torch.cat([g.means, torch.ones(200, 1)], dim=1)
    in_camera = torch.einsum("cij,nj->cni", scene.viewmats[train], homogeneous)[..., :3]
    projected = torch.einsum("cij,cnj->cni", scene.Ks[train], in_camera)
    pixels, depths = projected[..., :2] / projected[..., 2:], in_camera[..., 2]
    sizes = torch.tensor([scene.size(i) for i in train])[:, None].float()
    inside = (depths > 0.29) & (depths < 3.01) & (pixels > -1e-3).all(-1) & (pixels < sizes + 1e-3).all(-1)
    assert inside.any(0).all()
    assert len({int(row) for row in inside.float().argmax(0)}) > 1  # from more than one camera
    again = init_random(scene, 200, generator=torch.Generator().manual_seed(3))
    assert torch.equal(g.means, again.means) and torch.equal(g.sh0, again.sh0)
    with pytest.raises(OptionError, match="max-points"):
        init_random(scene, 0, generator=torch.Generator())

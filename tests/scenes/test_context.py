"""A scene of a few of its photos: points from their observations alone, against SciPy and pycolmap; nothing of the others shows."""

from dataclasses import replace

import numpy as np
import pycolmap
import pytest
import torch
from scene_makers import PARAMS, world_spots, write_scene
from scipy.optimize import least_squares
from tiny_scenes import tiny_scene, write_colmap

from learn2splat import load_scene
from learn2splat.scenes._camera import camera_from_colmap
from learn2splat.scenes.context import context_scene, triangulated
from learn2splat.scenes.scene import Observed


@pytest.mark.parametrize("model", PARAMS)
def test_lenses_are_those_of_colmap(model):
    ours = camera_from_colmap(model, 240, 180, np.array(PARAMS[model], float))
    theirs = pycolmap.Camera(model=model, width=240, height=180, params=PARAMS[model])
    xy = np.random.default_rng(0).uniform([0, 0], [240, 180], (200, 2))
    rays = theirs.cam_from_img(xy)
    assert np.abs(ours.rays(xy) - rays).max() < 1e-7
    put = ours.distorted(rays) * [ours.fx, ours.fy] + [ours.cx, ours.cy]
    assert np.abs(put - xy).max() < 1e-4


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV"])
def test_points_come_back_from_two_photos(tmp_path, model, text):
    write_scene(tmp_path, model, count=5, text=text)
    scene = load_scene(tmp_path, observations=True)
    assert load_scene(tmp_path).observations is None
    points, kept = triangulated(replace(scene, points=torch.full_like(scene.points, torch.nan)), [0, 3])
    assert len(kept) == len(world_spots())
    assert np.abs(scene.to_normalised.inverse().apply(points).numpy() - world_spots()[kept]).max() < 1e-4


def noisy(views=10, noise=0.002):
    """A tiny scene whose photos see every point with noise."""
    scene = tiny_scene(views)
    g = torch.Generator().manual_seed(1)
    observations = []
    for viewmat in scene.viewmats.double():
        p_cam = scene.points.double() @ viewmat[:3, :3].T + viewmat[:3, 3]
        rays = p_cam[:, :2] / p_cam[:, 2:] + noise * torch.randn(len(p_cam), 2, generator=g, dtype=torch.float64)
        observations.append(Observed(torch.arange(len(p_cam)), rays))
    return replace(scene, observations=tuple(observations))


def test_points_are_those_of_scipy():
    scene, views = noisy(), [1, 4, 6]
    points, kept = triangulated(scene, views)
    assert len(kept) == len(scene.points)
    viewmats = scene.viewmats[views].double().numpy()

    def residuals(x, k):
        p_cam = viewmats[:, :3, :3] @ x + viewmats[:, :3, 3]
        return (p_cam[:, :2] / p_cam[:, 2:] - np.stack([scene.observations[i].rays[k].numpy() for i in views])).ravel()

    for k in range(0, len(points), 5):
        best = least_squares(residuals, scene.points[k].double().numpy(), args=(k,), xtol=1e-14, ftol=1e-14, gtol=1e-14).x
        assert np.abs(points[k].numpy() - best).max() < 1e-7


def test_what_a_photo_sees_elsewhere_or_alone_is_left_out():
    scene = noisy(noise=0.0)
    first, second, *others = scene.observations
    wrong = first.rays.clone()
    wrong[3] += 0.05
    some = replace(scene, observations=(Observed(first.points, wrong), Observed(second.points[1:], second.rays[1:]), *others))
    _, kept = triangulated(some, [0, 1])
    assert kept.tolist() == [k for k in range(len(scene.points)) if k not in (0, 3)]
    still = replace(scene, camtoworlds=scene.camtoworlds[:1].repeat(10, 1, 1), observations=(first,) * 10)
    assert len(triangulated(still, [0, 1])[0]) == 0  # no parallax


def test_other_photos_leave_no_trace():
    """Whatever the held-out photos see, and wherever they put the points: the scene of the context is the same, up to its frame in the input."""
    scene, context, targets = noisy(), (1, 4, 6, 8), (2, 5)
    expected = context_scene(scene, context, targets)
    assert (expected.train_idx, expected.test_idx) == (context, targets) and "40 of 40 points" in expected.warnings[-1]
    observations = tuple(seen if i in context else Observed(seen.points.flip(0), seen.rays + 0.1) for i, seen in enumerate(scene.observations))
    found = context_scene(replace(scene, points=scene.points + torch.randn(40, 3), observations=observations), context, targets)
    assert torch.equal(found.points, expected.points) and torch.equal(found.camtoworlds, expected.camtoworlds)
    depths = (found.points[:, None] - found.camtoworlds[list(context), :3, 3]).mul(found.camtoworlds[list(context), :3, 2]).sum(-1)
    assert float(depths.median()) == pytest.approx(1.0, abs=0.05)  # the normalised frame


def test_without_observations_points_that_two_photos_frame_stay(tmp_path):
    scene = load_scene(write_colmap(tmp_path / "tiny"))
    beside = replace(scene, points=torch.cat([scene.points, torch.tensor([[50.0, 0, 0]])]), colors=torch.cat([scene.colors, scene.colors[:1]]))
    found = context_scene(beside, (1, 4), (2,))
    both = scene.seen_points([1]) & scene.seen_points([4])
    assert 20 < len(found.points) == int(both.sum()) < 40 and "frames of two context photos; other photos had a part" in found.warnings[-1]


def test_one_context_photo_is_a_scene(tmp_path):
    scene = noisy()
    found = context_scene(scene, (3,), (4,))
    assert len(found.points) == 0 and found.train_idx == (3,) and bool(found.camtoworlds.isfinite().all())

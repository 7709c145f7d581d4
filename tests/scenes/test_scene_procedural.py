"""The procedural scene: geometry against independent formulas, points against exact depth, reproducibility, statistics of the fake SfM."""

import numpy as np
import pytest
import torch

from learn2splat.scenes import make_procedural_scene
from learn2splat.scenes.procedural.shapes import interval

SMALL = {"num_views": 9, "width": 96, "height": 72, "num_points": 600}
LAYOUTS = ("room", "orbit", "forward")


@pytest.fixture(scope="module", params=LAYOUTS)
def small(request):
    """(Scene, exact depths (M, H, W)) of each layout."""
    return make_procedural_scene(3, layout=request.param, return_depth=True, **SMALL)


def test_record(small):
    scene, depths = small
    assert len(scene) == 9 and 500 < len(scene.points) == len(scene.colors) <= 600
    assert scene.test_idx == (0, 8) and depths.shape == (9, 72, 96)
    assert all(image.shape == (72, 96, 3) and image.dtype == torch.uint8 for image in scene.images)
    for tensor in (scene.points, scene.camtoworlds, scene.Ks):
        assert tensor.dtype == torch.float32 and torch.isfinite(tensor).all()
    R = scene.camtoworlds[:, :3, :3]
    torch.testing.assert_close(R @ R.mT, torch.eye(3).expand(9, 3, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(9))
    np.testing.assert_allclose(np.median(scene.points.numpy(), axis=0), 0, atol=1e-5)


def test_points_lie_on_surfaces(small):
    """Each point is compared with the exact depth where it projects: most agree in three views and more, a few per cent nowhere."""
    scene, depths = small
    agree = torch.zeros(len(scene.points), dtype=torch.long)
    for i in range(len(scene)):
        p_cam = scene.points @ scene.viewmats[i, :3, :3].T + scene.viewmats[i, :3, 3]
        xy = p_cam @ scene.Ks[i].T
        xy = (xy[:, :2] / xy[:, 2:]).floor().long()
        inside = (p_cam[:, 2] > 0) & (xy >= 0).all(1) & (xy[:, 0] < 96) & (xy[:, 1] < 72)
        # 6 %: three sigmas of the largest depth noise (2 %)
        found = depths[i][xy[inside, 1], xy[inside, 0]]
        agree[inside] += ((found / p_cam[inside, 2] - 1).abs() < 0.06).long()
    assert (agree >= 3).float().mean() > 0.8
    assert 0.005 < (agree == 0).float().mean() < 0.12  # 2 to 10 % are outliers, some of which land on another surface


def test_depth_is_where_the_photos_agree(small):
    """Pixels lifted by the exact depth have the colour of the other view where that one sees the same place: poses, Ks and depth fit."""
    scene, depths = small
    a, b = 4, 5
    rows, columns = torch.meshgrid(torch.arange(72), torch.arange(96), indexing="ij")
    pixels = torch.stack([columns + 0.5, rows + 0.5, torch.ones(72, 96)], -1).reshape(-1, 3)
    p_cam = (pixels @ torch.linalg.inv(scene.Ks[a]).T) * depths[a].reshape(-1, 1)
    world = p_cam @ scene.camtoworlds[a, :3, :3].T + scene.camtoworlds[a, :3, 3]
    p_other = world @ scene.viewmats[b, :3, :3].T + scene.viewmats[b, :3, 3]
    xy = p_other @ scene.Ks[b].T
    xy = (xy[:, :2] / xy[:, 2:]).floor().long()
    inside = (p_other[:, 2] > 0) & (xy >= 0).all(1) & (xy[:, 0] < 96) & (xy[:, 1] < 72)
    z, xy, color = p_other[inside, 2], xy[inside], scene.image(a).reshape(-1, 3)[inside]
    visible = (depths[b][xy[:, 1], xy[:, 0]] / z - 1).abs() < 0.01
    assert visible.sum() > 400
    difference = (scene.image(b)[xy[:, 1], xy[:, 0]] - color).abs().mean(1)[visible]
    shuffled = (scene.image(b)[xy[:, 1], xy[:, 0]] - color.flip(0)).abs().mean(1)[visible.flip(0) & visible]
    assert difference.median() < 0.35 * shuffled.median()


def test_images_look_like_something(small):
    """Texture (local contrast), shading (a spread of brightness), not noise (neighbouring pixels agree)."""
    scene, _ = small
    gray = torch.stack([scene.image(i).mean(-1) for i in range(len(scene))])
    assert 0.15 < gray.mean() < 0.75 and gray.std() > 0.06
    step = (gray[:, :, 1:] - gray[:, :, :-1]).abs()
    assert 0.005 < step.mean() < 0.4 * (gray[:, :, 40:] - gray[:, :, :-40]).abs().mean()


def test_the_same_seed_gives_the_same_bits(small):
    scene, depths = small
    again, depths_again = make_procedural_scene(3, layout=scene.name.split("_")[1], return_depth=True, **SMALL)
    assert all(torch.equal(a, b) for a, b in zip(scene.images, again.images))
    assert torch.equal(scene.points, again.points) and torch.equal(scene.colors, again.colors)
    assert torch.equal(scene.camtoworlds, again.camtoworlds) and torch.equal(depths, depths_again)


def test_seeds_and_layouts_differ():
    tiny = {**SMALL, "width": 48, "height": 36}
    scenes = [make_procedural_scene(0, layout=layout, **tiny) for layout in LAYOUTS] + [make_procedural_scene(1, **tiny)]
    for i in range(4):
        for j in range(i):
            assert not torch.equal(scenes[i].images[0], scenes[j].images[0])
            assert not torch.equal(scenes[i].camtoworlds, scenes[j].camtoworlds)
    room, orbit, forward = scenes[:3]
    forwards = [scene.camtoworlds[:, :3, 2] for scene in (room, orbit, forward)]
    spread = [(axes @ axes.T).min() for axes in forwards]  # cosine of the widest angle between two viewing directions
    assert spread[2] > 0.8 and spread[0] < 0.5 and spread[1] < 0.5


def test_resolution_does_not_change_the_world():
    small, large = make_procedural_scene(5, **SMALL), make_procedural_scene(5, **{**SMALL, "width": 192, "height": 144})
    a = small.to_normalised.inverse().apply_poses(small.camtoworlds.double())
    b = large.to_normalised.inverse().apply_poses(large.camtoworlds.double())
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    shrunk = large.image(4).reshape(72, 2, 96, 2, 3).mean((1, 3))
    assert (shrunk - small.image(4)).abs().mean() < 0.04


@pytest.mark.parametrize("kind", ["ellipsoid", "box", "cylinder"])
def test_intervals_against_dense_sampling(kind):
    """The analytic [near, far] of random rays against the first and last of many samples that are inside the unit shape."""
    rng = np.random.default_rng(0)
    origin, direction = rng.normal(0, 2, (3, 200)), rng.normal(0, 1, (3, 200))
    direction -= 0.8 * origin  # mostly towards the shape
    near, far = interval(kind, origin, direction)
    t = np.linspace(-4, 8, 24_001)
    x, y, z = origin[:, :, None] + direction[:, :, None] * t
    inside = {
        "ellipsoid": lambda: x * x + y * y + z * z <= 1,
        "box": lambda: np.maximum(np.abs(x), np.maximum(np.abs(y), np.abs(z))) <= 1,
        "cylinder": lambda: (x * x + y * y <= 1) & (np.abs(z) <= 1),
    }[kind]()
    hit = inside.any(1)
    analytic = (near <= far) & (far > -4) & (near < 8)
    long_enough = np.where(near <= far, far - near, 0) > 2e-3  # grazing rays may fall between samples
    assert (analytic & long_enough)[hit].sum() >= 0.95 * hit.sum() > 30
    assert (hit | ~(analytic & long_enough)).all()
    both = hit & analytic & (near > -4) & (far < 8)
    np.testing.assert_allclose(near[both], t[inside.argmax(1)][both], atol=1e-3)
    np.testing.assert_allclose(far[both], t[len(t) - 1 - inside[:, ::-1].argmax(1)][both], atol=1e-3)

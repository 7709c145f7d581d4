"""The angle between neighbouring views against closed forms and a plain search."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from learn2splat.scenes import make_procedural_scene, view_angle

K = torch.tensor([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]])


def ring(angles, radius=10.0):
    """Poses on a circle about the z axis, in degrees, that look at its centre."""
    poses = torch.eye(4).repeat(len(angles), 1, 1)
    for pose, angle in zip(poses, angles):
        a = math.radians(angle)
        forward = torch.tensor([-math.cos(a), -math.sin(a), 0])
        down = torch.tensor([0.0, 0, -1])
        pose[:3, :3] = torch.stack([torch.linalg.cross(down, forward), down, forward], dim=1)
        pose[:3, 3] = -radius * forward
    return poses


def angle(poses, points):
    return view_angle(poses, K.repeat(len(poses), 1, 1), [(100, 80)] * len(poses), points)


def test_cameras_on_a_ring_around_a_point():
    centre = torch.zeros(1, 3)
    assert angle(ring([0, 7, 14, 21]), centre) == pytest.approx(7, abs=1e-3)
    assert angle(ring([0, 3, 20, 23, 60, 63]), centre) == pytest.approx(3, abs=1e-3)
    assert angle(ring([0.0, 0.01]), centre) == pytest.approx(0.01, rel=1e-2)  # where a float32 cosine is 1


def test_views_that_share_nothing_are_180_apart_and_without_points_nothing_is_known():
    poses = ring([0, 10])
    poses[1, :3, :3] = poses[1, :3, :3] @ torch.diag(torch.tensor([-1.0, 1, -1]))  # the second looks away
    assert angle(poses, torch.zeros(1, 3)) == 180
    assert angle(ring([0]), torch.zeros(1, 3)) == 180
    assert angle(ring([0, 10]), torch.zeros(0, 3)) is None
    assert angle(ring([0, 10]), torch.tensor([[0.0, 0, 500]])) is None  # outside of every photo


def test_against_a_plain_search_and_in_another_frame():
    scene = make_procedural_scene(3, num_views=9, width=64, height=48, num_points=200)
    views, angles = list(scene.train_idx), []
    centres = scene.camtoworlds[:, :3, 3].double()
    for i in views:
        for point in scene.points.double():
            seers = []
            for j in views:
                x, y, z = scene.Ks[j].double() @ (scene.viewmats[j].double() @ torch.cat([point, torch.ones(1).double()]))[:3]
                if z > 0 and 0 <= x / z < 64 and 0 <= y / z < 48:
                    seers.append(j)
            if i in seers:
                a = centres[i] - point
                cosines = [float(a @ (centres[j] - point) / (a.norm() * (centres[j] - point).norm())) for j in seers if j != i]
                angles.append(math.degrees(math.acos(max(cosines, default=-1.0))))
    expected = sorted(angles)[(len(angles) - 1) // 2]  # the lower median, as torch has it
    assert scene.view_angle(views) == pytest.approx(expected, rel=1e-4)

    turn = torch.from_numpy(Rotation.from_rotvec([1.0, -2, 0.5]).as_matrix()).float()
    moved = scene.camtoworlds.clone()
    moved[:, :3, :3] = turn @ moved[:, :3, :3]
    moved[:, :3, 3] = 5 * moved[:, :3, 3] @ turn.T + 3
    sizes = [scene.size(i) for i in views]
    assert view_angle(moved[views], scene.Ks[views], sizes, 5 * scene.points @ turn.T + 3) == pytest.approx(expected, rel=1e-3)


def test_many_views_and_points_are_sampled():
    """1000 views of 5000 points: a fraction of them decides, and the answer is that of the whole ring."""
    points = torch.rand(5000, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    assert angle(ring([0.36 * i for i in range(1000)]), points) == pytest.approx(0.36, rel=0.03)


def test_seen_points_against_a_plain_projection():
    scene = make_procedural_scene(4, num_views=4, width=64, height=48, num_points=150)
    homogeneous = torch.cat([scene.points.double(), torch.ones(len(scene.points), 1, dtype=torch.float64)], dim=1)
    expected = torch.zeros(len(scene.points), dtype=torch.bool)
    for view in (0, 2):
        x, y, z = scene.Ks[view].double() @ (scene.viewmats[view].double() @ homogeneous.T)[:3]
        expected |= (z > 0) & (x / z >= 0) & (x / z < 64) & (y / z >= 0) & (y / z < 48)
    assert 0 < int(expected.sum()) < len(expected)
    assert torch.equal(scene.seen_points([0, 2]), expected)

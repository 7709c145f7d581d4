"""Camera paths: rigid poses that look at the subject, move smoothly and stay where the cameras were."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_scenes import arc, tiny_scene

from learn2splat.cli.camera_paths import camera_path, subject


def scene_of(poses):
    """A scene with these cameras, all of them to fit; photos do not matter."""
    return replace(tiny_scene(2), camtoworlds=poses, train_idx=tuple(range(len(poses))))


def side_by_side(count):
    """Cameras in a row, at slightly different heights, all looking straight ahead (forward-facing photos)."""
    poses = torch.eye(4).repeat(count, 1, 1)
    poses[:, 0, 3], poses[:, 1, 3], poses[:, 2, 3] = torch.linspace(-0.3, 0.3, count), 0.05 * torch.cos(torch.arange(count)), -1.0
    return poses


SCENES = {
    "arc": scene_of(arc(9)),
    "full turn": scene_of(arc(16, degrees=360 * 15 / 16)),
    "side by side": scene_of(side_by_side(7)),
    "one camera": scene_of(arc(1)),
}


@pytest.mark.parametrize("name", ["spiral", "orbit", "interpolate"])
@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES.keys())
def test_poses_are_rigid_smooth_and_look_at_the_subject(scene, name):
    poses = camera_path(scene, name, 60).double().numpy()
    assert poses.shape == (60, 4, 4) and np.isfinite(poses).all()
    rotations, centres = poses[:, :3, :3], poses[:, :3, 3]
    assert np.allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(3), atol=1e-5)
    assert np.allclose(np.linalg.det(rotations), 1, atol=1e-5)
    target = subject(scene.camtoworlds.double().numpy())
    assert np.linalg.norm(target) < 0.2  # these scenes look at the origin
    to_target = (target - centres) / np.linalg.norm(target - centres, axis=1, keepdims=True)
    assert ((to_target * rotations[:, :, 2]).sum(1) > np.cos(np.deg2rad(20))).all()
    assert (-rotations[:, 1, 1] < -0.5).all()  # image-up stays near world-up, which is -y
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    assert steps.max() < 0.35  # in distances to the subject
    distances = np.linalg.norm(centres - target, axis=1)
    cameras = np.linalg.norm(scene.camtoworlds[:, :3, 3].numpy() - target, axis=1)
    assert distances.min() > 0.75 * cameras.min() and distances.max() < 1.2 * cameras.max()


def test_orbit_goes_around_only_where_cameras_were():
    full, part = (camera_path(SCENES[name], "orbit", 72)[:, :3, 3].numpy() for name in ("full turn", "arc"))
    turned = np.unwrap(np.arctan2(full[:, 0], -full[:, 2]))
    assert abs(turned[-1] - turned[0]) == pytest.approx(2 * np.pi * 71 / 72, abs=0.01)
    angles = np.rad2deg(np.arctan2(-part[:, 0], -part[:, 2]))
    assert np.abs(angles).max() == pytest.approx(35, abs=1) and angles.min() == pytest.approx(-35, abs=1)


@pytest.mark.parametrize("name", ["spiral", "orbit"])
def test_loops_close(name):
    centres = camera_path(SCENES["arc"], name, 90)[:, :3, 3]
    steps = torch.linalg.vector_norm(centres.diff(dim=0), dim=1)
    assert torch.linalg.vector_norm(centres[0] - centres[-1]) < 1.5 * steps.max()

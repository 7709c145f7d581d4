"""Files and frames change no picture: rendered before and after."""

from __future__ import annotations

import torch
from random_gaussians import random_gaussians
from scipy.spatial.transform import Rotation
from tiny_scenes import FOCAL, HEIGHT, WIDTH, arc

from learn2splat.gaussians import Gaussians, load_ply, save_ply, transform_gaussians
from learn2splat.render import render_views
from learn2splat.scenes import Similarity

VIEWS = 3


def splat() -> Gaussians:
    """Anisotropic Gaussians in front of `arc`, whose colours depend on the view."""
    g = random_gaussians(60, 5)
    g.means *= 0.3
    g.logit_opacities += 1
    return g


def render(gaussians: Gaussians, camtoworlds: torch.Tensor) -> torch.Tensor:
    K = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]).repeat(VIEWS, 1, 1)
    return render_views(gaussians, torch.linalg.inv(camtoworlds.double()).float(), K, WIDTH, HEIGHT)


def test_a_ply_round_trip_renders_identically(tmp_path):
    g, poses = splat(), arc(VIEWS)
    save_ply(tmp_path / "a.ply", g)
    image = render(g, poses)
    assert image.std() > 0.02  # there is something to see
    assert torch.equal(render(load_ply(tmp_path / "a.ply"), poses), image)


def test_moving_world_and_cameras_together_changes_nothing():
    g, poses = splat(), arc(VIEWS)
    rotation = torch.from_numpy(Rotation.random(random_state=2).as_matrix())
    move = Similarity(3.0, rotation, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    moved, image = render(transform_gaussians(g, move), move.apply_poses(poses)), render(g, poses)
    torch.testing.assert_close(moved, image, rtol=0, atol=1e-5)  # ten times the measured; one coefficient with a wrong sign gives 0.1
    unturned = transform_gaussians(g, move)
    unturned.shN = g.shN
    assert (render(unturned, move.apply_poses(poses)) - image).abs().max() > 0.02

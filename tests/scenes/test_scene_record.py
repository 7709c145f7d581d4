"""`Similarity` and `Scene` against closed forms."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scene_makers import write_scene
from scipy.spatial.transform import Rotation

from learn2splat.errors import OptionError
from learn2splat.scenes import Similarity, load_scene, make_procedural_scene
from learn2splat.scenes.scene import every_nth_split


def random_similarity(seed: int, exponent: float) -> Similarity:
    rotation = torch.from_numpy(Rotation.random(random_state=seed).as_matrix())
    translation = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Similarity(10.0**exponent, rotation, translation)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(-4, 4))
def test_similarity_inverse_undoes_apply(seed, exponent):
    similarity = random_similarity(seed, exponent)
    points = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    back = similarity.inverse().apply(similarity.apply(points))
    # float64 rounding (2e-16), amplified where the scale is small and the shift is about 1
    torch.testing.assert_close(back, points, rtol=0, atol=1e-14 / min(similarity.scale, 1))


def test_similarity_formula_and_dtype():
    similarity = random_similarity(3, 0.5)
    x = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    expected = [similarity.scale * sum(similarity.rotation[i, j] * x[j] for j in range(3)) + similarity.translation[i] for i in range(3)]
    torch.testing.assert_close(similarity.apply(x), torch.stack(expected))
    assert similarity.apply(x.float()).dtype == torch.float32


def test_identity_changes_nothing():
    points = torch.randn(5, 3)
    assert torch.equal(Similarity.identity().apply(points), points)


def test_poses_and_points_move_together():
    """A point keeps its place in the camera's frame, but for the scale."""
    similarity = random_similarity(4, -1.0)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.from_numpy(Rotation.random(random_state=9).as_matrix())
    pose[:3, 3] = torch.tensor([3.0, -1.0, 2.0])
    p_cam = torch.tensor([0.3, -0.2, 5.0], dtype=torch.float64)
    moved_point = similarity.apply(pose[:3, :3] @ p_cam + pose[:3, 3])
    moved_pose = similarity.apply_poses(pose)
    torch.testing.assert_close(moved_pose[:3, :3].T @ (moved_point - moved_pose[:3, 3]), similarity.scale * p_cam)
    torch.testing.assert_close(moved_pose[:3, :3] @ moved_pose[:3, :3].T, torch.eye(3, dtype=torch.float64))


def test_derived_properties(tmp_path):
    write_scene(tmp_path / "s", count=3)
    scene = load_scene(tmp_path / "s")
    torch.testing.assert_close(scene.viewmats @ scene.camtoworlds, torch.eye(4).expand(3, 4, 4), rtol=0, atol=1e-6)
    assert scene.size(0) == (240, 180)
    image = scene.image(0)
    assert image.shape == (180, 240, 3) and image.dtype == torch.float32 and 0 <= image.min() and image.max() <= 1
    torch.testing.assert_close(image * 255, scene.images[0].float())
    # Two train cameras: both are half their distance away from their mean.
    half = (scene.camtoworlds[1, :3, 3] - scene.camtoworlds[2, :3, 3]).norm().item() / 2
    assert scene.train_idx == (1, 2)
    assert math.isclose(scene.scene_scale, 1.1 * half, rel_tol=1e-5)
    assert replace(scene, train_idx=(1,)).scene_scale == 0


def test_split_holds_out_every_nth():
    train, test = every_nth_split(20, 8)
    assert test == (0, 8, 16)
    assert sorted(train + test) == list(range(20))


ODD_OPTIONS = [{"test_every": 1}, {"test_every": -1}, {"long_side": -1}, {"data_factor": 0}, {"data_factor": 1.5}, {"background": "grey"}]


@pytest.mark.parametrize("options", ODD_OPTIONS)
def test_options_that_make_no_sense(tmp_path, options):
    write_scene(tmp_path / "s")
    with pytest.raises(OptionError, match=next(iter(options))):
        load_scene(tmp_path / "s", **options)


def test_procedural_options_that_make_no_sense():
    with pytest.raises(OptionError, match="layout must be one of room, orbit, forward"):
        make_procedural_scene(layout="cave")
    with pytest.raises(OptionError, match="num_views"):
        make_procedural_scene(num_views=1)

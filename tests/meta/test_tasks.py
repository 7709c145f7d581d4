"""Where scenes come from, and what an episode starts with."""

import shutil
from dataclasses import replace

import pytest
import torch

from learn2splat import errors, load_scene
from learn2splat.meta import find_scenes, with_scheme
from learn2splat.meta.tasks import Dice, ScenePool, random_rotation, roles, shrink, turned
from learn2splat.optimizers import make_optimizer
from learn2splat.scenes import make_procedural_scene


def test_only_scenes_of_role_train_are_found(shared_scenes):
    found = {path.name for path in find_scenes([str(shared_scenes / "*")])}
    assert len(found) >= 24 and {"kermit", "lund"} <= found
    assert not found & {"fern", "flower", "kitchen", "bonsai", "saharov", "fountain_p11", "tabletop_cups", "tnt_courthouse"}
    assert roles(shared_scenes)["fern"] == "val"
    with pytest.raises(errors.OptionError, match="role train"):
        find_scenes([str(shared_scenes / "fern")])


def test_folders_without_roles_are_all_taken(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    assert [path.name for path in find_scenes([str(tmp_path / "*"), str(tmp_path / "a")])] == ["a", "b"]
    with pytest.raises(errors.OptionError, match="0 folders"):
        find_scenes([str(tmp_path / "c*")])


def test_shrinking_agrees_with_loading_smaller(shared_scenes):
    large = load_scene(shared_scenes / "kermit", long_side=128)
    expected = load_scene(shared_scenes / "kermit", long_side=64)
    small = shrink(large, 64)
    torch.testing.assert_close(small.Ks, expected.Ks, rtol=1e-5, atol=1e-3)
    assert small.images[0].shape == expected.images[0].shape
    difference = (small.image(0) - expected.image(0))[:, :-1].abs().mean()
    misplaced = (small.image(0)[:, 1:] - expected.image(0)[:, :-1]).abs().mean()
    assert difference < 0.25 * misplaced, (difference, misplaced)  # another filter, but the same place
    assert shrink(large, 200).images[0] is large.images[0]


def test_turning_the_world_changes_no_picture_coordinates():
    scene = make_procedural_scene(0, width=32, height=24, num_views=4, num_points=50)
    rotation = random_rotation(torch.Generator().manual_seed(1))
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
    assert torch.linalg.det(rotation) == pytest.approx(1)
    other = turned(scene, rotation)

    def camera_coordinates(s):
        return torch.einsum("mij,pj->mpi", s.viewmats[:, :3, :3], s.points) + s.viewmats[:, None, :3, 3]

    torch.testing.assert_close(camera_coordinates(other), camera_coordinates(scene), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(other.points, scene.points)


def test_procedural_scenes_are_cached_to_the_same_bits(tiny, tmp_path):
    first = ScenePool(tiny, tmp_path, []).get("procedural_forward_2", 32)
    stamp = [path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")]
    again = ScenePool(tiny, tmp_path, []).get("procedural_forward_2", 32)
    assert [path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")] == stamp and len(stamp) == 1
    assert all(torch.equal(a, b) for a, b in zip(first.images, again.images))
    assert torch.equal(first.points, again.points) and torch.equal(first.Ks, again.Ks)


@pytest.mark.parametrize("sparse_share", [0.0, 1.0])
def test_starts_are_within_their_ranges_and_hold_targets_out(tiny, pool, sparse_share):
    config, rule, dice = replace(tiny, sparse_share=sparse_share, sparse_views=(3, 5)), make_optimizer("anchored", width=8), Dice(1)
    sizes = set()
    for _ in range(20):
        episode = pool.start(config, rule, dice)
        scene = pool.scene_of(episode)
        assert not set(episode.context) & set(episode.targets) and episode.targets and episode.age == 0
        assert 20 <= len(episode.gaussians) <= 40 and episode.gaussians.is_finite() and len(episode.state) == len(episode.gaussians)
        assert 2 <= episode.state.task.views_per_step <= 3
        assert max(scene.size(0)) == episode.long_side
        if sparse_share and len(episode.context) <= 5:
            centres = scene.camtoworlds[:, :3, 3]
            spread = torch.cdist(centres[list(episode.context)], centres[list(episode.context)]).max()
            assert spread < torch.cdist(centres, centres).max()  # close-by views
        sizes.add(len(episode.context))
    assert sizes == {6, 7, 8, 9} if not sparse_share else max(sizes) <= 11 and min(sizes) <= 5


def test_starts_repeat_with_the_seed(tiny, pool):
    rule = make_optimizer("anchored", width=8)
    one, two, other = (pool.start(tiny, rule, Dice(seed)) for seed in (5, 5, 6))
    assert torch.equal(one.gaussians.flatten(), two.gaussians.flatten()) and one.context == two.context
    assert one.context != other.context


def test_two_folders_of_one_name_are_refused(tiny, photos, tmp_path):
    """Else the second would silently replace the first: scenes are known by name."""
    shutil.copytree(photos, tmp_path / "b" / photos.name)
    with pytest.raises(errors.OptionError, match="two scenes of --data are called tiny"):
        ScenePool(tiny, tmp_path / "cache", [photos, tmp_path / "b" / photos.name])


def test_a_mirrored_scene_shows_its_points_where_the_mirrored_photos_do(tiny, pool):
    scene = pool.get(sorted(pool.real)[0], 32)
    mirrored = turned(scene, torch.diag(torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)))
    torch.testing.assert_close(torch.det(mirrored.camtoworlds[:, :3, :3].double()), torch.ones(len(scene), dtype=torch.float64))
    for i in range(len(scene)):
        uv, mirrored_uv = (_pixels(one, i) for one in (scene, mirrored))
        torch.testing.assert_close(mirrored_uv[:, 0], scene.size(i)[0] - uv[:, 0], rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(mirrored_uv[:, 1], uv[:, 1], rtol=1e-4, atol=1e-2)
        assert torch.equal(mirrored.images[i], scene.images[i].flip(1))


def _pixels(scene, i):
    camera = scene.camtoworlds[i].double().inverse()
    points = scene.points.double() @ camera[:3, :3].T + camera[:3, 3]
    uvw = points @ scene.Ks[i].double().T
    return uvw[:, :2] / uvw[:, 2:]


def test_published_starts(tiny, pool):
    """Mirrored in half of the episodes and never turned; a share of the points, no black ones; sparse photos are all seen in every step."""
    config = replace(with_scheme(tiny, "greedy"), points_share=(0.1, 1.0), sparse_share=0.0)
    rule = make_optimizer("anchored", width=8)
    episodes = [pool.start(config, rule, Dice(seed)) for seed in range(24)]
    signs = [float(torch.det(episode.rotation)) for episode in episodes]
    assert 4 <= signs.count(-1.0) <= 20 and all(torch.equal(episode.rotation.abs(), torch.eye(3, dtype=torch.float64)) for episode in episodes)
    counts = [len(episode.gaussians) for episode in episodes]
    assert max(counts) <= config.points[1] and len(set(counts)) > 3
    sparse = [pool.start(replace(config, sparse_share=1.0), rule, Dice(seed)) for seed in range(4)]
    assert any(episode.state.task.views_per_step == len(episode.context) for episode in sparse)

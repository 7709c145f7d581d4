"""The feed-forward start: depths against those of the generator of scenes, invariances, and what happens where photos tell nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from learn2splat import errors
from learn2splat.initializers import PredictedDepth, feedforward_init, feedforward_start, few_points, predict_depth
from learn2splat.initializers._upright import quarter_turns, turned
from learn2splat.initializers.cascade import Cascade
from learn2splat.initializers.feedforward import empty, votes
from learn2splat.initializers.weights import load_initializer, save_initializer
from learn2splat.optimizers.weights import packaged_weights
from learn2splat.scenes import Similarity, make_procedural_scene


def bare(scene):
    return replace(scene, points=scene.points[:0], colors=scene.colors[:0])


@pytest.fixture(scope="module", params=["room", "orbit", "forward"])
def known(request):
    """(scene without points, exact depths (M, H, W)), of a seed that no training uses."""
    views = {"room": 16, "orbit": 24, "forward": 12}[request.param]
    scene, exact = make_procedural_scene(11, layout=request.param, num_views=views, width=128, height=96, num_points=400, return_depth=True)
    return bare(replace(scene, train_idx=tuple(range(2, 10)))), exact


def errors_of(predicted, exact):
    """Relative errors and confidences of all pixels."""
    found = []
    for i, depth, confidence in zip(predicted.idx, predicted.depths, predicted.confidence):
        there = torch.nn.functional.interpolate(exact[i][None, None], size=depth.shape, mode="nearest-exact")[0, 0]
        found.append(torch.stack([(depth / there - 1).abs().flatten(), confidence.flatten()]))
    relative, confidence = torch.cat(found, 1)
    there = relative.isfinite()
    return relative[there], confidence[there]


@pytest.mark.parametrize("sweep", [False, True])
def test_depths_are_far_better_than_a_guess(known, sweep):
    scene, exact = known
    relative, confidence = errors_of(predict_depth(scene, scene.train_idx, sweep=sweep), exact)
    guess = (exact[list(scene.train_idx)] / exact[list(scene.train_idx)].median() - 1).abs()
    assert relative.median() < 0.05 < 0.2 < guess.median()
    assert (relative < 0.05).float().mean() > 0.5 > 2 * (guess < 0.05).float().mean()
    sure = confidence > 0.5  # calibrated: more than half of them are within 3 %, and fewer of the others
    assert (relative[sure] < 0.03).float().mean() > 0.55 > 0.45 > (relative[~sure] < 0.03).float().mean()


@pytest.mark.parametrize("scale", [0.001, 1000.0])
def test_a_world_that_is_scaled_turned_and_moved_gives_the_same_splat_there(scale):
    scene = bare(make_procedural_scene(12, layout="orbit", num_views=20, width=96, height=64, num_points=200))
    scene = replace(scene, train_idx=(3, 4, 5, 6))
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    rotation = rotation * torch.det(rotation).sign()
    move = Similarity(scale, rotation, scale * torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64))
    moved = replace(scene, camtoworlds=move.apply_poses(scene.camtoworlds))
    here, there = (predict_depth(s, s.train_idx) for s in (scene, moved))
    for a, b in zip(here.depths, there.depths):
        assert torch.isclose(scale * a, b, rtol=0.01).float().mean() > 0.98
    splats = [feedforward_init(s, generator=torch.Generator().manual_seed(0)) for s in (scene, moved)]
    assert abs(len(splats[0]) / len(splats[1]) - 1) < 0.03
    middle, spread = (move.apply(splats[0].means).double().quantile(q, dim=0) for q in (0.5, 0.9))
    assert torch.allclose(middle, splats[1].means.double().quantile(0.5, dim=0), atol=0.03 * float((spread - middle).norm()))
    assert abs(float((splats[1].log_scales.median() - splats[0].log_scales.median()).exp()) / scale - 1) < 0.03


def test_turned_photos_show_the_same(known):
    scene, _ = known
    images, Ks, camtoworlds = list(scene.images), scene.Ks.clone(), scene.camtoworlds.clone()
    for i in range(3, 10, 3):  # a camera on its side: x' = height - y, y' = x
        K = Ks[i].clone()
        images[i] = images[i].rot90(-1, (0, 1)).contiguous()
        Ks[i] = torch.tensor([[K[1, 1], 0, 96 - K[1, 2]], [0, K[0, 0], K[0, 2]], [0, 0, 1]])
        camtoworlds[i, :3, 0], camtoworlds[i, :3, 1] = -scene.camtoworlds[i, :3, 1], scene.camtoworlds[i, :3, 0]
    mixed = replace(scene, images=tuple(images), Ks=Ks, camtoworlds=camtoworlds)
    here, there = (predict_depth(s, s.train_idx, sweep=False) for s in (scene, mixed))
    for i, a, b in zip(here.idx, here.depths, there.depths):
        back = b.rot90(1) if i in range(3, 10, 3) else b
        assert a.shape == back.shape and torch.isclose(a, back, rtol=0.01).float().mean() > 0.97


def test_a_quarter_turn_moves_the_camera_with_the_photo():
    scene = make_procedural_scene(4, num_views=5, width=32, height=24, num_points=50)
    K, viewmat, photo = scene.Ks[0].double(), scene.viewmats[0].double(), scene.image(0).permute(2, 0, 1)
    world = torch.linalg.inv(viewmat)[:3] @ torch.tensor([0.1, -0.2, 1.5, 1.0], dtype=torch.float64)
    for turns in range(4):
        turned_photo, turned_K, turned_viewmat = turned(photo, K, viewmat, turns)
        values = []
        for image, k, v in ((photo, K, viewmat), (turned_photo, turned_K, turned_viewmat)):
            p = k @ (v[:3, :3] @ world + v[:3, 3])
            values.append(image[:, int(p[1] / p[2]), int(p[0] / p[2])])
        assert torch.equal(*values)
        assert quarter_turns(torch.stack([turned_viewmat, viewmat]))[1] == turns


def test_only_the_given_photos_are_looked_at():
    scene = bare(make_procedural_scene(4, num_views=9, width=64, height=48, num_points=300))
    spoiled = replace(scene, images=tuple(image if i in scene.train_idx else torch.zeros_like(image) for i, image in enumerate(scene.images)))
    here, there = (feedforward_init(s, generator=torch.Generator().manual_seed(0)) for s in (scene, spoiled))
    assert torch.equal(here.means, there.means)


def plane_seen_by(depths):
    """Two cameras side by side before a wall at z = 2, with these depths in the first map and 2 in the second."""
    viewmats = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    viewmats[1, 0, 3] = -0.2
    K = torch.tensor([[10.0, 0, 5], [0, 10, 5], [0, 0, 1]], dtype=torch.float64).repeat(2, 1, 1)
    maps = (depths, torch.full((10, 10), 2.0))
    ones = tuple(torch.ones(10, 10) for _ in maps)
    return PredictedDepth((0, 1), maps, ones, tuple(torch.zeros(10, 10, 3, dtype=torch.uint8) for _ in maps), K, viewmats)


def test_what_another_photo_looks_through_is_counted_against():
    depths = torch.full((10, 10), 2.0)
    depths[:, 3:6], depths[:, 6:] = 1.0, 4.0
    agree, against, seen = votes(plane_seen_by(depths), 0)
    assert (agree[:, 2] == 1).all() and (against[:, :3] == 0).all()
    assert (against[:, 3:6] == 1).all() and (agree[:, 3:] == 0).all()
    assert (against[:, 6:] == 0).all() and (seen[:, 6:] == 1).all()  # behind the wall: hidden, which is no contradiction


def test_what_has_the_colour_of_the_background_all_around_is_background():
    colors = torch.zeros(20, 20, 3, dtype=torch.uint8)
    colors[10, 10] = 200
    nothing = empty(colors, torch.zeros(3))
    expected = torch.ones(20, 20, dtype=torch.bool)
    expected[8:13, 8:13] = False
    assert torch.equal(nothing, expected)
    assert not empty(colors, torch.ones(3)).any()


def test_where_photos_tell_nothing_a_sentence_says_so_and_the_best_start_is_left():
    scene = make_procedural_scene(4, num_views=6, width=64, height=48, num_points=300)
    one = replace(scene, train_idx=(1,))
    still = replace(scene, camtoworlds=scene.camtoworlds[:1].repeat(6, 1, 1))
    apart = scene.camtoworlds.clone()  # in a ring, looking outwards: narrow photos that share nothing
    for i, angle in enumerate(torch.arange(6) * torch.pi / 3):
        forward = torch.stack([angle.sin(), torch.tensor(0.0), angle.cos()])
        apart[i, :3] = torch.stack([torch.stack([angle.cos(), torch.tensor(0.0), -angle.sin()]), torch.tensor([0.0, 1, 0]), forward, forward], 1)
    alone = replace(bare(scene), camtoworlds=apart, Ks=scene.Ks * torch.tensor([3.0, 3, 1])[:, None])
    for spoiled, words in ((one, "one photo alone"), (still, "from one place"), (alone, "hardly anything")):
        for with_points in (True, False):
            case = spoiled if with_points else bare(spoiled)
            if with_points and not len(case.points):
                continue
            start, why = feedforward_start(case, max_gaussians=40, generator=torch.Generator().manual_seed(0))
            assert words in why and ("points of the scene" if with_points else "at random") in why and why.count(". ") == 0
            assert len(start) == 40 and start.is_finite()
        with pytest.raises(errors.SceneError, match=words):
            feedforward_init(spoiled, generator=torch.Generator())
    fine, why = feedforward_start(scene, max_gaussians=40, generator=torch.Generator().manual_seed(0))
    assert why is None and len(fine) == 40
    with pytest.raises(errors.OptionError, match="at least 1"):
        feedforward_init(scene, max_gaussians=0, generator=torch.Generator())


def test_few_points_are_told_from_enough():
    scene = make_procedural_scene(4, num_views=6, width=64, height=48, num_points=300)
    assert not few_points(scene) and few_points(bare(scene)) and few_points(replace(scene, points=scene.points[:5], colors=scene.colors[:5]))


def test_weights_come_back_and_foreign_ones_are_refused(tmp_path):
    network = Cascade()
    save_initializer(tmp_path / "w.safetensors", network, {"steps": 1})
    back = load_initializer(tmp_path / "w.safetensors")
    assert all(torch.equal(a.half().float(), b) for a, b in zip(network.state_dict().values(), back.state_dict().values()))
    data = bytearray((tmp_path / "w.safetensors").read_bytes())
    data[-5] ^= 1
    (tmp_path / "bad.safetensors").write_bytes(data)
    for path, words in ((tmp_path / "bad.safetensors", "damaged"), (tmp_path / "none", "no weights"), (packaged_weights(), "not an initializer")):
        with pytest.raises(errors.CheckpointError, match=words):
            load_initializer(path)

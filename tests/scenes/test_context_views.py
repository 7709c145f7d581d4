"""Which photos are context: against a search that tries every photo, and the files that say so."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_scenes import tiny_scene

from learn2splat.errors import OptionError
from learn2splat.scenes.views import Index, choose_views


def scene_of(centres):
    """As many photos as there are centres, looking the same way; no points."""
    one = tiny_scene(4)
    poses = torch.eye(4).repeat(len(centres), 1, 1)
    poses[:, :3, 3] = torch.as_tensor(centres, dtype=torch.float32)
    count = len(centres)
    return replace(
        one, image_names=tuple(f"{i:03d}" for i in range(count)), images=one.images[:1] * count, camtoworlds=poses, Ks=one.Ks[:1].repeat(count, 1, 1),
        points=torch.zeros(0, 3), colors=torch.zeros(0, 3, dtype=torch.uint8),
    )  # fmt: skip


def oracle(centres, context_views, targets, window):
    """By hand: distances in loops; the rest by the nearest position to evenly spaced ones."""
    first = (len(centres) - window) // 2
    inside = list(range(first, first + window))
    mean = np.mean([centres[i] for i in inside], axis=0)
    chosen = [max(inside, key=lambda i: (np.linalg.norm(centres[i] - mean), -i))]
    while len(chosen) < context_views:
        left = [i for i in inside if i not in chosen]
        chosen.append(max(left, key=lambda i: (min(np.linalg.norm(centres[i] - centres[j]) for j in chosen), -i)))
    rest = [i for i in inside if i not in chosen]
    count = min(targets, len(rest))
    places = [k * (len(rest) - 1) / max(1, count - 1) for k in range(count)]
    return tuple(sorted(chosen)), tuple(rest[int(np.rint(place))] for place in places)


@pytest.mark.parametrize(
    ("photos", "context_views", "targets", "window"), [(30, 8, 4, 20), (12, 2, 3, 12), (45, 16, 8, 40), (9, 8, 4, 9), (10, 1, 2, 4)]
)
def test_contexts_are_farthest_points_and_targets_even(photos, context_views, targets, window):
    for seed in range(5):
        centres = np.random.default_rng(seed).normal(size=(photos, 3)).astype(np.float32).astype(np.float64)
        assert choose_views(scene_of(centres), context_views, targets=targets, window=window) == oracle(centres, context_views, targets, window)


def test_cameras_in_one_place_are_still_different_photos():
    context, target = choose_views(scene_of(np.zeros((10, 3))), 4, targets=3, window=8)
    assert len(set(context)) == 4 and len(set(target)) == 3 and not set(context) & set(target) and {*context, *target} <= set(range(1, 9))


def test_the_window_narrows_until_neighbours_are_close():
    """Photos all around: 40 of them are too far apart, however they are chosen; the window is the widest that is not, found by trying all."""
    scene = tiny_scene(4)
    turn = torch.linspace(0, 2 * torch.pi, 61)[:60]
    poses = torch.eye(4).repeat(60, 1, 1)
    forward = torch.stack([turn.sin(), torch.zeros(60), turn.cos()], 1)
    poses[:, :3, 2], poses[:, :3, 3] = forward, -1.6 * forward
    poses[:, :3, 0] = torch.stack([turn.cos(), torch.zeros(60), -turn.sin()], 1)
    ring = replace(scene, image_names=tuple(map(str, range(60))), images=scene.images[:1] * 60, camtoworlds=poses, Ks=scene.Ks[:1].repeat(60, 1, 1))
    context, target = choose_views(ring, 8)

    def fits(window):
        return ring.view_angle(choose_views(ring, 8, window=window)[0]) <= 15

    widest = next(window for window in range(40, 11, -1) if fits(window))
    assert (context, target) == choose_views(ring, 8, window=widest) and 12 < widest < 40
    assert all(min(abs(a - b) for b in context) * 6 <= 15 for a in target)


@pytest.mark.parametrize(("count", "options"), [(0, {}), (10, {}), (3, {"targets": 0}), (3, {"window": 3})])
def test_numbers_that_make_no_sense(count, options):
    with pytest.raises(OptionError, match=r"context views must be 1 to 9|a window must hold more"):
        choose_views(tiny_scene(10), count, **options)


def test_an_index_survives_its_file(tmp_path):
    index = Index({"b": ((1, 4), (2, 3)), "a": None})
    (tmp_path / "index.json").write_text(json.dumps(index.to_json()))
    assert Index.read(tmp_path / "index.json") == index
    assert json.loads((tmp_path / "index.json").read_text()) == {"b": {"context": [1, 4], "target": [2, 3]}, "a": None}
    assert index.views_of(tiny_scene(10, name="b")) == ((1, 4), (2, 3))
    for name, views, message in (("a", 10, "skips a"), ("c", 10, "has no scene c: it has b, a"), ("b", 4, "names photo 4 of b, which has 4")):
        with pytest.raises(OptionError, match=message):
            index.views_of(tiny_scene(views, name=name))


@pytest.mark.parametrize(("context", "target"), list(itertools.product([[], [1, 1], [-1], [1, 2]], [[2], [], ["x"]])))
def test_an_index_that_makes_no_sense(tmp_path, context, target):
    (tmp_path / "index.json").write_text(json.dumps({"a": {"context": context, "target": target}}))
    with pytest.raises(OptionError, match=r"index\.json"):
        Index.read(tmp_path / "index.json")

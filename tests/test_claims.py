"""The table of claims, from runs with given numbers: what is met, what is short, what was not measured."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "bench"))
from made_cells import made_cell
from tiny_scenes import write_colmap

from learn2splat import load_scene


@pytest.fixture(scope="module")
def claims():
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "claims.py"
    spec = importlib.util.spec_from_file_location("claims", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["claims"] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def group(scene, finals, seed=0):
    """Cells of one pair: label -> PSNR after 1000 steps; before, a fifth, two fifths, three fifths of the way from 10 dB after 10, 30, 100 steps."""
    cells = {}
    for label, final in finals.items():
        curve = {0: 10.0, **{step: 10 + part * (final - 10) for step, part in ((10, 0.2), (30, 0.4), (100, 0.6), (1000, 1.0))}}
        cells[label] = made_cell(label, scene, seed, curve, peak_bytes=100 if label == "adam" else 105)
    return {(scene, seed): cells}


def test_rows_are_measured_against_the_best_rival_of_each_scene(claims, monkeypatch, tmp_path):
    first = {"adam": 20.0, "adam-tuned": 24.0, "adam-gsplat": 21.0, "adam-auto": 22.0, "nominal": 25.0, "learned": 26.0}
    second = {"adam": 20.0, "adam-tuned": 21.0, "adam-gsplat": 22.0, "adam-auto": 23.0, "nominal": 25.0, "learned": 24.9}
    main = {**group("a", first), **group("b", second)}
    monkeypatch.setattr(claims, "stored", lambda out, part: main if part is claims.PARTS[0] else {})
    by_name = {claim.what: claim for claim in claims.claims(tmp_path)}
    over_adam, over_nominal = by_name["equal time, over the best Adam"], by_name["equal time, over nominal"]
    assert over_adam.gaps == pytest.approx({"a": 2.0, "b": 1.9}) and over_adam.met
    assert over_nominal.gaps == pytest.approx({"a": 1.0, "b": -0.1}) and not over_nominal.met  # 0.45 in the mean, and behind on b
    assert "**short**" in over_nominal.row() and "b -0.10" in over_nominal.row()
    assert by_name["after 30 steps, over the best Adam"].gaps == pytest.approx({"a": 0.4 * 2.0, "b": 0.4 * 1.9})
    assert by_name["time of a step over that of adam"].gaps == pytest.approx({"a": 1.0, "b": 1.0})
    assert by_name["peak memory over that of adam"].met and by_name["peak memory over that of adam"].mean == pytest.approx(1.05)
    assert not by_name["50000 points, over the best Adam"].met and "not measured" in by_name["50000 points, over the best Adam"].row()


def test_the_seeds_said_are_those_of_the_scene_with_fewest(claims, monkeypatch, tmp_path):
    pairs = {"equal-time": [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2)], "sparse": [("a", 0)], "size-full": [("a", 0)]}
    monkeypatch.setattr(claims, "stored", lambda out, part: {key: {} for key in pairs.get(part.key, ())})
    assert claims.seeds_measured(tmp_path) == "Seeds: 2 of equal-time; 1 of sparse, size-full."


def test_a_run_that_never_gets_there_has_no_head_start(claims):
    cells = group("a", {"adam": 20.0, "adam-tuned": 24.0, "adam-gsplat": 21.0, "adam-auto": 22.0, "nominal": 25.0, "learned": 23.0})["a", 0]
    assert claims.share_of_time(cells) == float("inf")


def test_a_denser_start_lies_between_points(claims, tmp_path):
    scene = load_scene(write_colmap(tmp_path / "tiny"), long_side=24)
    more = claims.denser(scene, 3 * len(scene.points))
    assert len(more.points) == len(more.colors) == 3 * len(scene.points) and torch.equal(more.points[: len(scene.points)], scene.points)
    assert (more.points >= scene.points.amin(0) - 1e-6).all() and (more.points <= scene.points.amax(0) + 1e-6).all()
    assert claims.denser(scene, 1) is scene


def test_a_claim_measured_on_some_scenes_only_is_not_met(claims):
    some, all_ = ({"a": 0.0}, {"a": 0.0, "b": 0.0})
    assert not claims.Claim("x", 0.05, some, at_most=True, scenes=2).met and "partly" in claims.Claim("x", 0.05, some, at_most=True, scenes=2).row()
    assert claims.Claim("x", 0.05, all_, at_most=True, scenes=2).met

"""The table of claims, from runs with given numbers: what is met, what is short, what was not measured."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "bench"))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
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
    pairs = {"equal-time": [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2)], "views-2": [("a", 0)], "size-full": [("a", 0)]}
    monkeypatch.setattr(claims, "stored", lambda out, part: {key: {} for key in pairs.get(part.key, ())})
    assert claims.seeds_measured(tmp_path) == "Seeds: 2 of equal-time; 1 of views-2, size-full."


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


@pytest.fixture(scope="module")
def sparse(claims):
    return importlib.import_module("claims_sparse")


def test_starts_are_compared_at_step_0_and_when_the_shorter_run_ends(sparse, claims, monkeypatch, tmp_path):
    """PSNR of made cells is linear between points of 10 ms a step; step 0 is 10 dB, or what the curve says."""
    ours = {("a", 0): {label: made_cell(label, "a", 0, {0: 16.0, 1000: 26.0}) for label in claims.ALL}}
    stereo = {("a", 0): {label: made_cell(label, "a", 0, {0: 13.0, 500: 20.0}) for label in ("adam", "learned")}}
    cells = {"sparse-8-feedforward": ours, "sparse-8-stereo": stereo}
    monkeypatch.setattr(sparse, "stored", lambda out, part: next((cells.get(key, {}) for key, each in sparse.PARTS.items() if each is part), {}))
    rows = {claim.what: claim for claim in sparse.claims(tmp_path, 6)}
    assert rows["step 0, 8 views: feedforward over stereo"].gaps == pytest.approx({"a": 3.0})
    assert rows["equal time, learned: from feedforward over from stereo"].gaps == pytest.approx({"a": 1.0})  # 21 dB after half of the time, to 20
    assert rows["equal time, from feedforward: learned over the best Adam"].gaps == pytest.approx({"a": 0.0})
    assert not any(row.met for row in rows.values() if row.what != "size of all weights of the package")  # one scene of 18 is not all
    assert "not measured" in rows["joint weights against those of sparse or dense training alone: behind by"].row()
    assert rows["size of all weights of the package"].met


def test_depth_errors_are_those_by_hand(sparse):
    from types import SimpleNamespace

    from tiny_scenes import FOCAL, tiny_scene

    scene = tiny_scene(4)
    depth = torch.full((24, 32), 1.5)
    depth[:, :10] = torch.nan
    maps = SimpleNamespace(idx=(1, 3), depths=(depth, depth), Ks=scene.Ks[[1, 3]])
    expected = []
    for i in maps.idx:
        for point in scene.points:
            x, y, z = (scene.viewmats[i, :3, :3] @ point + scene.viewmats[i, :3, 3]).tolist()
            column, row = FOCAL * x / z + 16, FOCAL * y / z + 12
            if 0 <= column < 32 and 0 <= row < 24:
                expected.append(abs(1.5 / z - 1) if column >= 10 else float("inf"))
    assert torch.allclose(sparse.depth_errors(scene, scene, maps), torch.tensor(expected, dtype=torch.float64), atol=1e-5)


def test_only_sparse_prints_its_table_alone_and_fails_where_it_is_short(sparse, claims, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(claims, "run", lambda *arguments: None)
    monkeypatch.setattr(sparse, "scenes_of", lambda root, names: [])
    monkeypatch.setattr(claims, "roles", lambda root: {"a": "val"})
    monkeypatch.setattr(sys, "argv", ["claims.py", "--only", "sparse", "--out", str(tmp_path)])
    assert claims.main() == 1
    told = capsys.readouterr().out
    assert "feedforward over stereo" in told and "equal time, over the best Adam |" not in told
    monkeypatch.setattr(sys, "argv", ["claims.py", "--only", "none", "--out", str(tmp_path)])
    assert claims.main() == 1
    told = capsys.readouterr().out
    assert "feedforward over stereo" in told and "equal time, over the best Adam |" in told

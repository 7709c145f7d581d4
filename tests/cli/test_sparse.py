"""`fit` and `bench` with --setting sparse: few photos, all of them in every step, nothing of the others; an index; what cannot be is one sentence."""

import json

import numpy as np
import pytest
from tiny_scenes import tiny_scene, write_colmap

from learn2splat import load_scene
from learn2splat.bench import read_cells
from learn2splat.cli import main
from learn2splat.scenes.views import choose_views


def fitted(folder, *options):
    assert main(["fit", *map(str, options), "--optimizer", "nominal", "--steps", "3", "--no-report", "--out", str(folder)]) == 0
    return json.loads((folder / "config.json").read_text())


def test_a_sparse_fit_uses_its_context_alone(scene_folder, tmp_path, capsys):
    config = fitted(tmp_path / "out", scene_folder, "--setting", "sparse", "--context-views", "3", "--init", "sfm")
    context, target = choose_views(load_scene(scene_folder), 3)
    assert config["scene"]["views"] == {"context": list(context), "target": list(target)}
    assert config["scene"]["train_photos"] == [f"view_{i:02d}.png" for i in context]
    assert config["plan"]["stages"] == [{"until": 1.0, "long_side": 32, "views_per_step": 3}] and config["plan"]["growth"] == []
    assert config["options"]["densify"] == "none" and "triangulated from the 3 context photos alone" in capsys.readouterr().err
    psnr = json.loads((tmp_path / "out" / "metrics.json").read_text())["psnr"]
    assert main(["eval", str(tmp_path / "out"), "--json"]) == 0  # on the same held-out photos, whose frame is another one
    assert json.loads(capsys.readouterr().out)["psnr"] == pytest.approx(psnr, abs=0.01)


def test_growth_only_where_it_is_asked_for(scene_folder, tmp_path):
    config = fitted(tmp_path / "out", scene_folder, "--setting", "sparse", "--context-views", "3", "--densify", "error", "--init", "sfm")
    assert config["plan"]["density"] == "error"


@pytest.mark.parametrize(("views", "init"), [(2, "feedforward"), (4, "random"), (1, "feedforward"), (1, "random")])
def test_any_number_of_photos_is_a_run(scene_folder, tmp_path, views, init):
    config = fitted(tmp_path / "out", scene_folder, "--setting", "sparse", "--context-views", views, "--init", init)
    assert len(config["scene"]["train_photos"]) == views


def test_an_index_says_which(scene_folder, tmp_path, capsys, sentence):
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"tiny": {"context": [1, 8, 5], "target": [2, 3]}, "other": None}))
    sparse = ("--setting", "sparse", "--index", index)
    assert fitted(tmp_path / "out", scene_folder, *sparse, "--init", "sfm")["scene"]["views"] == {"context": [1, 5, 8], "target": [2, 3]}
    bench = ["bench", scene_folder, *sparse, "--optimizers", "nominal", "--budget", "steps:2", "--out", tmp_path / "bench"]
    assert main([str(part) for part in bench]) == 0
    (cell,) = read_cells(tmp_path / "bench")
    assert json.loads((cell.path.parents[1] / "views.json").read_text())["tiny"] == {"context": [1, 5, 8], "target": [2, 3]}
    assert cell.header["protocol"]["context_views"] == 3 and cell.header["protocol"]["views_per_step"] == 3
    capsys.readouterr()
    for content, message in ({"tiny": None}, "skips tiny"), ({"a": {"context": [1], "target": [2]}}, "has no scene tiny"):
        index.write_text(json.dumps(content))
        assert message in sentence("fit", scene_folder, *sparse, "--out", tmp_path / "no")
    index.write_text(json.dumps({"tiny": {"context": [1], "target": [99]}}))
    assert "names photo 99 of tiny, which has 10" in sentence("fit", scene_folder, *sparse, "--out", tmp_path / "no")


def test_starts_of_a_bench_have_rows_of_their_own(scene_folder, tmp_path):
    counts = {}
    for init in ("sfm", "random"):
        command = ["bench", scene_folder, "--setting", "sparse", "--context-views", 4, "--init", init, "--optimizers", "nominal"]
        assert main([str(part) for part in [*command, "--budget", "steps:1", "--out", tmp_path / "out"]]) == 0
    for cell in read_cells(tmp_path / "out"):
        counts[cell.header["protocol"].get("init", "sfm")] = cell.header["scene"]["gaussians"]
        assert cell.header["protocol"]["views"] and cell.header["scene"]["context"] == 4
    assert counts == {"sfm": 40, "random": 5000}


def test_what_cannot_be_is_one_sentence(scene_folder, tmp_path, sentence):
    out = ("--out", tmp_path / "out")
    assert "--context-views belongs to --setting sparse" in sentence("fit", scene_folder, "--context-views", "3", *out)
    assert "--index belongs to --setting sparse" in sentence("fit", scene_folder, "--index", tmp_path / "i.json", *out)
    assert "is no evaluation index" in sentence("fit", scene_folder, "--setting", "sparse", "--index", tmp_path / "i.json", *out)
    assert "context views must be 1 to 9" in sentence("fit", scene_folder, "--setting", "sparse", "--context-views", "10", *out)
    assert "brings no depth maps" in sentence("fit", scene_folder, "--init", "depth", *out)
    assert not (tmp_path / "out").exists()


def test_photos_of_two_sizes_are_fitted(tmp_path):
    from learn2splat.fitting import fit
    from learn2splat.gaussians import init_from_points
    from learn2splat.scenes.context import context_scene

    scene = context_scene(tiny_scene(10, two_sizes=True), (1, 4, 6), (2, 5))
    result = fit(scene, init_from_points(scene.points, scene.colors), "nominal", steps=3, views_per_step=3)
    assert result.steps == 3 and not result.diverged


def test_too_few_photos(tmp_path, sentence):
    small = write_colmap(tmp_path / "small", 3)
    assert "context views must be 1 to 2" in sentence("fit", small, "--setting", "sparse", "--out", tmp_path / "out")


def test_a_sparse_run_can_be_resumed(scene_folder, tmp_path):
    options = [
        "fit",
        str(scene_folder),
        "--setting",
        "sparse",
        "--context-views",
        "3",
        "--init",
        "random",
        "--max-points",
        "50",
        "--optimizer",
        "nominal",
    ]
    for name, steps in (("through", ["6"]), ("stopped", ["3", "6"])):
        for count in steps:
            resume = ["--resume"] if count != steps[0] else []
            assert main([*options, "--steps", count, "--no-report", "--out", str(tmp_path / name), *resume]) == 0
    first, second = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("through", "stopped"))
    assert first["steps"] == second["steps"] == 6 and second["curve"][0] == {**first["curve"][0], "seconds": second["curve"][0]["seconds"]}
    assert [photo["name"] for photo in first["photos"]] == [photo["name"] for photo in second["photos"]] and len(second["photos"]) == 4


def test_a_folder_of_depth_maps_beside_a_colmap_model_is_a_start(tmp_path, capsys):
    scene = write_colmap(tmp_path / "tiny")
    (scene / "depth").mkdir()
    for photo in (scene / "images").iterdir():
        np.save(scene / "depth" / f"{photo.stem}.npy", np.full((24, 32), 7.0, np.float32))  # of no unit that anybody knows
    assert fitted(tmp_path / "out", scene, "--init", "depth")["num_gaussians"] == 8 * 8 * 6
    assert fitted(tmp_path / "few", scene, "--init", "depth", "--setting", "sparse", "--context-views", "3")["num_gaussians"] == 3 * 8 * 6

"""`learn2splat init`, `fit --init feedforward`, and the choice of the start where a scene has no points."""

from __future__ import annotations

import json
import shutil

import numpy as np
from PIL import Image

from learn2splat.cli import main
from learn2splat.gaussians import load_splat
from learn2splat.scenes import load_scene


def without_points(scene_folder, folder):
    shutil.copytree(scene_folder, folder)
    for path in (folder / "sparse" / "0").glob("points3D.*"):
        path.unlink()
    return folder


def test_a_splat_and_a_picture_of_the_depth_of_every_photo(scene_folder, tmp_path, capsys):
    out = tmp_path / "start.ply"
    assert main(["init", str(scene_folder), "--out", str(out), "--max-gaussians", "60"]) == 0
    assert "60 Gaussians of 8 photos" in capsys.readouterr().out
    splat, scene = load_splat(out), load_scene(scene_folder)
    points = scene.to_normalised.inverse().apply(scene.points)
    assert len(splat) == 60
    assert (splat.means.median(0).values - points.median(0).values).norm() < (points - points.median(0).values).norm(dim=1).median()  # in their frame
    pictures = sorted((tmp_path / "start-depth").iterdir())
    assert len(pictures) == 8
    assert np.array(Image.open(pictures[0])).std() > 10
    assert main(["fit", str(scene_folder), "--steps", "1", "--init", str(out), "--out", str(tmp_path / "fit"), "--json"]) == 0


def test_mistakes_are_named(scene_folder, tmp_path, sentence):
    assert ".ply" in sentence("init", scene_folder, "--out", tmp_path / "start.spz")
    assert "at least 1" in sentence("init", scene_folder, "--out", tmp_path / "start.ply", "--max-gaussians", "0")


def test_a_scene_without_points_starts_from_its_photos_and_says_so(scene_folder, tmp_path, capsys):
    bare = without_points(scene_folder, tmp_path / "bare")
    run = ["fit", str(bare), "--steps", "1", "--json", "--max-points", "50"]
    assert main([*run, "--out", str(tmp_path / "a")]) == 0
    captured = capsys.readouterr()
    assert "too few to start from" in captured.err and json.loads(captured.out)["num_gaussians"] >= 50
    assert main([*run, "--out", str(tmp_path / "b"), "--init", "feedforward"]) == 0
    assert "too few" not in capsys.readouterr().err

"""`fit(scene)` and nothing else, and what a fit of all photos or of one Gaussian does."""

import dataclasses

import pytest
import torch
from tiny_scenes import tiny_scene, write_colmap

from learn2splat import fit, init_from_points, load_ply, load_scene, transform_gaussians
from learn2splat.cli import main


def test_fit_of_a_scene_is_saved_in_the_frame_of_its_files(tmp_path):
    scene = load_scene(write_colmap(tmp_path / "scene"))
    result = fit(scene, steps=2)
    start = init_from_points(scene.points, scene.colors, generator=torch.Generator().manual_seed(0))
    same = fit(scene, start, "learned", steps=2)
    assert torch.equal(result.gaussians.flatten(), same.gaussians.flatten())
    result.save_ply(tmp_path / "splat.ply")
    expected = transform_gaussians(result.gaussians, scene.to_normalised.inverse())
    torch.testing.assert_close(load_ply(tmp_path / "splat.ply").means, expected.means, rtol=0, atol=1e-6)


def test_without_points_it_starts_at_random():
    scene = tiny_scene()
    empty = dataclasses.replace(scene, points=scene.points[:0], colors=scene.colors[:0])
    assert len(fit(empty, optimizer="adam", steps=0, eval_at=()).gaussians) == 5000


def test_records_are_told_in_a_line(tmp_path):
    scene = tiny_scene()
    result = fit(scene, optimizer="adam", steps=1)
    assert repr(scene) == "Scene('tiny': 8 + 2 photos of 32x24 px, 40 points)"
    assert repr(result.gaussians) == "Gaussians(40, float32 on cpu)" and repr(result).startswith("FitResult(adam: ")


def test_all_photos_can_be_fitted(tmp_path, capsys):
    folder = write_colmap(tmp_path / "scene")
    assert main(["fit", str(folder), "--test-every", "0", "--steps", "2", "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    assert "on 2 fitted photos" in told.out and "all photos are fitted" in told.err
    with pytest.warns(UserWarning, match="all photos are fitted"):
        scene = load_scene(folder, test_every=0)
    assert scene.fits_all and len(scene.train_idx) == 10 and scene.test_idx == (0, 8)
    assert main(["eval", str(tmp_path / "out")]) == 0


def test_a_single_gaussian_is_saved(tmp_path):
    folder = write_colmap(tmp_path / "scene")
    assert main(["fit", str(folder), "--max-points", "1", "--densify", "none", "--steps", "2", "--out", str(tmp_path / "out")]) == 0

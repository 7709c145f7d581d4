"""Georeferenced scenes: coordinates that float32 cannot hold, and splats that are written and read back all the same."""

import json
from dataclasses import replace

import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image
from scene_makers import write_scene
from tiny_scenes import blobs, write_colmap

from learn2splat.cli import main
from learn2splat.gaussians import load_offset, load_ply, save_ply, transform_gaussians
from learn2splat.scenes import load_scene
from learn2splat.scenes._normalise import FAR, local_origin, shift_and_scale

UTM = np.array([691607.25, 5334760.5, 519.0])


def moved(root, offset, scale=1.0):
    model = str(root / "sparse" / "0")
    reconstruction = pycolmap.Reconstruction(model)
    reconstruction.transform(pycolmap.Sim3d(scale, pycolmap.Rotation3d(), np.asarray(offset, float)))
    for file in (root / "sparse" / "0").iterdir():
        file.unlink()
    reconstruction.write_binary(model)
    return root


@pytest.mark.parametrize("offset, scale", [(UTM, 1.0), (UTM, 0.02), (-UTM, 300.0), ([0, 0, 6.4e6], 10.0)])
def test_far_scenes_get_a_local_frame(tmp_path, offset, scale):
    write_scene(tmp_path / "s", count=3)
    plain = load_scene(tmp_path / "s")
    with pytest.warns(UserWarning, match=r"results are in a local frame; add \(.*\) to get the frame of the files"):
        far = load_scene(moved(tmp_path / "s", offset, scale))
    torch.testing.assert_close(far.points, plain.points, rtol=0, atol=1e-5)
    torch.testing.assert_close(far.camtoworlds, plain.camtoworlds, rtol=0, atol=1e-5)
    reconstruction = pycolmap.Reconstruction(str(tmp_path / "s" / "sparse" / "0"))
    expected = np.stack([reconstruction.points3D[i].xyz for i in sorted(reconstruction.points3D)])
    in_input_frame = far.to_normalised.inverse().apply(far.points.double()).numpy()
    np.testing.assert_allclose(in_input_frame + far.offset.numpy(), expected, rtol=0, atol=1e-5 * scale)
    assert np.abs(in_input_frame).max() < FAR / far.to_normalised.scale  # what float32 can hold
    assert len(f"{float(far.offset.abs().max()):.10g}") <= 9  # a number that people can type


def test_near_scenes_have_none(tmp_path):
    write_scene(tmp_path / "s", count=3)
    assert load_scene(tmp_path / "s").offset is None
    assert local_origin(shift_and_scale(np.array([0.9 * FAR, 0, 0]), 1.0)) is None
    assert local_origin(shift_and_scale(np.array([1.1 * FAR, 0, 0]), 1.0)) is not None


def test_the_offset_is_in_the_header_and_nowhere_else(tmp_path):
    save_ply(tmp_path / "a.ply", blobs(3), offset=torch.from_numpy(UTM))
    assert load_offset(tmp_path / "a.ply").tolist() == UTM.tolist()
    save_ply(tmp_path / "b.ply", blobs(3))
    assert load_offset(tmp_path / "b.ply") is None and load_offset(tmp_path / "none.ply") is None
    assert torch.equal(load_ply(tmp_path / "a.ply").flatten(), load_ply(tmp_path / "b.ply").flatten())


def test_splats_in_any_of_the_frames_of_a_scene(tmp_path):
    """With the scene's offset, with another one, without any in the local frame, without any in the frame of the files (as far as float32 goes)."""
    write_scene(tmp_path / "s", count=3)
    scene = replace(load_scene(tmp_path / "s"), offset=torch.from_numpy(UTM))
    truth = blobs(20)
    local = transform_gaussians(truth, scene.to_normalised.inverse())

    def back(gaussians, offset):
        return transform_gaussians(gaussians, scene.frame_of(offset, gaussians.means.median(dim=0).values)).means

    shift = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(back(local, scene.offset), truth.means, rtol=0, atol=1e-5)
    torch.testing.assert_close(back(replace(local, means=local.means - shift.float()), scene.offset + shift), truth.means, rtol=0, atol=1e-5)
    torch.testing.assert_close(back(local, None), truth.means, rtol=0, atol=1e-5)
    in_files = replace(local, means=(local.means.double() + scene.offset).float())
    torch.testing.assert_close(back(in_files, None), truth.means, rtol=0, atol=0.2)
    plain = replace(scene, offset=None)
    assert plain.frame_of(None, truth.means[0]).translation.tolist() == scene.to_normalised.translation.tolist()


def test_eval_of_the_written_splat_is_the_fit(tmp_path, capsys):
    root = moved(write_colmap(tmp_path / "s", views=9), UTM)
    assert main(["fit", str(root), "--steps", "15", "--out", str(tmp_path / "out"), "--json"]) == 0
    fitted = json.loads(capsys.readouterr().out)["psnr"]
    assert main(["eval", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["psnr"] == pytest.approx(fitted, abs=1e-3)
    offset = json.loads((tmp_path / "out" / "config.json").read_text())["scene"]["offset"]
    assert load_offset(tmp_path / "out" / "point_cloud.ply").tolist() == offset and np.abs(np.array(offset) - UTM).max() < 100
    assert main(["eval", str(tmp_path / "out" / "point_cloud.ply"), "--scene", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["psnr"] == pytest.approx(fitted, abs=1e-3)
    pictures = ["render", str(tmp_path / "out" / "point_cloud.ply"), "--cameras", str(root), "--png", "--out", str(tmp_path / "pictures")]
    assert main(pictures) == 0  # cameras in UTM, the splat in its local frame
    (pair,) = (tmp_path / "out" / "renders").glob("00000_*.png")
    rendered = np.asarray(Image.open(tmp_path / "pictures" / "frame_0000.png")).astype(int)
    assert np.abs(rendered - np.asarray(Image.open(pair)).astype(int)[:, rendered.shape[1] :]).max() <= 2
    assert main(["export", str(tmp_path / "out"), "--format", "splat", "--out", str(tmp_path / "x.splat")]) == 0
    assert "splat has no place for the offset" in capsys.readouterr().err
    again = ["fit", str(root), "--init", str(tmp_path / "out" / "point_cloud.ply"), "--steps", "0", "--out", str(tmp_path / "again"), "--json"]
    assert main(again) == 0
    assert json.loads(capsys.readouterr().out)["psnr"] == pytest.approx(fitted, abs=1e-3)

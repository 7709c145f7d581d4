"""`export`, `eval` and `render` with splats of any format, with and without a scene."""

import json
import os

import imageio.v2 as imageio
import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image
from tiny_scenes import FOCAL, HEIGHT, WIDTH, arc, blobs

from learn2splat.cli import main
from learn2splat.cli.camera_files import read_shots
from learn2splat.cli.splat_cameras import frame_of, up_of
from learn2splat.errors import SceneError
from learn2splat.gaussians import FORMATS, Gaussians, load_splat, save_splat
from learn2splat.gaussians.formats import SUFFIXES


def stretched(x, y, z, count=2000):
    """Solid Gaussians in a box of these sides, far from the origin."""
    g = blobs(count)
    g.means = g.means * torch.tensor([x, y, z]) + torch.tensor([100.0, 50.0, -20.0])
    return g


@pytest.fixture
def splat(fitted, tmp_path):
    path = tmp_path / "mine.ply"
    path.write_bytes((fitted / "point_cloud.ply").read_bytes())
    return path


def test_export_writes_every_format_beside_the_input_or_where_it_is_told(fitted, splat, tmp_path, capsys, sentence):
    count = len(load_splat(splat))
    for form in FORMATS[1:]:
        assert main(["export", str(splat), "--format", form]) == 0
        assert f"{count} Gaussians in {tmp_path / 'mine'}{SUFFIXES[form]}" in capsys.readouterr().out
        assert len(load_splat(tmp_path / f"mine{SUFFIXES[form]}")) == count
    out = tmp_path / "new" / "a.spz"
    assert main(["export", str(fitted), "--out", str(out)]) == 0  # a folder of fit; the suffix says which format
    assert out.read_bytes() == (tmp_path / "mine.spz").read_bytes()
    assert main(["export", str(out), "--format", "ply"]) == 0
    assert (tmp_path / "new" / "a.ply").exists()
    before = splat.read_bytes()
    for arguments, words in (
        (["--format", "ply"], "is the input"),
        ([], "say --format"),
        (["--out", tmp_path / "a.obj"], "names no splat format"),
    ):
        assert words in sentence("export", splat, *arguments)
    assert splat.read_bytes() == before
    assert "no splat file" in sentence("export", tmp_path / "gone.spz", "--format", "ply")
    assert "no result in" in sentence("export", tmp_path / "new", "--format", "ply")


def test_eval_scores_any_splat_on_a_scene(fitted, splat, scene_folder, tmp_path, capsys, sentence):
    expected = json.loads((fitted / "metrics.json").read_text())["psnr"]
    assert main(["export", str(splat), "--format", "compressed-ply"]) == 0
    capsys.readouterr()
    for path, tolerance in ((splat, 2e-3), (tmp_path / "mine.compressed.ply", 0.5)):
        assert main(["eval", str(path), "--scene", str(scene_folder), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["psnr"] == pytest.approx(expected, abs=tolerance)
    assert main(["eval", str(splat), "--scene", str(scene_folder), "--test-every", "2", "--long-side", "20", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["photos"]) == 5
    assert "say with --scene" in sentence("eval", splat)
    assert "--test-every goes with a splat file" in sentence("eval", fitted, "--test-every", "2")


def test_render_without_a_scene(splat, tmp_path, sentence):
    assert main(["export", str(splat), "--format", "sog"]) == 0
    assert main(["render", str(tmp_path / "mine.sog"), "--frames", "4", "--width", "64"]) == 0
    frames = imageio.mimread(tmp_path / "mine.mp4")
    assert len(frames) == 4 and frames[0].shape == (48, 64, 3) and all(np.std(frame) > 10 for frame in frames)
    assert main(["render", str(splat), "--path", "interpolate", "--frames", "3", "--width", "32", "--png", "--depth", "--up=-y"]) == 0
    assert sorted(os.listdir(tmp_path / "mine")) == [f"frame_000{i}.{suffix}" for i in range(3) for suffix in ("npy", "png")]
    depth = np.load(tmp_path / "mine" / "frame_0000.npy")
    assert depth.shape == (24, 32) and depth.dtype == np.float32 and 0.5 < np.nanmedian(depth) < 10
    assert np.asarray(Image.open(tmp_path / "mine" / "frame_0000.png")).std() > 5
    assert "for pictures add --png" in sentence("render", splat, "--out", tmp_path / "folder")
    assert "does not go with --cameras" in sentence("render", splat, "--path", "orbit", "--cameras", tmp_path)
    assert "no cameras in" in sentence("render", splat, "--cameras", tmp_path)


def test_render_from_given_cameras_is_what_the_fit_rendered(fitted, splat, scene_folder, tmp_path):
    """The held-out renders of `fit`, from the COLMAP model and from the same poses as a transforms.json, without photos."""
    shots = read_shots(scene_folder)
    frames = [{"file_path": shot.name, "transform_matrix": (shot.camtoworld @ np.diag([1, -1, -1, 1])).tolist()} for shot in shots]
    file = tmp_path / "cameras.json"
    file.write_text(json.dumps({"fl_x": FOCAL, "w": WIDTH, "h": HEIGHT, "frames": frames}))
    for cameras in (scene_folder, file):
        out = tmp_path / "pictures"
        assert main(["render", str(splat), "--cameras", str(cameras), "--png", "--out", str(out)]) == 0
        for i in (0, 8):
            pair = np.asarray(Image.open(fitted / "renders" / f"{i:05d}_view_{i:02d}.png")).astype(int)
            assert np.abs(np.asarray(Image.open(out / f"frame_{i:04d}.png")) - pair[:, WIDTH:]).max() <= 2
    assert main(["render", str(splat), "--scene", str(scene_folder), "--frames", "2", "--out", str(tmp_path / "a.mp4")]) == 0
    assert imageio.mimread(tmp_path / "a.mp4")[0].shape == (HEIGHT, WIDTH, 3)


def test_cameras_of_several_flavours(tmp_path):
    poses = arc(2).double().numpy() @ np.diag([1, -1, -1, 1])
    shift = np.array([[0.0, 1, 0, 5], [0, 0, 1, 0], [1, 0, 0, 0]])
    moved = (np.vstack([shift, [0, 0, 0, 1]]) @ poses).tolist()
    file = tmp_path / "transforms.json"
    meta = {"camera_angle_x": 2 * np.arctan(0.5), "applied_transform": shift.tolist(), "frames": [{"transform_matrix": pose} for pose in moved]}
    file.write_text(json.dumps(meta))
    shots = read_shots(tmp_path)
    assert np.allclose(shots[1].camtoworld, arc(2)[1], atol=1e-6)
    assert (shots[0].width, shots[0].K[0, 0], shots[0].K[1, 2]) == (800, pytest.approx(800), 400)
    small = shots[0].resized(101)
    assert (small.width, small.height, small.K[0, 0], small.K[0, 2]) == (100, 100, pytest.approx(100), 50)
    for broken in ({"frames": []}, {"frames": [{}]}, {"frames": [{"transform_matrix": np.eye(4).tolist()}]}, [], {"frames": 3}):
        file.write_text(json.dumps(broken))
        with pytest.raises(SceneError, match="transforms"):
            read_shots(file)


def test_cameras_of_a_binary_model(scene_folder, tmp_path):
    """As pycolmap writes it; and cut anywhere, it is an error."""
    pycolmap.Reconstruction(scene_folder / "sparse" / "0").write_binary(tmp_path)
    for shot, expected in zip(read_shots(tmp_path), read_shots(scene_folder), strict=True):
        assert shot.name == expected.name and np.allclose(shot.camtoworld, expected.camtoworld) and np.allclose(shot.K, expected.K)
    whole = (tmp_path / "images.bin").read_bytes()
    for length in (0, 1, 30, 75, len(whole) // 2):
        (tmp_path / "images.bin").write_bytes(whole[:length])
        with pytest.raises(SceneError, match="truncated or not a COLMAP file"):
            read_shots(tmp_path)


@pytest.mark.parametrize(
    ("box", "up"),
    [((10, 1, 10), (0, -1, 0)), ((10, 10, 1), (0, 0, 1)), ((1, 10, 10), (1, 0, 0)), ((10, 10, 10), (0, -1, 0))],
)
def test_which_way_is_up(box, up):
    assert np.allclose(up_of(stretched(*box)), up, atol=0.05)
    assert up_of(stretched(*box), "-z").tolist() == [0, 0, -1]


def test_the_centre_is_where_most_of_a_splat_is():
    haze = blobs(300, 1)
    haze.means, haze.logit_opacities = haze.means * 1000, haze.logit_opacities - 8
    g = Gaussians.cat([stretched(2, 2, 2), haze])
    frame = frame_of(g)
    assert np.allclose(frame.inverse().apply(torch.zeros(3, dtype=torch.float64)), [100, 50, -20], atol=0.1)
    assert 1 / frame.scale == pytest.approx(2.5, rel=0.1)  # the median distance in a cube of side 2 is 0.99


def test_one_gaussian_can_be_looked_at(tmp_path):
    save_splat(tmp_path / "one.ply", blobs(1))
    assert main(["render", str(tmp_path / "one.ply"), "--frames", "2", "--width", "16"]) == 0

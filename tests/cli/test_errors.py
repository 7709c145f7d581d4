"""Every named mistake gets one sentence and exit code 2, through the whole command line."""

import errno
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import plyfile
import pycolmap
import pytest
from tiny_scenes import write_colmap

from learn2splat.cli import main
from learn2splat.errors import SceneError
from learn2splat.fitting.checkpoint import load_checkpoint


@pytest.fixture
def own_scene(scene_folder, tmp_path):
    """A copy of the scene that a test may break."""
    return shutil.copytree(scene_folder, tmp_path / "own")


def to_binary(scene):
    """The model of `scene` as binary files, by pycolmap."""
    model = scene / "sparse" / "0"
    reconstruction = pycolmap.Reconstruction(model)
    for file in model.glob("*.txt"):
        file.unlink()
    reconstruction.write_binary(model)
    return model


def test_no_colmap_model(tmp_path, sentence):
    assert "no COLMAP model in" in sentence("fit", tmp_path, "--out", tmp_path / "out")
    assert "no such folder" in sentence("fit", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["cameras.bin", "images.bin", "points3D.bin"])
@pytest.mark.parametrize("keep", [3, 0.6])
def test_truncated_binary(own_scene, tmp_path, sentence, file, keep):
    path = to_binary(own_scene) / file
    data = path.read_bytes()
    path.write_bytes(data[: keep if keep > 1 else int(keep * len(data))])
    assert file in sentence("fit", own_scene, "--steps", "1", "--out", tmp_path / "out")


def test_unreadable_binary(own_scene, tmp_path, sentence, monkeypatch):
    to_binary(own_scene)

    def refuse(path, *args, **options):
        if Path(path).name == "images.bin":  # chmod does not keep root, who runs CI, from reading
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open(path, *args, **options)

    monkeypatch.setattr("learn2splat.scenes._colmap_binary.open", refuse, raising=False)
    message = sentence("fit", own_scene, "--steps", "1", "--out", tmp_path / "out")
    assert "images.bin" in message and "Permission denied" in message


@pytest.mark.parametrize("content", [None, b"", b"not a photo at all", 200])
def test_a_photo_that_is_missing_or_corrupt_is_left_out_and_named_once(own_scene, tmp_path, capsys, content):
    path = own_scene / "images" / "view_03.png"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:content] if isinstance(content, int) else content)
    assert main(["fit", str(own_scene), "--steps", "1", "--out", str(tmp_path / "out")]) == 0
    err = capsys.readouterr().err
    assert "note: left out photo view_03.png: " in err and err.count("left out") == 1


def test_no_points(own_scene, tmp_path, sentence):
    model = own_scene / "sparse" / "0"
    (model / "points3D.txt").write_text("")
    lines = (model / "images.txt").read_text().splitlines()
    (model / "images.txt").write_text("\n".join("" if i % 2 else line for i, line in enumerate(lines)) + "\n")
    assert "no points" in sentence("fit", own_scene, "--init", "sfm", "--steps", "1", "--out", tmp_path / "out")


def test_fewer_than_two_views(tmp_path, sentence):
    """Two photos, one of which has no overlap: one is left."""
    scene = write_colmap(tmp_path / "two", views=2)
    turn_around(scene, "view_01.png")
    assert "fewer than two usable photos with a pose (1)" in sentence("fit", scene, "--steps", "1", "--out", tmp_path / "out")


def turn_around(scene, name):
    """Make the camera of photo `name` look the other way, so that it sees no point."""
    path = scene / "sparse" / "0" / "images.txt"
    lines = path.read_text().splitlines()
    for i in range(0, len(lines), 2):
        words = lines[i].split()
        if words[9] == name:
            qw, qx, qy, qz, tx, ty, tz = map(float, words[1:8])
            # A turn by 180 degrees about the camera's y axis: quaternion (0, 0, 1, 0) times q, and x and z of t change sign.
            words[1:8] = map(repr, (-qy, qz, qw, -qx, -tx, ty, -tz))
            lines[i] = " ".join(words)
    path.write_text("\n".join(lines) + "\n")


def test_a_photo_with_no_overlap_is_left_out_and_named(own_scene, tmp_path, capsys):
    turn_around(own_scene, "view_05.png")
    assert main(["fit", str(own_scene), "--steps", "1", "--out", str(tmp_path / "out")]) == 0
    err = capsys.readouterr().err
    assert "left out photo view_05.png" in err
    assert err.count("view_05.png") == 1 and "UserWarning" not in err


def test_no_photo_has_overlap(own_scene, tmp_path, sentence):
    for i in range(10):
        turn_around(own_scene, f"view_{i:02d}.png")
    assert "fewer than two usable photos with a pose (0)" in sentence("fit", own_scene, "--steps", "1", "--out", tmp_path / "out")


def test_nan_in_the_input_ply(fitted, scene_folder, tmp_path, sentence):
    ply = plyfile.PlyData.read(fitted / "point_cloud.ply")
    vertices = ply["vertex"].data.copy()
    vertices["opacity"][:] = np.nan
    path = tmp_path / "broken.ply"
    plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")]).write(path)
    message = sentence("fit", scene_folder, "--steps", "1", "--init", path, "--out", tmp_path / "out")
    assert "broken.ply" in message and "finite" in message
    assert "gone.ply" in sentence("fit", scene_folder, "--steps", "1", "--init", tmp_path / "gone.ply", "--out", tmp_path / "out")


def test_resume_of_another_scene(fitted, tmp_path, sentence):
    other = write_colmap(tmp_path / "other", seed=5)
    before = (fitted / "config.json").read_bytes()
    message = sentence("fit", other, "--optimizer", "nominal", "--steps", "12", "--out", fitted, "--resume")
    assert "belongs to another run: scene is tiny there and other here" in message
    assert (fitted / "config.json").read_bytes() == before


def test_resume_with_other_options(fitted, scene_folder, sentence):
    assert "seed is 0 there and 3 here" in sentence("fit", scene_folder, "--optimizer", "nominal", "--out", fitted, "--resume", "--seed", "3")
    assert "photo size is 32x24 there and 16x12 here" in sentence(
        "fit", scene_folder, "--optimizer", "nominal", "--out", fitted, "--resume", "--long-side", "16"
    )


def test_resume_from_a_damaged_checkpoint(fitted, scene_folder, tmp_path, sentence):
    out = shutil.copytree(fitted, tmp_path / "out")
    path = out / "checkpoint" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    assert "truncated or damaged" in sentence("fit", scene_folder, "--optimizer", "nominal", "--steps", "20", "--out", out, "--resume")


def test_disk_full_while_saving(fitted, scene_folder, tmp_path, sentence):
    """The operating system refuses to let a file grow beyond 4 kB (EFBIG); what was there stays."""
    out = shutil.copytree(fitted, tmp_path / "out")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        code = main(["fit", str(scene_folder), "--optimizer", "nominal", "--steps", "14", "--out", str(out), "--resume"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    assert load_checkpoint(out / "checkpoint")[1]["step"] == 12
    assert os.listdir(out / "checkpoint") == ["state.safetensors"]
    assert (out / "point_cloud.ply").read_bytes() == (fitted / "point_cloud.ply").read_bytes()


def test_disk_full_is_one_sentence(fitted, scene_folder, tmp_path, monkeypatch, capsys):
    from learn2splat import files

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    assert main(["fit", str(scene_folder), "--steps", "1", "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err.strip()
    assert "could not write" in err and "No space left on device" in err and "\n" not in err


def test_out_is_a_file(scene_folder, tmp_path, sentence):
    (tmp_path / "out").write_text("mine")
    assert "is a file" in sentence("fit", scene_folder, "--steps", "1", "--out", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_no_cuda(scene_folder, fitted, tmp_path, sentence, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "finds none: use --device cpu" in sentence("fit", scene_folder, "--device", "cuda", "--out", tmp_path / "out")
    assert "finds none: use --device cpu" in sentence("eval", fitted, "--device", "cuda")
    assert "finds none: use --device cpu" in sentence("train", "--device", "cuda", "--out", tmp_path / "trained")


def test_values_that_make_no_sense(scene_folder, fitted, tmp_path, sentence):
    out = ("--out", tmp_path / "out")
    assert "unknown optimizer 'adamm'" in sentence("fit", scene_folder, "--optimizer", "adamm", *out)
    assert "steps must be 0 or more" in sentence("fit", scene_folder, "--steps", "-1", *out)
    assert "--max-seconds must be positive" in sentence("fit", scene_folder, "--max-seconds", "-1", *out)
    assert "--views-per-step must be at least 1" in sentence("fit", scene_folder, "--views-per-step", "0", *out)
    assert "--max-points must be at least 1" in sentence("fit", scene_folder, "--max-points", "0", *out)
    assert "--long-side" in sentence("fit", scene_folder, "--long-side", "-1", *out)
    assert "--test-every" in sentence("fit", scene_folder, "--test-every", "1", *out)
    assert "--init must be" in sentence("fit", scene_folder, "--init", "sparse", *out)
    assert "--save-every must be positive" in sentence("fit", scene_folder, "--save-every", "0", *out)
    assert "no result in" in sentence("eval", tmp_path)
    assert "--frames must be at least 2" in sentence("render", fitted, "--frames", "1")
    assert "an .mp4 file" in sentence("render", fitted, "--out", tmp_path / "video.gif")
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_trace(tmp_path):
    with pytest.raises(SceneError):
        main(["fit", str(tmp_path), "--out", str(tmp_path / "out"), "--debug"])


def test_an_unknown_option_is_refused(scene_folder, capsys):
    assert main(["fit", str(scene_folder), "--stpes", "3"]) == 2
    assert "stpes" in capsys.readouterr().err


def test_messages_name_options_and_what_was_meant(scene_folder, tmp_path, monkeypatch, capsys, sentence):
    monkeypatch.chdir(tmp_path)
    assert sentence("fit", scene_folder, "--optimizer", "adam", "--weights", "x").startswith("adam has no weights: they go with learned")
    assert "--long-side must be" in sentence("fit", scene_folder, "--long-side", "-3")
    assert "too small" in sentence("fit", scene_folder, "--long-side", "8") and not (tmp_path / "out").exists()
    assert "memory of this machine" in sentence("fit", scene_folder, "--init", "random", "--max-points", 2_000_000_000)
    assert "single learning rate" in sentence("fit", scene_folder, "--set", "lr=1")
    assert main(["fitt", str(scene_folder)]) == 2
    assert "did you mean fit?" in capsys.readouterr().err
    assert main(["fit", str(scene_folder), "--optimizer", "learned@paper", "--steps", "1", "--no-report"]) == 0


def test_too_large_a_picture_is_one_sentence(fitted, monkeypatch, sentence):
    def no_memory(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 90000000000 bytes")

    monkeypatch.setattr("learn2splat.cli.render._rendered", no_memory)
    assert "not enough memory" in sentence("render", fitted, "--width", 100_000, "--frames", 2)

"""`learn2splat fit` from a COLMAP folder to every file it promises, and `eval` and `render` on those."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import plyfile
import pytest
from PIL import Image
from tiny_scenes import HEIGHT, WIDTH, blobs, tiny_scene

from learn2splat.cli import main
from learn2splat.cli.fit import Fit
from learn2splat.cli.plan_table import plan_rows
from learn2splat.cli.result import render_names
from learn2splat.files import file_name, locked
from learn2splat.fitting import fit, make_plan, plan
from learn2splat.fitting.checkpoint import load_checkpoint
from learn2splat.gaussians import load_splat, save_splat

FIELDS = ["optimizer", "psnr", "best_psnr", "ssim", "steps", "seconds", "num_gaussians", "curve"]


def test_the_promised_files(fitted):
    assert sorted(os.listdir(fitted)) == [".lock", "checkpoint", "config.json", "metrics.json", "point_cloud.ply", "renders", "report.html"]
    assert os.listdir(fitted / "checkpoint") == ["state.safetensors"]
    assert sorted(os.listdir(fitted / "renders")) == ["00000_view_00.png", "00008_view_08.png"]
    assert Image.open(fitted / "renders" / "00000_view_00.png").size == (2 * WIDTH, HEIGHT)
    metrics = json.loads((fitted / "metrics.json").read_text())
    assert set(FIELDS) < metrics.keys()
    assert [point["step"] for point in metrics["curve"]] == [0, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert metrics["psnr"] > metrics["curve"][0]["psnr"]
    assert [photo["name"] for photo in metrics["photos"]] == ["view_00.png", "view_08.png"]
    assert metrics["ended"] == "steps" and sum(metrics["time"].values()) == pytest.approx(metrics["seconds"])
    assert metrics["changes"][0]["step"] == 0 and metrics["changes"][-1]["num_gaussians"] == metrics["num_gaussians"]
    config = json.loads((fitted / "config.json").read_text())
    assert config["options"]["optimizer"] == "nominal" and config["options"]["seed"] == 0
    assert config["scene"]["held_out_photos"] == ["view_00.png", "view_08.png"] and len(config["scene"]["train_photos"]) == 8
    assert config["machine"]["torch"]


def test_the_photo_is_on_the_left(fitted, scene_folder):
    pair = np.asarray(Image.open(fitted / "renders" / "00008_view_08.png"))
    photo = np.asarray(Image.open(scene_folder / "images" / "view_08.png"))
    assert np.array_equal(pair[:, :WIDTH], photo)
    assert not np.array_equal(pair[:, WIDTH:], photo)


def test_the_splat_is_in_the_frame_of_the_model(fitted, scene_folder):
    """Near the points of points3D.txt, which lie around (3, -1, 5), not around the origin."""
    vertices = plyfile.PlyData.read(fitted / "point_cloud.ply")["vertex"]
    centre = [np.median(vertices[axis]) for axis in "xyz"]
    points = np.loadtxt(scene_folder / "sparse" / "0" / "points3D.txt", usecols=(1, 2, 3))
    assert len(vertices["x"]) > len(points)
    assert np.abs(centre - np.median(points, axis=0)).max() < 0.3


def test_json_is_the_only_thing_on_stdout(scene_folder, tmp_path, capsys):
    capsys.readouterr()
    options = ["--optimizer", "adam", "--steps", "2", "--max-points", "20", "--densify", "none", "--num-downscales", "0", "--json"]
    assert main(["fit", str(scene_folder), "--out", str(tmp_path / "out"), *options]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    result = json.loads(out)
    assert list(result) == FIELDS
    assert (result["optimizer"], result["steps"], result["num_gaussians"]) == ("adam", 2, 20)
    assert [list(point) for point in result["curve"]] == [["step", "seconds", "psnr", "ssim", "num_gaussians", "long_side"]] * 3
    assert result["best_psnr"] == max(point["psnr"] for point in result["curve"])


def test_progress_without_a_terminal_is_plain_lines(scene_folder, tmp_path, capsys):
    main(["fit", str(scene_folder), "--optimizer", "adam", "--steps", "2", "--out", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    assert "step 2/2" in err and "held-out" in err and "loss" in err
    assert "\x1b" not in out + err
    assert "PSNR" in out and "2 held-out photos" in out


def test_eval_agrees_with_the_fit(fitted, capsys):
    assert main(["eval", str(fitted), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    metrics = json.loads((fitted / "metrics.json").read_text())
    assert scores["psnr"] == pytest.approx(metrics["psnr"], abs=2e-3)  # dB; the PLY is in the input frame, rounded to float32
    assert scores["ssim"] == pytest.approx(metrics["ssim"], abs=2e-4)
    assert main(["eval", str(fitted)]) == 0
    table = capsys.readouterr().out
    assert "view_08.png" in table and "mean" in table and f"{scores['psnr']:.2f}" in table


def test_eval_finds_a_scene_that_has_moved(fitted, scene_folder, tmp_path, sentence, capsys):
    config = json.loads((fitted / "config.json").read_text())
    config["scene"]["path"] = str(tmp_path / "gone")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "point_cloud.ply").write_bytes((fitted / "point_cloud.ply").read_bytes())
    assert "say where it is with --scene" in sentence("eval", tmp_path)
    assert main(["eval", str(tmp_path), "--scene", str(scene_folder), "--json"]) == 0


@pytest.mark.parametrize("path", ["spiral", "orbit", "interpolate"])
def test_render_makes_a_video(fitted, tmp_path, path):
    out = tmp_path / "new" / "video.mp4"
    assert main(["render", str(fitted), "--path", path, "--frames", "5", "--fps", "5", "--width", "47", "--out", str(out)]) == 0
    frames = imageio.mimread(out)
    assert len(frames) == 5
    assert frames[0].shape == (34, 46, 3)  # even sizes, aspect of the photos
    assert np.std(frames[2]) > 10  # something is to be seen
    assert os.listdir(out.parent) == ["video.mp4"]


def test_a_folder_with_a_run_is_not_overwritten_unasked(fitted, scene_folder, sentence):
    before = {name: (fitted / name).read_bytes() for name in ("config.json", "metrics.json", "point_cloud.ply")}
    assert "add --resume to go on with it, or --overwrite" in sentence("fit", scene_folder, "--steps", "1", "--out", fitted)
    assert all((fitted / name).read_bytes() == content for name, content in before.items())
    assert "exclude each other" in sentence("fit", scene_folder, "--out", fitted, "--resume", "--overwrite")


def test_overwrite_starts_again(scene_folder, tmp_path):
    run = ["fit", str(scene_folder), "--optimizer", "adam", "--out", str(tmp_path)]
    assert main([*run, "--steps", "3"]) == 0
    assert main([*run, "--steps", "2", "--overwrite"]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["steps"] == 2


def test_default_folders_never_collide(scene_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for steps in ("0", "0", "1"):
        assert main(["fit", str(scene_folder), "--optimizer", "adam", "--steps", steps]) == 0
    assert sorted(os.listdir("out")) == ["tiny-adam", "tiny-adam-2", "tiny-adam-3"]
    assert main(["fit", str(scene_folder), "--optimizer", "adam", "--steps", "2", "--resume"]) == 0
    assert json.loads((tmp_path / "out" / "tiny-adam-3" / "metrics.json").read_text())["steps"] == 2
    assert len(os.listdir("out")) == 3


def test_a_finished_splat_is_refined_at_full_size(fitted, scene_folder, tmp_path, monkeypatch):
    """Small photos first would undo it. Points have nothing to lose, and one may ask for small photos."""
    monkeypatch.setattr(plan, "COARSEST", WIDTH // 2)  # px: by themselves, plans halve these photos once
    splat = str(fitted / "point_cloud.ply")

    def sizes(*options):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        assert main(["fit", str(scene_folder), "--optimizer", "nominal", "--steps", "4", "--no-report", "--out", str(out), *options]) == 0
        return [stage["long_side"] for stage in json.loads((out / "config.json").read_text())["plan"]["stages"]]

    assert sizes("--init", splat) == [WIDTH]
    assert sizes() == sizes("--init", splat, "--num-downscales", "1") == [WIDTH // 2, WIDTH]


def test_start_from_a_splat(fitted, scene_folder, tmp_path, capsys):
    """--init FILE.ply: the PLY of another run, in the input frame, is where the new run starts."""
    assert main(["fit", str(scene_folder), "--steps", "0", "--init", str(fitted / "point_cloud.ply"), "--out", str(tmp_path), "--json"]) == 0
    psnr = json.loads(capsys.readouterr().out)["psnr"]
    assert psnr == pytest.approx(json.loads((fitted / "metrics.json").read_text())["psnr"], abs=2e-3)


def test_start_from_any_splat_and_from_a_point_cloud(fitted, scene_folder, tmp_path, capsys):
    """What is loose in a splat is mended with one note; a cloud takes the place of the points of the scene."""
    g = load_splat(fitted / "point_cloud.ply")
    save_splat(tmp_path / "a.spz", g)
    vertices = plyfile.PlyData.read(fitted / "point_cloud.ply")["vertex"].data.copy()
    vertices["opacity"][7] = np.inf
    plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")]).write(tmp_path / "infinite.ply")
    xyz = np.zeros(30, [(name, "<f4") for name in "xyz"])
    for i, name in enumerate("xyz"):
        xyz[name] = g.means[:30, i]
    plyfile.PlyData([plyfile.PlyElement.describe(xyz, "vertex")]).write(tmp_path / "cloud.ply")
    for file, options, count, notes in (
        ("a.spz", [], len(g), 0),
        ("infinite.ply", [], len(g), 1),
        ("cloud.ply", ["--max-points", "20"], 20, 0),
    ):
        out = tmp_path / file.replace(".", "_")
        assert main(["fit", str(scene_folder), "--steps", "0", "--init", str(tmp_path / file), "--out", str(out), "--json", *options]) == 0
        printed, err = capsys.readouterr()
        assert json.loads(printed)["num_gaussians"] == count
        assert err.count("note: ") == notes


def test_random_start(scene_folder, tmp_path, capsys):
    assert main(["fit", str(scene_folder), "--steps", "1", "--init", "random", "--max-points", "30", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_gaussians"] == 30


def test_start_from_depth_of_the_photos(scene_folder, tmp_path, capsys):
    assert main(["fit", str(scene_folder), "--steps", "1", "--init", "stereo", "--max-points", "50", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_gaussians"] == 50


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", ["fit", "eval", "render", "demo"]),
        ("fit", ["--optimizer", "--max-seconds", "--resume", "--json"]),
        ("eval", ["--scene"]),
        ("render", ["--path", "--frames"]),
        ("demo", ["--out"]),
    ],
)
def test_help_is_readable(command, words, capsys):
    assert main([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: learn2splat")
    assert all(word in text for word in words)
    assert "MISSING" not in text and "--no-" not in re.sub("--no-(python|report|masks)", "", text)  # torchrun's, and two of our own


def test_version(capsys):
    import learn2splat

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"learn2splat {learn2splat.__version__}\n"


FOREIGN = {
    "renders/work.exr": "precious", "checkpoint/chkpnt30000.pth": "precious", "point_cloud.ply": "precious", "metrics.json": "{}",
    "config.json": '{"trainer": "another"}', "log.jsonl": '{"step": 1}\n', "resume/latest.json": "{}", "report.html": "<p>mine</p>",
}  # fmt: skip


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("left_out", [None, "config.json"])
@pytest.mark.parametrize("more", [[], ["--overwrite"], ["--resume"]])
def test_files_of_others_are_neither_removed_nor_replaced(scene_folder, tmp_path, sentence, more, left_out):
    for name, text in FOREIGN.items():
        if name != left_out:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
    before = content(tmp_path)
    assert "holds files that learn2splat fit did not write" in sentence("fit", scene_folder, "--steps", "1", "--out", tmp_path, *more)
    assert content(tmp_path) == before


def test_overwrite_removes_what_fit_wrote_and_nothing_else(scene_folder, tmp_path):
    run = ["fit", str(scene_folder), "--optimizer", "adam", "--out", str(tmp_path / "out")]
    assert main([*run, "--steps", "1"]) == 0
    mine = {"notes.txt": "mine", "renders/mine.png": "mine", "checkpoint/mine.pth": "mine"}
    for name, text in mine.items():
        (tmp_path / "out" / name).write_text(text)
    (tmp_path / "outside.png").write_text("mine")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    (tmp_path / "out" / "metrics.json").write_text(json.dumps({**metrics, "renders": [*metrics["renders"], "../../outside.png"]}))
    assert main([*run, "--steps", "1", "--overwrite", "--test-every", "5"]) == 0
    assert all((tmp_path / "out" / name).read_text() == text for name, text in mine.items()) and (tmp_path / "outside.png").exists()
    assert sorted(os.listdir(tmp_path / "out" / "renders")) == ["00000_view_00.png", "00005_view_05.png", "mine.png"]


def test_a_second_fit_in_the_same_folder_is_one_sentence(scene_folder, tmp_path, sentence):
    with locked(tmp_path / "out"):
        assert "another process is writing into" in sentence("fit", scene_folder, "--steps", "1", "--out", tmp_path / "out")


def test_photos_of_similar_names_have_renders_of_their_own():
    names = ("cam/a_1.png", "cam_a_1.png", "r_0.5", "r_0.7", "x.jpg", "x.png", "../up.png", "<b>.png", "ü" * 200)
    scene = replace(tiny_scene(9), image_names=names, test_idx=tuple(range(9)))
    files = render_names(scene)
    assert len(set(files)) == 9 and all(file_name(file) == file and len(file.encode()) < 200 for file in files)


def test_the_folder_of_an_own_optimizer_is_named_by_it():
    specs = ("learned", "../../mine.py:Rule", "/home/me/my.py:Rule")
    names = [str(Fit(scene=Path("scenes/fern"), optimizer=spec)._default_folder()) for spec in specs]
    assert names == ["out/fern-learned", "out/fern-Rule", "out/fern-Rule"]


def test_more_steps_on_resume_stretch_the_schedule(tmp_path):
    scene, start = tiny_scene(), blobs()
    fit(scene, start, "adam", steps=10, eval_at=(), checkpoint=tmp_path)
    fit(scene, start, "adam", steps=30, eval_at=(), checkpoint=tmp_path, resume=True)
    assert load_checkpoint(tmp_path)[1]["optimizer"]["task"]["steps"] == 30


@pytest.mark.parametrize(
    ("budget", "end"),
    [
        ([], "when it no longer improves, at the latest after 30 min 0 s"),
        (["--steps", "30"], "after 30 steps"),
        (["--max-seconds", "60"], "after 60 s"),
        (["--steps", "1", "--max-seconds", "60"], "after 1 step or 60 s, whichever comes first"),
    ],
)
def test_a_dry_run_shows_the_plan_and_writes_nothing(scene_folder, tmp_path, capsys, budget, end):
    assert main(["fit", str(scene_folder), "--out", str(tmp_path / "out"), "--densify", "none", "--dry-run", *budget]) == 0
    table = capsys.readouterr().out
    assert "photos per step" in table and "averaged" in table
    assert table.splitlines()[-2:] == ["tiny: 8 photos fitted, 2 held out; 32 px; 40 Gaussians", f"Ends {end}"]
    assert not (tmp_path / "out").exists()
    assert len(plan_rows(make_plan([(640, 480)] * 9, 500, density="mcmc", steps=5000), 500)) < 10  # not a row for each of its many events


def test_names_of_photos_are_no_markup(scene_folder, tmp_path, capsys):
    """rich would take [b] for bold, and [/y] for a mistake."""
    folder = shutil.copytree(scene_folder, tmp_path / "a[bold]b")
    listing = folder / "sparse" / "0" / "images.txt"
    listing.write_text(listing.read_text().replace("view_00.png", "a[.png"))
    os.rename(folder / "images" / "view_00.png", folder / "images" / "a[.png")
    listing.write_text(listing.read_text().replace("view_08.png", "[y].png"))
    os.rename(folder / "images" / "view_08.png", folder / "images" / "[y].png")
    assert main(["fit", str(folder), "--optimizer", "adam", "--steps", "1", "--out", str(tmp_path / "out"), "--test-every", "9"]) == 0
    assert "a[bold]b" in capsys.readouterr().err
    assert main(["eval", str(tmp_path / "out")]) == 0
    assert "[y].png" in capsys.readouterr().out


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "learn2splat", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("learn2splat ")

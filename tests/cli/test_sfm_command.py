"""`learn2splat sfm`, and `fit` of plain photos: what they print, and that nothing is done unasked."""

import json
import os
import pty

import pytest
from PIL import Image
from tiny_scenes import write_colmap

from learn2splat.cli import fit as fit_command
from learn2splat.cli import main
from learn2splat.cli import sfm as sfm_command
from learn2splat.cli.sfm import default_scene, outcome_lines
from learn2splat.sfm import Outcome

GOOD = Outcome(12, tuple(f"{i}.jpg" for i in range(12)), (), {}, (12,), 900, 0.5, "exhaustive", 12)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "garden" / "images"
    folder.mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (32, 24), (80 * i, 0, 0)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def stand_in(monkeypatch):
    """COLMAP, which takes seconds, replaced by a tiny scene; the calls that there were."""
    calls = []

    def reconstruct(folder, out, **options):
        calls.append((folder, out, options["matching"]))
        if not (out / "sparse").exists():
            write_colmap(out)
        return GOOD

    monkeypatch.setattr(sfm_command, "reconstruct", reconstruct)
    return calls


def test_an_outcome_is_told_in_lines(photos):
    assert outcome_lines(GOOD) == ["12 of 12 photos have a pose, 900 points, mean error 0.50 px"]
    bad = Outcome(12, ("a.jpg", "b.jpg", "c.jpg"), ("d.jpg", "e f.jpg"), {"g.jpg": "it is corrupt"}, (3, 2), 90, 0.5, "exhaustive", 0)
    text = "\n".join(outcome_lines(bad))
    assert text.startswith("3 of 12 photos have a pose") and "took the largest, of 3 photos; left out were 2" in text
    assert "g.jpg was left out: it is corrupt" in text and "2 photos have no pose" in text and "d.jpg, e f.jpg" in text
    assert "less than half of the photos" in text and "3 photos are few" in text
    assert default_scene(photos).as_posix() == "out/garden-scene" and default_scene(photos.parent).as_posix() == "out/garden-scene"


def test_sfm_says_what_comes_next(photos, stand_in, tmp_path, capsys):
    assert main(["sfm", str(photos), "--out", str(tmp_path / "s"), "--matching", "retrieval"]) == 0
    out, err = capsys.readouterr()
    assert "12 of 12 photos have a pose" in err and f"learn2splat fit {tmp_path / 's'}" in out
    assert main(["sfm", str(photos), "--out", str(tmp_path / "s"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_points"] == 900
    assert [call[2] for call in stand_in] == ["retrieval", "auto"]


def test_fit_of_plain_photos_asks_for_sfm(photos, sentence):
    text = sentence("fit", photos)
    assert "no poses with the photos in" in text and "add --sfm to find them first" in text


def test_fit_does_both(photos, stand_in, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--optimizer", "nominal", "--steps", "2", "--no-report", "--json"]
    assert main(["fit", str(photos), "--sfm", *options]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2
    assert (tmp_path / "out/garden-scene-nominal/point_cloud.ply").exists() and stand_in[0][1].as_posix() == "out/garden-scene"
    assert main(["eval", "out/garden-scene-nominal"]) == 0  # the scene that was made is found again


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_terminal_is_asked(photos, stand_in, tmp_path, monkeypatch, answer):
    monkeypatch.chdir(tmp_path)
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    with os.fdopen(theirs, "r") as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        monkeypatch.setattr(sfm_command, "_can_ask", lambda: True)
        code = main(["fit", str(photos), "--optimizer", "nominal", "--steps", "1", "--no-report", "--out", "fitted"])
    os.close(ours)
    assert code == (0 if answer == "y" else 2) and (tmp_path / "fitted").exists() == (answer == "y")
    assert len(stand_in) == (answer == "y")


def test_scenes_with_poses_are_left_alone(scene_folder, monkeypatch, tmp_path):
    monkeypatch.setattr(fit_command, "scene_of_photos", lambda *_: pytest.fail("asked for poses that are there"))
    assert main(["fit", str(scene_folder), "--optimizer", "nominal", "--steps", "1", "--no-report", "--out", str(tmp_path / "f")]) == 0

"""The layouts of published data sets, in small: which scenes are found, at which size, with which views; and the command on them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_scenes import write_colmap

from learn2splat.bench import read_cells
from learn2splat.bench.suites import SUITES, Views, read_suite_index, suite_sources
from learn2splat.cli import main
from learn2splat.errors import OptionError, SceneError

sys.path.insert(0, str(Path(__file__).parents[1] / "scenes"))
from re10k_makers import write_chunks

VIEWS = Views()


def names(suite, data, views=VIEWS):
    return [source.name for source in suite_sources(suite, data, views, None, None)]


def load(suite, data, name, views=VIEWS, size=None, long_side=None):
    return next(source for source in suite_sources(suite, data, views, size, long_side) if source.name == name).load()


def write_transforms(folder: Path, color: int = 128) -> None:
    """DL3DV: poses on a line, photos of the small copies only, no points."""
    (folder / "images_4").mkdir(parents=True)
    frames = []
    for i in range(9):
        Image.new("RGB", (40, 24), (color, 10 * i, 0)).save(folder / "images_4" / f"frame_{i:05d}.png")
        pose = torch.eye(4)
        pose[0, 3] = 0.3 * i
        frames.append({"file_path": f"images/frame_{i:05d}.png", "transform_matrix": pose.tolist()})
    camera = {"w": 160, "h": 96, "fl_x": 150, "fl_y": 150, "cx": 80, "cy": 48, "camera_model": "OPENCV"}
    (folder / "transforms.json").write_text(json.dumps({**camera, "frames": frames}))


@pytest.fixture(scope="module")
def llff(tmp_path_factory):
    """Three folders, of which two are scenes of LLFF; photos of 32 x 24, in images_2 of 16 x 12 and red."""
    root = tmp_path_factory.mktemp("nerf_llff_data")
    for name in ("fern", "horns", "mine"):
        folder = write_colmap(root / name)
        (folder / "images_2").mkdir()
        for photo in (folder / "images").iterdir():
            Image.new("RGB", (16, 12), (255, 0, 0)).save(folder / "images_2" / photo.name)
    return root


def test_published_sizes():
    """docs/method.md section 6."""
    sizes = {name: suite.sizes for name, suite in SUITES.items()}
    assert sizes == {"mipnerf360": ((520, 780),), "llff": ((756, 1008),), "dtu": ((1162, 1554),), "dl3dv": ((256, 448), (512, 960)),
                     "re10k": ((512, 960),), "colmap": ()}  # fmt: skip


def test_llff_takes_its_scenes_and_the_smallest_copy_that_is_large_enough(llff):
    assert names("llff", llff) == ["fern", "horns"]
    small = load("llff", llff, "horns", size=(12, 15))
    assert small.size(0) == (15, 12) and small.images[3].float().mean((0, 1)).tolist() == [255, 0, 0]
    large = load("llff", llff, "horns", size=(12, 17))
    assert large.size(0) == (17, 12) and large.images[3][..., 2].float().mean() > 1  # from images/
    assert load("llff", llff, "fern", long_side=16).size(1) == (16, 12) and len(large.points) == 40
    assert large.test_idx == (0, 8) and large.name == "horns"
    with pytest.raises(SceneError, match="fewer than 25 x 32"):
        load("llff", llff, "fern", size=(25, 32))


def test_colmap_finds_every_model_below(llff, tmp_path):
    shutil.copytree(llff / "fern", tmp_path / "a" / "b" / "deep")
    shutil.copytree(llff / "horns", tmp_path / "top")
    (tmp_path / "empty").mkdir()
    assert names("colmap", tmp_path) == ["a_b_deep", "top"]
    assert names("colmap", tmp_path / "top") == ["top"]
    assert load("colmap", tmp_path, "a_b_deep").name == "a_b_deep"


def test_mipnerf360_and_dtu_by_their_names(llff, tmp_path):
    for name in ("garden", "room", "scan24", "scan105", "other"):
        shutil.copytree(llff / "fern", tmp_path / name)
    assert names("mipnerf360", tmp_path) == ["garden", "room"] and names("dtu", tmp_path) == ["scan105", "scan24"]


def test_dl3dv_without_points_starts_from_random_ones(tmp_path):
    write_transforms(tmp_path / "0a1b")
    write_transforms(tmp_path / "2c3d" / "nerfstudio")
    (tmp_path / "notes").mkdir()
    assert names("dl3dv", tmp_path) == ["0a1b", "2c3d"]
    scene = load("dl3dv", tmp_path, "2c3d", size=(20, 35))
    assert scene.size(0) == (35, 20) and scene.name == "2c3d" and len(scene.points) == 50_000
    assert "random" in scene.warnings[-1] and not (scene.colors[:, 1] % 80 == 0).any()  # photos 0 and 8 are held out: no colours of theirs


def test_re10k_with_an_index(tmp_path):
    write_chunks(tmp_path / "test")
    file = tmp_path / "index.json"
    file.write_text(json.dumps({"bbb": {"context": [6, 2], "target": [3, 4]}, "aaa": None, "unknown": {"context": [0, 1], "target": [2]}}))
    index = read_suite_index(file)
    assert index.context_views == 2
    views = Views(8, 2, index)
    assert names("re10k", tmp_path, views) == ["bbb"] and names("re10k", tmp_path / "test") == ["aaa", "bbb", "ccc"]
    scene = load("re10k", tmp_path, "bbb", views, size=(32, 60))
    assert scene.train_idx == (2, 6) and scene.test_idx == (3, 4) and scene.size(9) == (60, 32)
    assert set(scene.colors[:, 0].tolist()) == {40, 120}  # photos 2 and 6 of the maker
    assert load("re10k", tmp_path, "ccc", long_side=32).size(0) == (32, 18)
    chosen = load("re10k", tmp_path, "ccc", Views(8, 3))
    assert len(chosen.train_idx) == 3 and chosen.test_idx and not set(chosen.train_idx) & set(chosen.test_idx)
    file.write_text(json.dumps({"bbb": {"context": [6, 99], "target": [3]}}))
    with pytest.raises(OptionError, match="names photo 99 of bbb, which has 10"):
        load("re10k", tmp_path, "bbb", Views(8, 2, read_suite_index(file)))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"a": {"context": [1]}}', '{"a": {"context": [1, 2], "target": [2]}}', '{"a": {"context": [-1], "target": [2]}}',
             '{"a": {"context": [1], "target": [2]}, "b": {"context": [1, 3], "target": [2]}}',
             '{"a": {"context": [1e400], "target": [2]}}', '{"a": {"context": [Infinity], "target": [2]}}', "[" * 100_000]
)  # fmt: skip
def test_an_index_that_makes_no_sense(tmp_path, text):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(OptionError, match=r"index\.json"):
        read_suite_index(tmp_path / "index.json")


def test_the_command_writes_suite_size_and_protocol_into_the_results(llff, tmp_path, capsys):
    options = ["--optimizers", "nominal", "--budget", "steps:2", "--max-points", "20", "--out", str(tmp_path)]
    suite = ["bench", "horns", "--suite", "llff", "--data", str(llff), "--size", "12x16"]
    assert main([*suite, *options]) == 0
    assert main([*suite, *options, "--protocol", "inria", "--setting", "sparse", "--context-views", "3"]) == 0
    sparse, dense = sorted(read_cells(tmp_path), key=lambda cell: cell.header["protocol"]["setting"], reverse=True)
    assert dense.header["protocol"]["suite"] == "llff" and dense.header["protocol"]["size"] == [12, 16] and "metrics" not in dense.header["protocol"]
    assert sparse.header["protocol"]["name"] == "inria" and sparse.header["scene"]["context"] == 3 and sparse.scene == "horns"
    assert [p.step for p in dense.points] == [0, 1, 2]
    for wrong, message in {
        ("--suite", "llff"): "--suite llff needs --data",
        ("--data", str(llff)): "belong to --suite",
        ("--suite", "llff", "--data", str(llff), "nofern"): "has no scene nofern: it has fern, horns",
        ("--suite", "llff", "--data", str(llff), "--size", "12"): "--size is a height and a width",
        ("--suite", "dtu", "--data", str(llff)): "no scene of dtu",
        ("--suite", "llff", "--data", str(llff), "--protocol", "paper", "--max-points", "9"): "--protocol paper fixes --max-points",
        ("--suite", "llff", "--data", str(llff), "--protocol", "steps", "--budget", "seconds:3"): "needs a budget as steps:1000",
        ("--suite", "llff", "--data", str(llff), "--protocol", "paper"): "fewer than 756 x 1008",
    }.items():
        assert main(["bench", *wrong, "--optimizers", "adam", "--out", str(tmp_path / "wrong")]) == 2
        assert message in capsys.readouterr().err


def test_the_command_on_re10k_with_an_index(tmp_path, capsys):
    data, file = write_chunks(tmp_path / "test", views=6).parent, tmp_path / "index.json"
    file.write_text(json.dumps({"ccc": {"context": [1, 4], "target": [2, 3]}}))
    run = ["bench", "--suite", "re10k", "--data", str(data), "--index", str(file), "--optimizers", "nominal", "--max-points", "30"]
    sparse = ["--setting", "sparse", "--budget", "steps:1", "--long-side", "32"]
    assert main([*run, *sparse, "--out", str(tmp_path / "out")]) == 0
    assert "ccc has no points: starts from 50000 random ones" in capsys.readouterr().err
    (cell,) = read_cells(tmp_path / "out")
    views = json.loads((cell.path.parents[1] / "views.json").read_text())
    assert views == {"ccc": {"context": [1, 4], "target": [2, 3]}} and cell.header["protocol"]["context_views"] == 2
    assert cell.header["protocol"]["index"] == read_suite_index(file).digest and cell.header["scene"]["gaussians"] == 30
    assert main([*run, "--out", str(tmp_path / "wrong")]) == 2 and "--index belongs to --setting sparse" in capsys.readouterr().err
    assert main([*run, *sparse, "--context-views", "8", "--out", str(tmp_path / "wrong")]) == 2
    assert "--context-views 8 contradicts --index, which has 2" in capsys.readouterr().err

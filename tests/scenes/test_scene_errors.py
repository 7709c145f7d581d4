"""Every way in which a scene cannot be read: one sentence in a SceneError that names the culprit, and never a crash."""

import json
import shutil

import numpy as np
import pycolmap
import pytest
from PIL import Image
from scene_makers import poses, write_scene

from learn2splat.errors import SceneError
from learn2splat.scenes import load_scene


@pytest.fixture
def scene_folder(tmp_path):
    write_scene(tmp_path / "s")
    return tmp_path / "s"


def fails(path, match):
    with pytest.raises(SceneError, match=match) as caught:
        load_scene(path)
    assert "\n" not in str(caught.value)


def rewrite(root, change):
    """Apply `change` to the folder's reconstruction."""
    model = str(root / "sparse" / "0")
    reconstruction = pycolmap.Reconstruction(model)
    change(reconstruction)
    reconstruction.write_binary(model)


def test_path_missing(tmp_path):
    fails(tmp_path / "nowhere", "no such folder: .*nowhere")


def test_no_colmap_model(tmp_path):
    fails(tmp_path, r"no COLMAP model in .*: looked for cameras.bin and cameras.txt .* Did you pass images/\?")


def test_a_file_of_the_model_is_missing(scene_folder):
    (scene_folder / "sparse" / "0" / "images.bin").unlink()
    fails(scene_folder, "lacks images.bin")


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
def test_truncated_binaries(scene_folder, name):
    """Cut anywhere, or followed by something: pycolmap alone would abort the process on several of these."""
    path = scene_folder / "sparse" / "0" / f"{name}.bin"
    whole = path.read_bytes()
    cuts = sorted({0, 1, 7, 8, 9, len(whole) - 1, *np.linspace(0, len(whole) - 1, 25).astype(int).tolist()})
    for cut in cuts:
        path.write_bytes(whole[:cut])
        fails(scene_folder, f"{name}.bin is truncated or not a COLMAP file")
    path.write_bytes(whole + b"\0")
    fails(scene_folder, f"{name}.bin is truncated or not a COLMAP file: 1 bytes follow")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
def test_binaries_with_foreign_bytes(scene_folder, name):
    """Any byte of the first records replaced: a scene or a SceneError."""
    path = scene_folder / "sparse" / "0" / f"{name}.bin"
    whole = path.read_bytes()
    outcomes = set()
    for position in range(0, min(len(whole), 260), 7):
        path.write_bytes(whole[:position] + b"\xee" + whole[position + 1 :])
        try:
            load_scene(scene_folder, long_side=8)
            outcomes.add("scene")
        except SceneError:
            outcomes.add("error")
    assert "error" in outcomes
    path.write_bytes(b"\xff" * 4096)
    fails(scene_folder, f"{name}.bin is truncated or not a COLMAP file")


def test_folder_in_place_of_a_file(scene_folder):
    path = scene_folder / "sparse" / "0" / "images.bin"
    path.unlink()
    path.mkdir()
    fails(scene_folder, "lacks images.bin")


@pytest.mark.parametrize("name, keep", [("cameras", 0.9), ("images", 0.5), ("points3D", 0.4)])
def test_truncated_text(tmp_path, name, keep):
    root = tmp_path / "s"
    write_scene(root, text=True)
    path = root / "sparse" / "0" / f"{name}.txt"
    text = path.read_text()
    path.write_text(text[: int(len(text) * keep)])
    fails(root, "truncated or damaged|not a COLMAP file")


def test_images_folder_missing(scene_folder):
    shutil.rmtree(scene_folder / "images")
    fails(scene_folder, "no folder images/ in")


def test_image_with_16_bits(scene_folder):
    Image.fromarray(np.zeros((180, 240), np.uint16)).save(scene_folder / "images" / "02.png")
    fails(scene_folder, "02.png has mode I;16, expected 8 bits")


def test_only_points_that_are_not_finite(scene_folder):
    def spoil(reconstruction):
        for point in reconstruction.points3D.values():
            point.xyz = np.full(3, np.nan)

    rewrite(scene_folder, spoil)
    fails(scene_folder, "no point of .* is finite")


def test_fewer_than_two_views(tmp_path):
    write_scene(tmp_path / "s", count=1)
    fails(tmp_path / "s", r"fewer than two usable photos with a pose \(1\)")


@pytest.mark.filterwarnings("ignore:left out photo")
def test_fewer_than_two_views_with_overlap(tmp_path):
    root = tmp_path / "s"
    write_scene(root, count=2)

    def turn_round(reconstruction):
        pose = poses(2)[1].copy()
        pose[[0, 2]] *= -1
        reconstruction.frames[2].rig_from_world = pycolmap.Rigid3d(pose)

    rewrite(root, turn_round)
    fails(root, r"fewer than two usable photos with a pose \(1\)")


@pytest.mark.parametrize("text", [False, True])
def test_unsupported_camera_model(tmp_path, text):
    root = tmp_path / "s"
    write_scene(root)
    model = root / "sparse" / "0"
    reconstruction = pycolmap.Reconstruction(str(model))
    for file in model.iterdir():
        file.unlink()
    fisheye = pycolmap.Camera(model="OPENCV_FISHEYE", camera_id=1, width=240, height=180, params=[200, 205, 118, 92, 0, 0, 0, 0])
    camera = reconstruction.cameras[1]
    camera.model, camera.params = fisheye.model, fisheye.params
    (reconstruction.write_text if text else reconstruction.write_binary)(str(model))
    fails(root, "camera model OPENCV_FISHEYE in .*cameras.* is not supported .*PINHOLE")


@pytest.mark.filterwarnings("ignore:left out")
def test_nan_in_the_only_camera(scene_folder):
    def spoil(reconstruction):
        params = reconstruction.cameras[1].params
        params[0] = np.nan
        reconstruction.cameras[1].params = params

    rewrite(scene_folder, spoil)
    fails(scene_folder, "fewer than two usable photos .*: it has a camera that is not finite")


# transforms.json -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def transforms(tmp_path):
    """(folder, a valid transforms.json as a dict)."""
    (tmp_path / "images").mkdir()
    frames = []
    for i in range(3):
        Image.new("RGB", (16, 12)).save(tmp_path / "images" / f"{i}.png")
        matrix = np.eye(4)
        matrix[0, 3] = i
        frames.append({"file_path": f"images/{i}.png", "transform_matrix": matrix.tolist()})
    return tmp_path, {"fl_x": 20.0, "w": 16, "h": 12, "frames": frames}


def test_the_valid_transforms_loads(transforms):
    root, meta = transforms
    (root / "transforms.json").write_text(json.dumps(meta))
    assert len(load_scene(root)) == 3


def spoiled(key, value):
    def change(meta):
        if value is None:
            del meta[key]
        else:
            meta[key] = value

    return change


def spoiled_frame(key, value):
    def change(meta):
        if value is None:
            del meta["frames"][1][key]
        else:
            meta["frames"][1][key] = value

    return change


NAN_MATRIX = [[float("nan"), 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
FLAT_MATRIX = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
SHIFTED_MATRIX = [[1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
MIRROR_MATRIX = [[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    "change, match",
    [
        (spoiled("frames", None), "malformed: expected a list under the key 'frames'"),
        (spoiled("frames", {"a": 1}), "malformed: expected a list under the key 'frames'"),
        (spoiled("frames", []), r"fewer than two usable photos with a pose \(0\)"),
        (spoiled("fl_x", None), "malformed: expected fl_x or camera_angle_x"),
        (spoiled("fl_x", "wide"), "malformed: fl_x must be a finite number, got 'wide'"),
        (spoiled("fl_x", float("nan")), "malformed: fl_x must be a finite number"),
        (spoiled("fl_x", -3), "malformed: w, h, fl_x and fl_y must be positive"),
        (spoiled("k4", 0.1), "with k4 in .* is not supported"),
        (spoiled("camera_model", "OPENCV_FISHEYE"), "camera model OPENCV_FISHEYE in .* is not supported"),
        (spoiled("ply_file_path", "points.ply"), "point cloud .*points.ply .* is missing"),
        (spoiled("ply_file_path", "images/0.png"), "point cloud .*0.png is not a readable PLY"),
        (spoiled("applied_transform", FLAT_MATRIX), "3 x 3 part of applied_transform is not a rotation"),
        (spoiled_frame("file_path", None), "every frame needs the keys 'file_path' and 'transform_matrix'"),
        (spoiled_frame("transform_matrix", None), "every frame needs the keys 'file_path' and 'transform_matrix'"),
        (
            spoiled_frame("transform_matrix", np.array(SHIFTED_MATRIX).T.tolist()),
            "last row of transform_matrix of images/1.png must be 0 0 0 1, got 5 0",
        ),
        (spoiled("applied_transform", NAN_MATRIX), "applied_transform has a NaN or infinite entry"),
        (spoiled_frame("transform_matrix", [[1, 2], [3, 4]]), r"must have 4 x 4 or 3 x 4 numbers, got shape \(2, 2\)"),
        (spoiled_frame("transform_matrix", [["a"] * 4] * 4), "transform_matrix of images/1.png must be 4 x 4 numbers"),
        (spoiled_frame("transform_matrix", FLAT_MATRIX), "is not a rotation"),
        (spoiled_frame("transform_matrix", MIRROR_MATRIX), "is not a rotation"),
        (spoiled_frame("file_path", "images/0.png"), "photo images/0.png has several poses"),
    ],
)
def test_malformed_transforms(transforms, change, match):
    root, meta = transforms
    change(meta)
    (root / "transforms.json").write_text(json.dumps(meta))
    fails(root, match)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[1, 2]"])
def test_transforms_that_are_not_json(tmp_path, content):
    (tmp_path / "transforms.json").write_bytes(content)
    fails(tmp_path, "not a readable transforms.json|expected a JSON object")


def test_empty_point_cloud(transforms):
    root, meta = transforms
    (root / "points.ply").write_text("ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nproperty float y\nproperty float z\nend_header\n")
    (root / "transforms.json").write_text(json.dumps({**meta, "ply_file_path": "points.ply"}))
    fails(root, "points.ply has no points")


def test_cameras_in_one_place_without_points(transforms):
    root, meta = transforms
    for frame in meta["frames"]:
        frame["transform_matrix"] = np.eye(4).tolist()
    (root / "transforms.json").write_text(json.dumps(meta))
    fails(root, "all cameras are at one place")

"""Raw data of Polycam and projects of OpenSfM and ODM, written here from a COLMAP scene with a lens, and compared with it."""

import json
import shutil

import numpy as np
import pytest
import torch
from scene_makers import PARAMS, poses, spot_errors, world_spots, write_scene
from scipy.spatial.transform import Rotation
from test_scene_transforms import opengl_pose

from learn2splat.errors import SceneError
from learn2splat.scenes import load_scene
from learn2splat.scenes._apps import _rotation


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """(folder of photos with a lens, of pinhole photos; what COLMAP says of each)."""
    folder = tmp_path_factory.mktemp("apps")
    result = []
    for model in ("OPENCV", "PINHOLE"):
        write_scene(folder / model, model, count=3)
        result += [folder / model, load_scene(folder / model)]
        shutil.rmtree(folder / model / "sparse")
    return result


def shots_of(translation_of):
    return {
        f"{i:02d}.png": {"rotation": Rotation.from_matrix(pose[:, :3]).as_rotvec().tolist(), "translation": translation_of(pose), "camera": "c"}
        for i, pose in enumerate(poses(3))
    }


def brown():
    fx, fy, cx, cy, k1, k2, p1, p2 = PARAMS["OPENCV"]
    lens = {"k1": k1, "k2": k2, "k3": 0.0, "p1": p1, "p2": p2}
    return {
        "projection_type": "brown", "width": 240, "height": 180, "focal_x": fx / 240, "focal_y": fy / 240,
        "c_x": (cx - 120) / 240, "c_y": (cy - 90) / 240, **lens,
    }  # fmt: skip


def assert_same(scene, expected, *, with_points):
    assert [name.split("/")[-1].removesuffix(".png") for name in scene.image_names] == ["00", "01", "02"]
    torch.testing.assert_close(scene.Ks, expected.Ks)
    assert all(torch.equal(a, b) for a, b in zip(scene.images, expected.images))
    back, wanted = (s.to_normalised.inverse().apply_poses(s.camtoworlds.double()) for s in (scene, expected))
    torch.testing.assert_close(back, wanted, rtol=0, atol=1e-4)
    assert spot_errors(scene).max() < 0.08 and len(scene.points) == (12 if with_points else 0)


@pytest.mark.parametrize("place", [".", "opensfm"])
def test_opensfm(scenes, tmp_path, place):
    root = shutil.copytree(scenes[0], tmp_path / "s")
    (root / place).mkdir(exist_ok=True)
    points = {str(i): {"coordinates": xyz.tolist(), "color": [10.0 * i, 200, 5]} for i, xyz in enumerate(world_spots())}
    whole = {"cameras": {"c": brown()}, "shots": shots_of(lambda pose: pose[:, 3].tolist()), "points": points}
    (root / place / "reconstruction.json").write_text(json.dumps([whole]))
    scene = load_scene(root)
    assert_same(scene, scenes[1], with_points=True)
    torch.testing.assert_close(scene.points, scenes[1].points, rtol=0, atol=1e-5)
    assert torch.equal(scene.colors, scenes[1].colors)
    part = {**whole, "shots": {"00.png": whole["shots"]["00.png"]}}
    (root / place / "reconstruction.json").write_text(json.dumps([part, whole]))
    with pytest.warns(UserWarning, match=r"fell into 2 models \(of 1, 3 photos\): took the one with most"):
        assert len(load_scene(root)) == 3


@pytest.mark.parametrize("photos", ["images", "."])
def test_webodm(scenes, tmp_path, photos):
    root = shutil.copytree(scenes[0], tmp_path / "s")
    if photos == ".":
        for file in (root / "images").iterdir():
            file.rename(root / file.name)
        (root / "images").rmdir()
    (root / "odm_report").mkdir()
    shots = shots_of(lambda pose: (-pose[:, :3].T @ pose[:, 3]).tolist())
    features = [{"type": "Feature", "properties": {"filename": name, **shot}} for name, shot in shots.items()]
    (root / "odm_report" / "shots.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    (root / "cameras.json").write_text(json.dumps({"c": brown()}))
    assert_same(load_scene(root), scenes[1], with_points=False)
    (root / "cameras.json").write_text(json.dumps({"c": {**brown(), "projection_type": "fisheye"}}))
    with pytest.raises(SceneError, match=r"lens fisheye in .*cameras.json is not supported"):
        load_scene(root)


@pytest.mark.parametrize("prefix", ["", "corrected_"])
@pytest.mark.parametrize("place", ["keyframes", "."])
def test_polycam(scenes, tmp_path, prefix, place):
    root = tmp_path / "s"
    keyframes = root / place
    keyframes.mkdir(parents=True)
    shutil.copytree(scenes[2] / "images", keyframes / f"{prefix}images")
    (keyframes / f"{prefix}cameras").mkdir()
    fx, fy, cx, cy = PARAMS["PINHOLE"]
    for i, pose in enumerate(poses(3)):
        matrix = opengl_pose(pose)
        values = {f"t_{row}{column}": matrix[row, column] for row in range(3) for column in range(4)}
        camera = {"fx": fx, "fy": fy, "cx": cx, "cy": cy, "width": 240, "height": 180, "blur_score": 12.0, **values}
        (keyframes / f"{prefix}cameras" / f"{i:02d}.json").write_text(json.dumps(camera))
    assert_same(load_scene(root), scenes[3], with_points=False)
    (keyframes / f"{prefix}cameras" / "01.json").write_text("{}")
    with pytest.raises(SceneError, match=r"01.json is no camera of Polycam: it lacks 't_00'"):
        load_scene(root)


@pytest.mark.parametrize("content", ["{}", "[]", "[1]", '[{"shots": {"a": 1}}]', '[{"shots": {"a": {"rotation": [1, 2]}}}]', "[" * 10_000])
def test_reconstructions_that_are_none(tmp_path, content):
    (tmp_path / "reconstruction.json").write_text(content)
    with pytest.raises(SceneError, match="reconstruction of OpenSfM"):
        load_scene(tmp_path)


def test_the_rotation_of_a_vector():
    for vector in ([0, 0, 0], [1e-9, 0, 0], [1, 2, -0.5], [0, 3.1, 0]):
        np.testing.assert_allclose(_rotation(vector), Rotation.from_rotvec(vector).as_matrix(), atol=1e-12)

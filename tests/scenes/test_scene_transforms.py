"""transforms.json in its flavours, written here from a COLMAP scene and compared with it."""

import json
import math

import numpy as np
import plyfile
import pytest
import torch
from PIL import Image
from scene_makers import PARAMS, poses, spot_errors, world_spots, write_scene

from learn2splat.scenes import load_scene

OPENCV_KEYS = ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2")
APPLIED = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0.0]])  # nerfstudio's own


def opengl_pose(cam_from_world: np.ndarray) -> np.ndarray:
    """(4, 4) camera-to-world with OpenGL axes, from COLMAP's (3, 4)."""
    camtoworld = np.linalg.inv(np.vstack([cam_from_world, [0, 0, 0, 1]]))
    return camtoworld @ np.diag([1.0, -1, -1, 1])


def write_json(path, frames, **meta) -> None:
    path.write_text(json.dumps({**meta, "frames": frames}))


def write_ply(path, points, *, colours=True) -> None:
    kinds = [("x", "f8"), ("y", "f8"), ("z", "f8")] + [("red", "u1"), ("green", "u1"), ("blue", "u1")] * colours
    vertex = np.zeros(len(points), kinds)
    vertex["x"], vertex["y"], vertex["z"] = points.T
    if colours:
        vertex["red"], vertex["green"], vertex["blue"] = 10 * np.arange(len(points)), 200, 5
    plyfile.PlyData([plyfile.PlyElement.describe(vertex, "vertex")]).write(str(path))


def assert_same_scene(scene, expected):
    torch.testing.assert_close(scene.camtoworlds, expected.camtoworlds, rtol=0, atol=1e-6)
    torch.testing.assert_close(scene.Ks, expected.Ks)
    assert all(torch.equal(a, b) for a, b in zip(scene.images, expected.images))
    assert (scene.train_idx, scene.test_idx) == (expected.train_idx, expected.test_idx)


@pytest.fixture
def distorted(tmp_path):
    """(folder with photos of an OPENCV camera, the Scene that its COLMAP model gives)."""
    write_scene(tmp_path / "s", "OPENCV", count=9)
    scene = load_scene(tmp_path / "s")
    (tmp_path / "s" / "sparse").rename(tmp_path / "sparse")
    return tmp_path / "s", scene


@pytest.mark.parametrize("per_frame", [False, True])
def test_nerfstudio(distorted, per_frame):
    """Distortion, a point cloud, applied_transform; intrinsics in the file or in each frame."""
    root, expected = distorted
    applied = np.vstack([APPLIED, [0, 0, 0, 1]])
    intrinsics = {**dict(zip(OPENCV_KEYS, PARAMS["OPENCV"])), "w": 240, "h": 180}
    frames = [
        {"file_path": f"images/{i:02d}.png", "transform_matrix": (applied @ opengl_pose(pose)).tolist(), **(intrinsics if per_frame else {})}
        for i, pose in enumerate(poses(9))
    ]
    write_ply(root / "sparse_pc.ply", world_spots() @ APPLIED[:, :3].T + APPLIED[:, 3])
    meta = {"camera_model": "OPENCV", "applied_transform": APPLIED.tolist(), "ply_file_path": "sparse_pc.ply", **({} if per_frame else intrinsics)}
    write_json(root / "transforms.json", frames[::-1], **meta)  # order in the file does not matter
    scene = load_scene(root)
    assert_same_scene(scene, expected)
    torch.testing.assert_close(scene.points, expected.points, rtol=0, atol=1e-6)
    assert torch.equal(scene.colors, expected.colors)
    assert spot_errors(scene).max() < 0.08
    assert len(load_scene(root / "transforms.json")) == 9  # the file itself


def test_poses_go_back_to_the_frame_of_the_file(distorted):
    """Without applied_transform the input frame is the file's: undoing to_normalised gives the matrices that were written."""
    root, _ = distorted
    frames = [{"file_path": f"images/{i:02d}", "transform_matrix": opengl_pose(pose).tolist()} for i, pose in enumerate(poses(9))]
    write_json(root / "transforms.json", frames, fl_x=200, w=240, h=180)
    scene = load_scene(root)
    back = scene.to_normalised.inverse().apply_poses(scene.camtoworlds.double()).numpy() @ np.diag([1.0, -1, -1, 1])
    np.testing.assert_allclose(back, [frame["transform_matrix"] for frame in frames], rtol=0, atol=1e-5)


def test_instant_ngp_angle_and_missing_extension(tmp_path):
    """camera_angle_x and _y instead of fl_x and fl_y, w and h from the photos, names without extension."""
    root = tmp_path / "s"
    write_scene(root, "PINHOLE", count=4)
    expected = load_scene(root)
    angles = {"camera_angle_x": 2 * math.atan(120 / 200), "camera_angle_y": 2 * math.atan(90 / 205), "cx": 118, "cy": 92, "aabb_scale": 4}
    frames = [{"file_path": f"./images/{i:02d}", "sharpness": 1.0, "transform_matrix": opengl_pose(pose).tolist()} for i, pose in enumerate(poses(4))]
    write_ply(root / "points.ply", world_spots(), colours=False)
    write_json(root / "transforms.json", frames, ply_file_path="points.ply", **angles)
    (root / "sparse").rename(tmp_path / "sparse")
    scene = load_scene(root)
    assert_same_scene(scene, expected)
    assert (scene.colors == 128).all()


@pytest.mark.parametrize("splits", [("train", "test", "val"), ("train", "val"), ("train",)])
def test_nerf_synthetic(tmp_path, splits):
    """RGBA photos without extension, one camera_angle_x, split files, no points: the cameras define the normalised frame."""
    angles = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    matrices = []
    for angle in angles:  # on a circle of radius 4 around (1, 2, 3), looking at it: OpenGL cameras look along -z
        back = np.array([np.cos(angle), np.sin(angle), 0.5]) / math.sqrt(1.25)
        right = np.array([-np.sin(angle), np.cos(angle), 0])
        pose = np.eye(4)
        pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, np.cross(back, right), back, np.array([1, 2, 3]) + 4 * back
        matrices.append(pose.tolist())
    for split in splits:
        (tmp_path / split).mkdir()
        frames = []
        for i in range(5 if split == "train" else 2):
            rgba = np.zeros((20, 30, 4), np.uint8)
            rgba[5:15, 10:20] = [200, 10, 10, 255]
            Image.fromarray(rgba).save(tmp_path / split / f"r_{i}.png")
            frames.append({"file_path": f"./{split}/r_{i}", "rotation": 0.1, "transform_matrix": matrices[i if split == "train" else 5 + i]})
        write_json(tmp_path / f"transforms_{split}.json", frames, camera_angle_x=0.7)
    scene = load_scene(tmp_path)
    names = [scene.image_names[i] for i in scene.test_idx]
    if len(splits) == 1:
        assert names == ["train/r_0"]
    else:
        assert names == [f"{splits[1]}/r_0", f"{splits[1]}/r_1"]  # val is not read where there is a test split
        assert [scene.image_names[i] for i in scene.train_idx] == [f"train/r_{i}" for i in range(5)]
    assert torch.equal(scene.background, torch.ones(3))
    assert scene.images[0][0, 0].tolist() == [255] * 3 and scene.images[0][10, 15].tolist() == [200, 10, 10]
    focal = 15 / math.tan(0.35)
    torch.testing.assert_close(scene.Ks[0], torch.tensor([[focal, 0, 15], [0, focal, 10], [0, 0, 1]]))
    assert scene.points.shape == (0, 3) and scene.colors.shape == (0, 3)
    # All axes meet in (1, 2, 3), all cameras are 4 away.
    torch.testing.assert_close(scene.to_normalised.apply(torch.tensor([1.0, 2, 3], dtype=torch.float64)), torch.zeros(3, dtype=torch.float64))
    assert abs(scene.to_normalised.scale - 0.25) < 1e-9


def test_parallel_cameras_without_points(tmp_path):
    """Axes that do not meet: the mean of the centres is the origin, their median distance to it 1."""
    (tmp_path / "images").mkdir()
    frames = []
    for i in range(3):
        Image.new("RGB", (16, 12)).save(tmp_path / "images" / f"{i}.png")
        matrix = np.eye(4)
        matrix[0, 3] = 10 + i
        frames.append({"file_path": f"images/{i}.png", "transform_matrix": matrix.tolist()})
    write_json(tmp_path / "transforms.json", frames, fl_x=20)
    scene = load_scene(tmp_path)
    torch.testing.assert_close(scene.camtoworlds[:, :3, 3], torch.tensor([[-1.0, 0, 0], [0, 0, 0], [1, 0, 0]]))


def test_smaller_folder_and_scaled_axes(distorted):
    """images_2/ serves data_factor 2; axes scaled by 3 (Blender) are rotations all the same."""
    root, _ = distorted
    (root / "images_2").mkdir()
    for i in range(9):
        Image.new("RGB", (120, 90), (7, 7, 7)).save(root / "images_2" / f"{i:02d}.png")
    scale = np.diag([3.0, 3, 3, 1])
    frames = [{"file_path": f"images/{i:02d}.png", "transform_matrix": (opengl_pose(pose) @ scale).tolist()} for i, pose in enumerate(poses(9))]
    write_json(root / "transforms.json", frames, fl_x=200, w=240, h=180)
    scene = load_scene(root, data_factor=2)
    assert scene.size(0) == (120, 90) and (scene.images[0] == 7).all()
    torch.testing.assert_close(scene.Ks[0], torch.tensor([[100.0, 0, 60], [0, 100, 45], [0, 0, 1]]))
    torch.testing.assert_close(torch.linalg.det(scene.camtoworlds[:, :3, :3]), torch.ones(9))

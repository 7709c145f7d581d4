"""COLMAP folders: our numbers against pycolmap's own, and photos against where pycolmap projects to."""

import shutil

import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image
from scene_makers import PARAMS, draw_spots, poses, spot_errors, write_scene

from learn2splat.scenes import load_scene

# Centroids of 8-bit blobs in an 11 px window: worst of five models x two sizes x four photos 0.04 px (a warp off by half a pixel gives 0.5).
SPOT_TOLERANCE = 0.08


@pytest.fixture(scope="module")
def fern(shared_scenes):
    """(path, Scene at half size, pycolmap's reconstruction)."""
    path = shared_scenes / "fern"
    return path, load_scene(path, long_side=315), pycolmap.Reconstruction(str(path / "sparse" / "0"))


def project(scene, i, xyz):
    """Pixels and depths of input-frame points (P, 3) in view i through everything that a Scene says."""
    p_cam = scene.to_normalised.apply(torch.from_numpy(xyz)) @ scene.viewmats[i, :3, :3].double().T + scene.viewmats[i, :3, 3].double()
    xy = p_cam @ scene.Ks[i].double().T
    return (xy[:, :2] / xy[:, 2:]).numpy(), p_cam[:, 2].numpy()


def test_projection_agrees_with_pycolmap(fern):
    _, scene, reconstruction = fern
    for image in reconstruction.images.values():
        i = scene.image_names.index(image.name)
        observed = image.get_observation_points2D()[::5]
        xyz = np.stack([reconstruction.points3D[point.point3D_id].xyz for point in observed])
        xy, depth = project(scene, i, xyz)
        expected = np.stack([image.project_point(point) for point in xyz])
        camera = reconstruction.cameras[image.camera_id]
        ratio = np.array(scene.size(i)) / [camera.width, camera.height]
        np.testing.assert_allclose(xy, expected * ratio, atol=1e-3)  # px; float32 of poses and Ks
        forward = image.cam_from_world().matrix()[2]
        np.testing.assert_allclose(depth, (xyz @ forward[:3] + forward[3]) * scene.to_normalised.scale, rtol=1e-5)
        # The keypoints themselves: the mean distance is the reconstruction's error, 0.66 px at full size.
        keypoints = np.stack([point.xy for point in observed]) * ratio
        assert np.linalg.norm(xy - keypoints, axis=1).mean() < 0.66 * 0.5 * 1.5


def test_points_colours_and_names(fern):
    path, scene, reconstruction = fern
    assert scene.name == "fern"
    assert scene.image_names == tuple(sorted(image.name for image in reconstruction.images.values()))
    ids = sorted(reconstruction.points3D)
    back = scene.to_normalised.inverse().apply(scene.points.double()).numpy()
    np.testing.assert_allclose(back, np.stack([reconstruction.points3D[i].xyz for i in ids]), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(scene.colors.numpy(), np.stack([reconstruction.points3D[i].color for i in ids]))
    assert scene.train_idx == tuple(i for i in range(20) if i % 8) and scene.test_idx == (0, 8, 16)
    assert torch.equal(scene.background, torch.zeros(3)) and scene.warnings == ()
    assert (path / "images" / scene.image_names[0]).is_file()


def test_normalised_frame(fern):
    """Median of the points at the origin, median depth of all observations 1, no rotation."""
    _, scene, reconstruction = fern
    np.testing.assert_allclose(np.median(scene.points.numpy(), axis=0), 0, atol=1e-6)
    depths = []
    for image in reconstruction.images.values():
        i = scene.image_names.index(image.name)
        ids = {point.point3D_id for point in image.get_observation_points2D()}  # a point may have two keypoints in a photo
        depths.append(project(scene, i, np.stack([reconstruction.points3D[point_id].xyz for point_id in ids]))[1])
    assert abs(np.median(np.concatenate(depths)) - 1) < 1e-5
    assert torch.equal(scene.to_normalised.rotation, torch.eye(3, dtype=torch.float64))


def test_text_and_binary_models_are_the_same_scene(shared_scenes, tmp_path):
    path = shared_scenes / "statue_niche"
    reconstruction = pycolmap.Reconstruction(str(path / "sparse" / "0"))
    (tmp_path / "sparse").mkdir()
    (tmp_path / "images").symlink_to(path / "images")
    reconstruction.write_text(str(tmp_path / "sparse"))
    text, binary = load_scene(tmp_path, long_side=40), load_scene(path, long_side=40)
    assert text.image_names == binary.image_names
    torch.testing.assert_close(text.camtoworlds, binary.camtoworlds)
    torch.testing.assert_close(text.Ks, binary.Ks)
    torch.testing.assert_close(text.points, binary.points)
    assert torch.equal(text.colors, binary.colors)
    assert all(torch.equal(a, b) for a, b in zip(text.images, binary.images))


@pytest.mark.parametrize("model", PARAMS)
@pytest.mark.parametrize("long_side", [None, 120])
def test_photos_are_undistorted_into_their_intrinsics(tmp_path, model, long_side):
    write_scene(tmp_path / "s", model)
    scene = load_scene(tmp_path / "s", long_side=long_side)
    assert spot_errors(scene).max() < SPOT_TOLERANCE
    if long_side:
        assert max(scene.size(0)) == long_side


@pytest.mark.parametrize("model", ["SIMPLE_RADIAL", "RADIAL", "OPENCV"])
def test_the_spot_test_notices_distortion(tmp_path, model):
    """The oracle itself: with the lens ignored the same errors are far above the tolerance."""
    write_scene(tmp_path / "s", model)
    reconstruction = pycolmap.Reconstruction(str(tmp_path / "s" / "sparse" / "0"))
    for camera in reconstruction.cameras.values():
        params = camera.params
        params[3 if model != "OPENCV" else 4 :] = 0
        camera.params = params
    reconstruction.write_binary(str(tmp_path / "s" / "sparse" / "0"))
    assert spot_errors(load_scene(tmp_path / "s")).max() > 10 * SPOT_TOLERANCE


def test_photos_of_two_sizes(tmp_path):
    write_scene(tmp_path / "s", "OPENCV", sizes=((240, 180), (160, 120)))
    scene = load_scene(tmp_path / "s", long_side=200)
    assert len({scene.size(i) for i in range(4)}) == 2
    assert max(scene.size(1)) < 200  # the smaller photos are not enlarged
    assert spot_errors(scene).max() < SPOT_TOLERANCE


@pytest.mark.parametrize("place", ["sparse/0", "sparse", "."])
@pytest.mark.parametrize("text", [False, True])
def test_where_the_model_may_be(tmp_path, place, text):
    root = tmp_path / "s"
    write_scene(root, text=text)
    if place != "sparse/0":
        for file in (root / "sparse" / "0").iterdir():
            shutil.move(file, root / place / file.name)
        shutil.rmtree(root / "sparse" / "0")
    assert len(load_scene(root)) == 4
    assert len(load_scene(root / place)) == 4  # the model's own folder


def test_damaged_rigs_and_frames_do_not_matter(tmp_path):
    """COLMAP 3.12 repeats the poses in rigs.bin and frames.bin; without them the poses are in images.bin alike."""
    root = tmp_path / "s"
    write_scene(root)
    assert (root / "sparse" / "0" / "frames.bin").is_file()
    before = load_scene(root)
    (root / "sparse" / "0" / "rigs.bin").write_bytes(b"\x07")
    (root / "sparse" / "0" / "frames.bin").write_bytes(b"")
    assert torch.equal(load_scene(root).camtoworlds, before.camtoworlds)


def test_data_factor_takes_the_smaller_folder_or_shrinks(tmp_path):
    root = tmp_path / "s"
    write_scene(root)
    shrunk = load_scene(root, data_factor=2)
    assert shrunk.size(0) == (120, 90)
    assert spot_errors(shrunk).max() < SPOT_TOLERANCE
    (root / "images_2").mkdir()
    for i in range(4):
        Image.new("RGB", (120, 90), (i, 0, 0)).save(root / "images_2" / f"{i:02d}.jpg")  # another extension, as LLFF has it
    taken = load_scene(root, data_factor=2)
    assert taken.size(0) == (120, 90) and taken.images[0].max() <= 1
    torch.testing.assert_close(taken.Ks, shrunk.Ks)


def test_shrinking_keeps_the_mean_and_never_enlarges(tmp_path):
    root = tmp_path / "s"
    write_scene(root)
    noise = np.random.default_rng(0).integers(0, 256, (180, 240, 3), np.uint8)
    Image.fromarray(noise).save(root / "images" / "00.png")
    full, small = load_scene(root, long_side=10_000), load_scene(root, long_side=60)
    assert np.array_equal(full.images[0].numpy(), noise)
    assert abs(small.images[0].float().mean().item() - noise.mean()) < 0.5
    assert small.images[0].float().std() < 0.5 * noise.std()  # averaged, not picked


@pytest.mark.parametrize("background", ["white", "black"])
def test_alpha_is_composed_where_that_is_asked_for(tmp_path, background):
    root = tmp_path / "s"
    write_scene(root)
    rgba = np.zeros((180, 240, 4), np.uint8)
    rgba[..., :3] = 100
    rgba[:, 80:160, 3], rgba[:, 160:, 3] = 51, 255
    Image.fromarray(rgba).save(root / "images" / "00.png")
    scene = load_scene(root, background=background)
    behind = 255 if background == "white" else 0
    assert torch.equal(scene.background, torch.full((3,), behind / 255)) and scene.masks is None
    assert scene.images[0][0, 0].tolist() == [behind] * 3
    assert scene.images[0][0, 100].tolist() == [round(0.2 * 100 + 0.8 * behind)] * 3
    assert scene.images[0][0, 200].tolist() == [100] * 3


def test_a_photo_without_overlap_is_left_out_with_a_warning(tmp_path):
    root = tmp_path / "s"
    write_scene(root)
    model = root / "sparse" / "0"
    reconstruction = pycolmap.Reconstruction(str(model))
    away = poses(1)[0].copy()
    away[[0, 2]] *= -1  # turned round: everything is behind it
    camera = reconstruction.cameras[1]
    image = pycolmap.Image(name="away.png", camera_id=1, image_id=50)
    reconstruction.add_image_with_trivial_frame(image, pycolmap.Rigid3d(away))
    reconstruction.write_binary(str(model))
    Image.fromarray(draw_spots(camera, poses(1)[0])).save(root / "images" / "away.png")
    with pytest.warns(UserWarning, match=r"left out photo away.png: none of the 12 points is in front of it"):
        scene = load_scene(root)
    assert scene.image_names == ("00.png", "01.png", "02.png", "03.png")
    assert len(scene.warnings) == 1 and "away.png" in scene.warnings[0]
    assert len(scene.camtoworlds) == len(scene.Ks) == len(scene.images) == 4


def test_a_posed_photo_without_observations_is_kept(tmp_path):
    """Photos posed by other means (nerfstudio, Blender) have no keypoints; this one looks at the points."""
    root = tmp_path / "s"
    write_scene(root, count=3)
    plain = load_scene(root)
    model = root / "sparse" / "0"
    reconstruction = pycolmap.Reconstruction(str(model))
    image = pycolmap.Image(name="extra.png", camera_id=1, image_id=50)
    reconstruction.add_image_with_trivial_frame(image, pycolmap.Rigid3d(poses(3)[1]))
    reconstruction.write_binary(str(model))
    shutil.copy(root / "images" / "01.png", root / "images" / "extra.png")
    scene = load_scene(root)
    assert scene.image_names[-1] == "extra.png"
    torch.testing.assert_close(scene.camtoworlds[3], scene.camtoworlds[1])
    assert scene.to_normalised.scale == plain.to_normalised.scale  # only observations count where there are any


def test_points_without_tracks(tmp_path):
    """Converted models: every point is kept, and depths are taken over the points in front of each camera and in its frame."""
    root = tmp_path / "s"
    write_scene(root)
    plain = load_scene(root)
    model = root / "sparse" / "0"
    reconstruction = pycolmap.Reconstruction(str(model))
    for point_id in list(reconstruction.points3D):
        point = reconstruction.points3D[point_id]
        xyz, color = point.xyz.copy(), point.color.copy()
        reconstruction.delete_point3D(point_id)
        reconstruction.add_point3D(xyz, pycolmap.Track(), color)
    behind = np.linalg.inv(np.vstack([poses(1)[0], [0, 0, 0, 1]]))[:3] @ [0, 0, -50, 1]
    for _ in range(20):
        reconstruction.add_point3D(behind, pycolmap.Track(), np.zeros(3, np.uint8))
    reconstruction.write_binary(str(model))
    scene = load_scene(root)
    assert len(scene.points) == 32
    assert abs(scene.to_normalised.scale / plain.to_normalised.scale - 1) < 1e-9


def test_points_that_are_not_finite_are_left_out(tmp_path):
    root = tmp_path / "s"
    write_scene(root)
    model = root / "sparse" / "0"
    reconstruction = pycolmap.Reconstruction(str(model))
    reconstruction.points3D[3].xyz = np.array([np.nan, 0, 0])
    reconstruction.points3D[4].xyz = np.array([0, 1e200, 0])
    reconstruction.write_binary(str(model))
    with pytest.warns(UserWarning, match="2 points"):
        scene = load_scene(root)
    assert len(scene.points) == len(scene.colors) == 10 and torch.isfinite(scene.points).all()


def test_georeferenced_models_keep_their_precision(tmp_path):
    """Coordinates of 5e6 m with millimetre detail: float32 would lose half a metre."""
    root = tmp_path / "s"
    write_scene(root)
    plain = load_scene(root)
    model = root / "sparse" / "0"
    reconstruction = pycolmap.Reconstruction(str(model))
    reconstruction.transform(pycolmap.Sim3d(1.0, pycolmap.Rotation3d(), np.array([5e6, -3e6, 100.0])))
    reconstruction.write_binary(str(model))
    with pytest.warns(UserWarning, match="local frame"):
        far = load_scene(root)
    torch.testing.assert_close(far.points, plain.points, rtol=0, atol=1e-6)
    torch.testing.assert_close(far.camtoworlds, plain.camtoworlds, rtol=0, atol=1e-6)

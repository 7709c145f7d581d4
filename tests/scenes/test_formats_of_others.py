"""Where other programs put things, what they write into transforms.json and point clouds, and files that are no scene."""

import json
import math
import shutil
import warnings

import numpy as np
import plyfile
import pytest
import torch
from PIL import Image
from scene_makers import PARAMS, poses, spot_errors, world_spots, write_scene
from test_scene_transforms import opengl_pose, write_json, write_ply

from learn2splat.errors import SceneError
from learn2splat.scenes import load_scene
from learn2splat.scenes._cloud import read_cloud


@pytest.fixture(scope="module")
def colmap(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layouts") / "s"
    write_scene(folder, count=3)
    return folder


@pytest.fixture
def root(colmap, tmp_path):
    return shutil.copytree(colmap, tmp_path / "s")


def quiet_load(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_scene(path, **options)


# Layouts ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["colmap/sparse/0", "colmap/sparse", "dense/0/sparse", "undistorted/sparse/0", "output/model/0", "a/b/c"])
def test_models_in_folders_below(root, model):
    (root / model).parent.mkdir(parents=True)
    (root / "sparse" / "0").rename(root / model)
    (root / "sparse").rmdir()
    assert len(quiet_load(root)) == 3


@pytest.mark.parametrize("photos", ["images", "input", "rgb", "photos", "frames", "."])
@pytest.mark.parametrize("model", ["sparse/0", "."])
def test_photos_in_other_folders_and_beside_the_model(root, photos, model):
    if model == ".":
        for file in (root / "sparse" / "0").iterdir():
            file.rename(root / file.name)
        shutil.rmtree(root / "sparse")
    if photos == ".":
        for file in (root / "images").iterdir():
            file.rename(root / file.name)
        (root / "images").rmdir()
    elif photos != "images":
        (root / "images").rename(root / photos)
    assert len(quiet_load(root)) == 3


def test_photos_beside_the_model_below(root):
    for file in (root / "images").iterdir():
        file.rename(root / "sparse" / "0" / file.name)
    (root / "images").rmdir()
    assert len(quiet_load(root)) == 3


def test_photos_before_undistortion_are_not_taken(root):
    """3DGS keeps the originals in input/, of the same names; COLMAP's undistorter leaves them in images/ two folders higher."""
    shutil.copytree(root / "images", root / "input")
    for file in (root / "input").iterdir():
        Image.new("RGB", (240, 180), (255, 0, 0)).save(file)
    assert spot_errors(quiet_load(root)).max() < 0.08
    (root / "dense").mkdir()
    for name in ("images", "sparse"):
        (root / name).rename(root / "dense" / name)
    (root / "input").rename(root / "images")
    assert spot_errors(quiet_load(root)).max() < 0.08


def test_photos_without_a_pose_are_counted(root):
    Image.new("RGB", (9, 9)).save(root / "images" / "later.png")
    with pytest.warns(UserWarning, match="1 of 4 photos in .*images have no pose in the model"):
        load_scene(root)


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".7z"])
def test_archives(root, tmp_path, suffix):
    path = tmp_path / f"scene{suffix}"
    path.write_bytes(b"PK\x03\x04whatever")
    with pytest.raises(SceneError, match="is an archive: unpack it first"):
        load_scene(path)
    folder = tmp_path / "only"
    folder.mkdir()
    path.rename(folder / path.name)
    with pytest.raises(SceneError, match=f"There is scene{suffix}: unpack it first"):
        load_scene(folder)


@pytest.mark.parametrize("name", ["photo.jpg", "scene.ply", "notes.txt"])
def test_files_that_are_no_scene(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xff\xd8\xff\x00")
    with pytest.raises(SceneError, match=r"is no scene: expected a folder with a COLMAP model or a transforms.json"):
        load_scene(tmp_path / name)


# transforms.json ------------------------------------------------------------------------------------------------------------------------------


def frames_of(count=3):
    return [{"file_path": f"images/{i:02d}.png", "transform_matrix": opengl_pose(pose).tolist()} for i, pose in enumerate(poses(count))]


@pytest.fixture
def transforms(root):
    shutil.rmtree(root / "sparse")
    return root


def test_null_is_as_if_the_key_were_missing(transforms):
    meta = {"fl_x": 200, "fl_y": None, "k1": None, "cx": None, "h": 180, "w": 240, "applied_transform": None, "ply_file_path": None}
    frames = [{**frame, "fl_x": None, "w": None, "mask_path": None, "camera_model": None} for frame in frames_of()]
    write_json(transforms / "transforms.json", frames, **meta, camera_model=None, train_filenames=None, is_fisheye=None)
    scene = quiet_load(transforms)
    assert scene.Ks[0].tolist() == [[200, 0, 120], [0, 200, 90], [0, 0, 1]]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks(transforms, encoding):
    text = json.dumps({"fl_x": 200, "w": 240, "h": 180, "frames": frames_of()})
    (transforms / "transforms.json").write_text(text, encoding=encoding)
    assert len(quiet_load(transforms)) == 3


@pytest.mark.parametrize(
    "text, match",
    [
        ("[" * 100_000 + "]" * 100_000, "not a readable transforms.json .*nested too deeply"),
        ('{"frames": [], "fl_x": 1' + "0" * 5000 + "}", "fewer than two"),
        ('{"frames": ' + json.dumps(frames_of()) + ', "fl_x": 1' + "0" * 400 + "}", "fl_x must be a finite number"),
        ('{"frames": ' + json.dumps(frames_of()) + ', "fl_x": 200, "w": 1e30, "h": 180}', "a camera of size 1000000"),
        ('{"frames": ' + json.dumps(frames_of()) + ', "fl_x": 200, "w": 240, "h": true}', "h must be a finite number"),
        ('{"frames": ' + json.dumps(frames_of()) + ', "fl_x": 200, "cx": 1e300, "w": 240, "h": 180}', "a camera with a number of 1e[+]300"),
        ('{"frames": ' + json.dumps(frames_of()) + ', "fl_x": 200, "k1": 1e300, "w": 240, "h": 180}', "a camera with a number of 1e[+]300"),
        ('{"frames": ' + json.dumps(frames_of()).replace("0.0", "1" + "0" * 400) + ', "fl_x": 200}', "must be 4 x 4 numbers|fewer than two"),
    ],
)
@pytest.mark.filterwarnings("ignore:left out")
def test_numbers_and_nesting_beyond_any_use(transforms, text, match):
    (transforms / "transforms.json").write_text(text)
    with pytest.raises(SceneError, match=match):
        load_scene(transforms)


def test_the_split_of_the_file(transforms):
    names = [frame["file_path"] for frame in frames_of()]
    meta = {"fl_x": 200, "w": 240, "h": 180}
    for given, train, test in (
        ({"train_filenames": names[1:], "test_filenames": names[:1]}, [1, 2], [0]),
        ({"train_filenames": [names[0], names[2]], "val_filenames": [".\\images\\01.png"]}, [0, 2], [1]),
        ({"train_filenames": names[:2]}, [0, 1], [2]),
        ({"train_filenames": ["00.png", "01.png"], "test_filenames": ["/home/me/s/images/02.png"]}, [0, 1], [2]),
        ({"test_filenames": names[2:]}, [0, 1], [2]),
    ):
        write_json(transforms / "transforms.json", frames_of(), **meta, **given)
        scene = quiet_load(transforms)
        assert (list(scene.train_idx), list(scene.test_idx)) == (train, test)
    write_json(transforms / "transforms.json", frames_of(), **meta, train_filenames=names[:1], test_filenames=names[1:2], val_filenames=names[2:])
    with pytest.warns(UserWarning, match="left out photo images/02.png: neither in train_filenames nor in test_filenames"):
        assert len(load_scene(transforms)) == 2
    write_json(transforms / "transforms.json", frames_of(), **meta, train_filenames=names, test_filenames=[*names[1:2], "gone.png"])
    with pytest.warns(UserWarning) as caught:
        assert load_scene(transforms).test_idx == (1,)
    assert {str(warning.message).split("(")[0].split(":")[0] for warning in caught} == {
        "1 of the photos in train_filenames and test_filenames are not among the frames ", "1 photos are in train_filenames and in test_filenames"
    }  # fmt: skip
    write_json(transforms / "transforms.json", frames_of(), **meta, train_filenames="all")
    with pytest.raises(SceneError, match="train_filenames must be a list of photo names"):
        load_scene(transforms)


@pytest.mark.parametrize("name", ["sparse_pc.ply", "points3D.ply"])
def test_a_cloud_that_the_file_does_not_name(transforms, name):
    write_ply(transforms / name, world_spots())
    write_json(transforms / "transforms.json", frames_of(), fl_x=200, w=240, h=180)
    with pytest.warns(UserWarning, match=f"transforms.json names no point cloud: took {name} beside it"):
        assert len(load_scene(transforms).points) == 12


@pytest.mark.parametrize("path", ["clouds\\pc.ply", "./clouds/pc.ply", "C:\\data\\clouds\\pc.ply", "/home/me/clouds/pc.ply", "Clouds/PC.ply"])
def test_the_path_of_the_cloud(transforms, path):
    (transforms / "clouds").mkdir()
    write_ply(transforms / "clouds" / "pc.ply", world_spots())
    write_json(transforms / "transforms.json", frames_of(), fl_x=200, w=240, h=180, ply_file_path=path)
    assert len(quiet_load(transforms).points) == 12


def test_a_lens_with_k3(tmp_path):
    """Photos drawn by COLMAP's FULL_OPENCV with k3; the file has the same numbers."""
    PARAMS["FULL_OPENCV"] = [200, 205, 118, 92, -0.1, 0.03, 0.004, -0.003, 4.0, 0, 0, 0]
    try:
        write_scene(tmp_path / "s", "FULL_OPENCV", count=3)
        assert spot_errors(load_scene(tmp_path / "s")).max() < 0.08
        shutil.rmtree(tmp_path / "s" / "sparse")
        write_ply(tmp_path / "s" / "pc.ply", world_spots())
        lens = dict(zip(("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2", "k3"), PARAMS["FULL_OPENCV"]))
        write_json(tmp_path / "s" / "transforms.json", frames_of(), **lens, k4=0.0, w=240, h=180, ply_file_path="pc.ply")
        assert spot_errors(load_scene(tmp_path / "s")).max() < 0.08
        write_json(tmp_path / "s" / "transforms.json", frames_of(), **{**lens, "k3": 0}, w=240, h=180, ply_file_path="pc.ply")
        assert spot_errors(load_scene(tmp_path / "s")).max() > 0.1  # the oracle notices that it is missing
    finally:
        del PARAMS["FULL_OPENCV"]


# Photos ----------------------------------------------------------------------------------------------------------------------------------------


def sideways(folder, orientation):
    """Store the photos turned, with the EXIF orientation that turns them back."""
    turn = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    for file in folder.iterdir():
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.open(file).transpose(turn).save(file, exif=exif)


@pytest.mark.parametrize("orientation", [6, 8])
def test_a_sideways_photo_of_an_upright_model_is_turned(root, orientation):
    sideways(root / "images", orientation)
    with pytest.warns(UserWarning, match="turned 3 photos .* as EXIF says, because only that fits"):
        scene = load_scene(root)
    assert scene.size(0) == (240, 180) and spot_errors(scene).max() < 0.08


def test_a_photo_that_fits_as_it_is_stored_is_not_turned(root):
    for file in (root / "images").iterdir():
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.open(file).save(file, exif=exif)
    assert spot_errors(quiet_load(root)).max() < 0.08


@pytest.mark.parametrize("name", ["00.heic", "00.png"])
def test_heic_says_so(root, name, monkeypatch):
    (root / "images" / "00.png").unlink()
    (root / "images" / name).write_bytes(bytes.fromhex("0000002066747970686569630000000068656963") + b"mif1" + bytes(500))
    with pytest.raises(SceneError, match=r"is HEIC.*convert the photos to JPEG"):
        load_scene(root)
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(SceneError, match=r"is HEIC.*convert the photos to JPEG, or pip install pillow-heif"):
        load_scene(root)


def test_large_photos_are_shrunk_to_1600(root):
    """Photos larger than the model's camera: they are scaled to it, as exports of originals are."""
    for file in (root / "images").iterdir():
        Image.open(file).resize((2000, 1500)).save(file)
    with pytest.warns(UserWarning, match="shrunk 3 photos of up to 2000 px to 1600 px, as 3DGS does: --long-side 0 keeps their size"):
        scene = load_scene(root)
    assert scene.size(0) == (1600, 1200)
    assert quiet_load(root, long_side=0).size(0) == (2000, 1500) and quiet_load(root, long_side=1000).size(0) == (1000, 750)
    assert quiet_load(root, data_factor=2).size(0) == (1000, 750)


def test_photos_beyond_the_limit_of_pillow(root, monkeypatch):
    """200 megapixels are honest; here the limits are lowered in place of making such a photo. JPEGs are decoded smaller where that is enough."""
    Image.open(root / "images" / "00.png").resize((960, 720)).save(root / "images" / "00.jpg", quality=95)
    (root / "images" / "00.png").unlink()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr("learn2splat.scenes._photos.DRAFT_FROM", 500_000)
    scene = quiet_load(root, long_side=120)
    assert scene.size(0) == (120, 90) and spot_errors(scene).max() < 0.15
    assert Image.MAX_IMAGE_PIXELS == 1000


# Point clouds ----------------------------------------------------------------------------------------------------------------------------------


def cloud(path, colours, kind, names=("red", "green", "blue"), *, text=False, order="<"):
    vertex = np.zeros(len(colours), [(axis, "f4") for axis in "xyz"] + [(name, kind) for name in names])
    vertex["x"] = np.arange(len(colours))
    for name, channel in zip(names, np.transpose(colours)):
        vertex[name] = channel
    plyfile.PlyData([plyfile.PlyElement.describe(vertex, "vertex")], text=text, byte_order=order).write(str(path))
    return path


BYTES = np.array([[0, 10, 255], [128, 64, 32]])


@pytest.mark.parametrize(
    "kind, factor, names",
    [
        ("u1", 1, ("red", "green", "blue")),
        ("u2", 257, ("red", "green", "blue")),
        ("u4", 257, ("red", "green", "blue")),
        ("u2", 1, ("red", "green", "blue")),
        ("i4", 1, ("red", "green", "blue")),
        ("f4", 1 / 255, ("red", "green", "blue")),
        ("f4", 1, ("red", "green", "blue")),
        ("f8", 257, ("red", "green", "blue")),
        ("u1", 1, ("diffuse_red", "diffuse_green", "diffuse_blue")),
        ("f4", 1 / 255, ("r", "g", "b")),
    ],
)
@pytest.mark.parametrize("text, order", [(False, "<"), (False, ">"), (True, "=")])
def test_colours_of_any_type_and_range(tmp_path, kind, factor, names, text, order):
    points, colours = read_cloud(cloud(tmp_path / "c.ply", BYTES * factor, kind, names, text=text, order=order))
    assert colours.tolist() == BYTES.tolist() and colours.dtype == np.uint8
    assert points.tolist() == [[0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("count", [10**6, 2**63, -1])
@pytest.mark.parametrize("more", [b"", b"property list uchar int odd\n"])
def test_counts_beyond_the_bytes_of_the_file(tmp_path, count, more):
    path = cloud(tmp_path / "c.ply", BYTES, "u1")
    path.write_bytes(path.read_bytes().replace(b"vertex 2", b"vertex %d" % count).replace(b"end_header", more + b"end_header"))
    with pytest.raises(SceneError, match="not a readable PLY"):
        read_cloud(path)


def test_every_cut_of_a_cloud_is_an_error(tmp_path):
    data = cloud(tmp_path / "c.ply", BYTES, "u1").read_bytes()
    for keep in range(0, len(data), 7):
        (tmp_path / "cut.ply").write_bytes(data[:keep])
        with pytest.raises(SceneError, match=r"cut.ply"):
            read_cloud(tmp_path / "cut.ply")


# Size ------------------------------------------------------------------------------------------------------------------------------------------


def test_the_work_does_not_grow_with_photos_times_points(transforms, monkeypatch):
    """Depths are measured on a sample; a photo is left out only when it sees none of all points."""
    import learn2splat.scenes._assemble as assemble
    import learn2splat.scenes._normalise as normalise

    generator = np.random.default_rng(0)
    far = np.repeat(world_spots()[:1] + np.array([50, 0, 0]), 20_000, axis=0)  # seen by no photo, but for three points
    write_ply(transforms / "pc.ply", np.concatenate([far + generator.normal(0, 0.1, far.shape), world_spots()[:3]]), colours=False)
    write_json(transforms / "transforms.json", frames_of(), fl_x=200, w=240, h=180, ply_file_path="pc.ply")
    looked_at = []
    plain = normalise.depths_inside

    def counted(points, *rest):
        looked_at.append(len(points))
        return plain(points, *rest)

    monkeypatch.setattr(normalise, "MAX_PAIRS", 3000)
    monkeypatch.setattr(assemble, "depths_inside", counted)
    assert len(load_scene(transforms)) == 3
    assert looked_at == [1000] * 3
    write_ply(transforms / "pc.ply", np.concatenate([world_spots()] * 2000) + generator.normal(0, 0.3, (24_000, 3)), colours=False)
    scene = load_scene(transforms)
    assert looked_at[3:] == [1000] * 3 and len(scene.points) == 24_000
    monkeypatch.setattr(normalise, "MAX_PAIRS", 10**9)
    exact = load_scene(transforms)
    assert abs(math.log(scene.to_normalised.scale / exact.to_normalised.scale)) < 0.02
    torch.testing.assert_close(scene.to_normalised.translation, exact.to_normalised.translation, rtol=0, atol=0.02)

"""One bad photo, camera or track does not stop a scene: it is left out and told once, and what is left is what it would have been."""

import shutil
import warnings

import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image
from scene_makers import PARAMS, poses, spot_errors, write_scene
from test_scene_transforms import opengl_pose, write_json

from learn2splat.errors import SceneError
from learn2splat.gaussians import init_from_points, init_random
from learn2splat.scenes import load_scene


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound") / "s"
    write_scene(folder, count=10)
    return folder


@pytest.fixture
def root(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "s")


def rewrite(root, change):
    model = str(root / "sparse" / "0")
    reconstruction = pycolmap.Reconstruction(model)
    change(reconstruction)
    reconstruction.write_binary(model)


def test_a_sound_scene_says_nothing(root):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_scene(root).warnings == ()


def cut(path):
    path.write_bytes(path.read_bytes()[:500])


def another_shape(path):
    Image.new("RGB", (180, 240)).save(path)


def bomb(path):
    """A small file that claims to be 60000 x 60000 px."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 45000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (lambda path: path.unlink(), "it is missing"),
        (lambda path: path.write_text("a web page"), "corrupt or not an image"),
        (cut, "corrupt or not an image"),
        (another_shape, "180 x 240 px but its camera 240 x 180: the photo is not the one of the model"),
        (bomb, "bytes claim to hold 60000 x 45000 px"),
    ],
)
@pytest.mark.parametrize("format", ["colmap", "transforms"])
def test_bad_photos_are_left_out_and_counted(root, spoil, reason, format):
    """The held-out photos stay every 8th of all names: 0 and 8."""
    if format == "transforms":
        shutil.rmtree(root / "sparse")
        frames = [{"file_path": f"images/{i:02d}.png", "transform_matrix": opengl_pose(pose).tolist()} for i, pose in enumerate(poses(10))]
        write_json(root / "transforms.json", frames, fl_x=200, w=240, h=180)
    for name in ("01.png", "04.png"):
        spoil(root / "images" / name)
    with pytest.warns(UserWarning, match=r"left out 2 photos \(.*01.png, .*04.png\): .*" + reason) as caught:
        scene = load_scene(root)
    assert len(caught) == 1 and len(scene) == 8 and len(scene.warnings) == 1
    assert [scene.image_names[i].removeprefix("images/") for i in scene.test_idx] == ["00.png", "08.png"]
    assert sorted(scene.train_idx + scene.test_idx) == list(range(8))


@pytest.mark.parametrize("value", [np.nan, np.inf, -200.0, 0.0, 1e-320, 1e300])
@pytest.mark.parametrize("which", [0, 1])
def test_bad_cameras_are_left_out(root, value, which):
    """Every focal length counts, not their mean."""

    def spoil(reconstruction):
        camera = pycolmap.Camera(model="PINHOLE", camera_id=2, width=240, height=180, params=PARAMS["PINHOLE"])
        reconstruction.add_camera_with_trivial_rig(camera)
        image = pycolmap.Image(name="10.png", camera_id=2, image_id=50)
        reconstruction.add_image_with_trivial_frame(image, pycolmap.Rigid3d(poses(10)[2]))
        params = camera.params.copy()
        params[which] = value
        reconstruction.cameras[2].params = params

    shutil.copy(root / "images" / "02.png", root / "images" / "10.png")
    rewrite(root, spoil)
    with pytest.warns(UserWarning, match="left out photo 10.png: it has a camera"):
        scene = load_scene(root)
    assert len(scene) == 10 and torch.isfinite(scene.Ks).all()


def put(root, name, columns, values):
    """Replace columns of a photo in images.txt."""
    pycolmap.Reconstruction(str(root / "sparse" / "0")).write_text(str(root / "sparse" / "0"))
    for file in (root / "sparse" / "0").glob("*.bin"):
        file.unlink()
    file = root / "sparse" / "0" / "images.txt"
    lines = file.read_text().splitlines()
    for i, line in enumerate(lines):
        words = line.split()
        if words and words[-1] == name and not line.startswith("#"):
            words[columns] = values
            lines[i] = " ".join(words)
    file.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("columns, values", [(slice(5, 6), ["1e30"]), (slice(5, 6), ["-nan(ind)"]), (slice(1, 5), ["0"] * 4), (slice(1, 2), ["nan"])])
def test_bad_poses_are_left_out(root, columns, values):
    put(root, "03.png", columns, values)
    with pytest.warns(UserWarning, match="left out photo 03.png: it has a pose"):
        scene = load_scene(root)
    assert len(scene) == 9 and torch.isfinite(scene.camtoworlds).all() and scene.scene_scale < 10


def test_an_error_when_fewer_than_two_are_left_tells_why(root):
    for i in range(9):
        (root / "images" / f"{i:02d}.png").unlink()
    with pytest.raises(SceneError, match=r"fewer than two usable photos with a pose \(1\).*left out 9 photos \(00.png, .*\): it is missing"):
        load_scene(root)


def test_when_all_held_out_photos_are_gone_others_are_held_out(root):
    for name in ("00.png", "08.png"):
        (root / "images" / name).unlink()
    with pytest.warns(UserWarning, match="held out every so-many-th of the others"):
        scene = load_scene(root)
    assert scene.test_idx == (0,) and len(scene.train_idx) == 7


@pytest.mark.parametrize("text", [False, True])
def test_tracks_to_photos_that_the_model_lacks(tmp_path, text):
    """COLMAP writes such when photos are filtered. The points that then have one observation left are no points."""
    root = tmp_path / "s"
    write_scene(root, count=4)
    model = root / "sparse" / "0"
    reconstruction = pycolmap.Reconstruction(str(model))
    (reconstruction.write_text if text else reconstruction.write_binary)(str(model))
    suffix = "txt" if text else "bin"
    images = (model / f"images.{suffix}").read_bytes()
    if text:
        lines = images.decode().splitlines()
        keep = [line for line in lines if not line.startswith("#")]
        (model / "images.txt").write_text("\n".join(keep[:4]) + "\n")
        for file in model.glob("*.bin"):
            file.unlink()
    else:
        end = len(images) // 4 * 2 + 4  # photos are of one size in the file: count, then each the same
        size = (len(images) - 8) // 4
        end = 8 + 2 * size
        (model / "images.bin").write_bytes((2).to_bytes(8, "little") + images[8:end])
    with pytest.warns(UserWarning, match="2 of 4 photos .* have no pose in the model"):
        scene = load_scene(root)
    assert len(scene) == 2 and len(scene.points) == 12 and spot_errors(scene).max() < 0.08
    # The same model with a photo less: every point is seen once.
    if not text:
        (model / "images.bin").write_bytes((1).to_bytes(8, "little") + images[8 : 8 + size])
        with pytest.raises(SceneError, match="fewer than two"):
            load_scene(root)


@pytest.mark.parametrize("how", ["empty", "missing"])
def test_poses_without_points_start_at_random(root, how):
    if how == "empty":
        rewrite(root, lambda reconstruction: [reconstruction.delete_point3D(i) for i in list(reconstruction.points3D)])
    else:
        (root / "sparse" / "0" / "points3D.bin").unlink()
    scene = load_scene(root)
    assert len(scene) == 10 and scene.points.shape == (0, 3) and scene.warnings == ()
    assert len(init_random(scene, 50, generator=torch.Generator().manual_seed(0))) == 50
    with pytest.raises(SceneError, match=r"no points to start from.*--init random"):
        init_from_points(scene.points, scene.colors)


def test_a_stray_camera_does_not_set_the_scale(root):
    before = load_scene(root)

    def send_away(reconstruction):
        pose = poses(10)[5].copy()
        pose[2, 3] += 5000  # still looks at the spots
        reconstruction.frames[6].rig_from_world = pycolmap.Rigid3d(pose)

    rewrite(root, send_away)
    with pytest.warns(UserWarning, match="photo 05.png: its camera is more than ten times as far away"):
        scene = load_scene(root)
    assert 0.5 < scene.scene_scale * before.to_normalised.scale / (before.scene_scale * scene.to_normalised.scale) < 1.5
    assert len(scene) == 10


def test_the_model_with_most_photos_is_taken(tmp_path):
    root = tmp_path / "s"
    write_scene(root, count=5)
    write_scene(tmp_path / "small", count=2)
    (root / "sparse" / "0").rename(root / "sparse" / "10")
    (tmp_path / "small" / "sparse" / "0").rename(root / "sparse" / "2")
    with pytest.warns(UserWarning, match=r"fell into 2 models \(2 with 2, 10 with 5 photos\): took 10"):
        assert len(load_scene(root)) == 5

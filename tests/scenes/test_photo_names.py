"""From the names in a model to files, whoever wrote the model and on whatever machine: one resolver for COLMAP and transforms.json."""

import unicodedata
import warnings

import numpy as np
import pycolmap
import pytest
from PIL import Image
from scene_makers import poses, write_scene
from test_scene_transforms import opengl_pose, write_json

from learn2splat.errors import SceneError
from learn2splat.scenes import load_scene
from learn2splat.scenes._names import Finder
from learn2splat.scenes._notes import Notes


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


@pytest.mark.parametrize(
    "on_disk, name",
    [
        ("a.jpg", "a.jpg"),
        ("cam0/a.jpg", "cam0\\a.jpg"),
        ("cam0/a.jpg", ".\\cam0\\a.jpg"),
        ("a.JPG", "a.jpg"),
        ("a.webp", "a.jpg"),
        ("r_0.5.png", "r_0.5"),
    ],
)
def test_names_found_without_a_word(tmp_path, on_disk, name):
    notes = Notes()
    root = touch(tmp_path, on_disk)
    assert Finder(root, [root]).find_all([name], notes) == {name: root / on_disk}
    assert notes.sentences() == ()


@pytest.mark.parametrize(
    "on_disk, name",
    [
        ("a.jpg", "images/a.jpg"),  # COLMAP was started one folder higher
        ("a.jpg", "/home/me/project/images/a.jpg"),
        ("cam0/a.jpg", "C:\\Users\\me\\cam0\\a.jpg"),
        ("cam0/a.jpg", "other/place/CAM0/A.JPG"),
        ("img_1.jpg", "IMG_1.JPG"),
        (unicodedata.normalize("NFD", "Käse.jpg"), unicodedata.normalize("NFC", "Käse.jpg")),
        (unicodedata.normalize("NFC", "Käse.jpg"), unicodedata.normalize("NFD", "KÄSE.jpg")),
        ("deep/below/a.jpg", "a.jpg"),
        ("a.png", "x/A.jpg"),
    ],
)
def test_names_found_by_a_fallback_are_noted(tmp_path, on_disk, name):
    notes = Notes()
    root = touch(tmp_path, on_disk, "b/other.jpg")
    assert Finder(root, [root]).find_all([name], notes) == {name: root / on_disk}
    assert len(notes.sentences()) == 1 and "another path or spelling" in notes.sentences()[0]


def test_the_longest_end_wins_and_ties_are_refused(tmp_path):
    root = touch(tmp_path, "left/cam0/a.jpg", "right/cam0/a.jpg", "cam1/a.jpg", "A.jpg", "masks/b.jpg", "images_4/c.jpg")
    finder = Finder(root, [root])
    found = finder.find_all(["x/right/cam0/a.jpg", "x/cam0/a.jpg", "x/b.jpg", "x/c.jpg"], Notes())
    assert found["x/right/cam0/a.jpg"] == root / "right/cam0/a.jpg"
    assert found["x/cam0/a.jpg"] is None and "x/cam0/a.jpg" in finder.ambiguous
    assert found["x/b.jpg"] is None and found["x/c.jpg"] is None  # masks and smaller copies are no photos


def test_no_file_serves_two_names(tmp_path):
    root = touch(tmp_path, "a.jpg", "b.jpg")
    finder = Finder(root, [root])
    assert finder.find_all(["x/a.jpg", "y/a.jpg", "b.jpg", "z/b.jpg"], Notes()) == {
        "x/a.jpg": None, "y/a.jpg": None, "b.jpg": root / "b.jpg", "z/b.jpg": None,
    }  # fmt: skip
    assert finder.ambiguous == {"x/a.jpg", "y/a.jpg", "z/b.jpg"}


@pytest.mark.parametrize("name", ["../private.jpg", "sub/../../private.jpg", "..\\private.jpg", "{absolute}"])
def test_names_that_leave_the_scene_are_refused_unless_allowed(tmp_path, name):
    touch(tmp_path, "private.jpg", "s/images/a.jpg")
    root = tmp_path / "s"
    name = name.replace("{absolute}", str(tmp_path / "private.jpg"))
    with pytest.raises(SceneError, match=r"outside of the scene's folder .* --allow-outside"):
        Finder(root, [root]).find_all([name], Notes())
    assert Finder(root, [root], allow_outside=True).find_all([name], Notes()) == {name: tmp_path / "private.jpg"}


def test_the_copy_inside_goes_before_the_original_outside(tmp_path):
    """A scene that was copied on the machine that made it: its absolute names still exist."""
    touch(tmp_path, "old/images/a.jpg", "new/images/a.jpg")
    found = Finder(tmp_path / "new", [tmp_path / "new" / "images"]).find_all([str(tmp_path / "old/images/a.jpg")], Notes())
    assert list(found.values()) == [tmp_path / "new/images/a.jpg"]


@pytest.mark.parametrize("name", ["/", "..", ".", "", "a" * 300, "a\0b", "\\", "C:\\"])
def test_names_that_are_none(tmp_path, name):
    assert Finder(tmp_path, [tmp_path]).find_all([name], Notes()) == {name: None}


def renamed_model(root, rename):
    """The scene with the photos of its model called `rename(name)` there."""
    model = str(root / "sparse" / "0")
    reconstruction = pycolmap.Reconstruction(model)
    for image in reconstruction.images.values():
        image.name = rename(image.name)
    reconstruction.write_binary(model)


def test_colmap_and_transforms_use_the_same_resolver(tmp_path):
    root = tmp_path / "s"
    write_scene(root)
    expected = load_scene(root)
    renamed_model(root, lambda name: f"D:\\project\\images\\{name.upper()}")
    with pytest.warns(UserWarning, match=r"found 4 photos \(D:.*00.PNG, .*\) under another path or spelling") as caught:
        scene = load_scene(root)
    assert len(caught) == 1 and scene.warnings == (str(caught[0].message),)
    assert all(np.array_equal(a, b) for a, b in zip(scene.images, expected.images))
    (root / "sparse").rename(tmp_path / "gone")
    frames = [{"file_path": f"D:\\project\\IMAGES\\{i:02d}.PNG", "transform_matrix": opengl_pose(pose).tolist()} for i, pose in enumerate(poses(4))]
    write_json(root / "transforms.json", frames, fl_x=200, w=240, h=180)
    with pytest.warns(UserWarning, match=r"found 4 photos \(/project/IMAGES/00.PNG, .*\) under another path or spelling"):
        again = load_scene(root)
    assert all(np.array_equal(a, b) for a, b in zip(again.images, expected.images))


@pytest.mark.parametrize("text", [False, True])
def test_names_of_a_windows_code_page(tmp_path, text):
    root = tmp_path / "s"
    write_scene(root, text=text)
    file = root / "sparse" / "0" / ("images.txt" if text else "images.bin")
    file.write_bytes(file.read_bytes().replace(b"02.png", "ü2.png".encode("cp1252")))
    (root / "images" / "02.png").rename(root / "images" / "ü2.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_scene(root).image_names == ("00.png", "01.png", "03.png", "ü2.png")


def test_a_link_to_the_photos_is_followed(tmp_path):
    write_scene(tmp_path / "s")
    (tmp_path / "s" / "images").rename(tmp_path / "photos")
    (tmp_path / "s" / "images").symlink_to(tmp_path / "photos")
    Image.new("RGB", (4, 4)).save(tmp_path / "photos" / "new.png")
    (tmp_path / "photos" / "._00.png").write_bytes(b"\0\5\x16\7")  # what a Mac leaves in archives
    with pytest.warns(UserWarning, match="1 of 5 photos in .*images have no pose in the model"):
        assert len(load_scene(tmp_path / "s")) == 4

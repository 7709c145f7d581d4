"""EXIF, orientation, alpha and cameras of photos; which pairs are compared, against what is known to overlap."""

import numpy as np
import pytest
from PIL import Image

from learn2splat.sfm import pairs
from learn2splat.sfm.photos import find_photos, grey_of, open_photo, read_pixels


def saved(folder, name, size=(400, 300), orientation=None, film=None, model="X1", mode="RGB"):
    exif = Image.Exif()
    exif[0x0110] = model
    if orientation:
        exif[0x0112] = orientation
    if film:
        exif.get_ifd(0x8769)[0xA405] = film
    picture = Image.new(mode, size, "white")
    picture.paste("red", (0, 0, size[0] // 2, size[1] // 2))
    picture.save(folder / name, exif=exif)
    return open_photo(folder, folder / name)


def test_focal_length_is_that_of_exif(tmp_path):
    photo = saved(tmp_path, "a.jpg", film=26)
    assert photo.focal == pytest.approx(26 / 43.2666 * 500, rel=1e-3)  # the diagonal of the photo is 500 px, that of film 43.27 mm
    assert saved(tmp_path, "b.jpg").focal is None


def test_one_camera_per_zoom_and_size(tmp_path):
    a, b = saved(tmp_path, "a.jpg", film=26), saved(tmp_path, "b.jpg", film=26)
    assert a.camera == b.camera
    others = [saved(tmp_path, "c.jpg", film=52), saved(tmp_path, "d.jpg", film=26, model="Y"), saved(tmp_path, "e.jpg", size=(300, 400), film=26)]
    assert len({a.camera, *(other.camera for other in others)}) == 4


def test_photos_are_upright(tmp_path):
    photo = saved(tmp_path, "turned.jpg", orientation=6)  # turned clockwise to be looked at: its red corner is then on the right
    pixels = read_pixels(photo)
    assert photo.size == (300, 400) and pixels.shape == (400, 300, 3)
    assert pixels[10, -10, 1] < 60 and pixels[10, 10, 1] > 200
    with Image.open(photo.path) as file:
        assert file.size == (400, 300)


def test_grey_is_white_where_nothing_is(tmp_path):
    picture = Image.new("RGBA", (400, 300), (0, 0, 0, 0))
    picture.save(tmp_path / "a.png")
    grey, ratio = grey_of(read_pixels(open_photo(tmp_path, tmp_path / "a.png")), 200)
    assert grey.shape == (150, 200) and ratio == 2 and grey.min() == 255


def test_masks_and_hidden_files_are_no_photos(tmp_path):
    for folder in ("", "left/", "masks/", "depth/"):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / f"{folder}a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / ".b.png")
    photos = [open_photo(tmp_path, path) for path in find_photos(tmp_path)]
    assert [photo.name for photo in photos] == ["a.png", "left/a.png"] and photos[0].camera != photos[1].camera


def test_what_is_chosen_depends_on_number_and_names():
    assert pairs.choose([f"{i}.jpg" for i in range(60)]) == "exhaustive"
    assert pairs.choose([f"IMG_{i}.jpg" for i in range(100)]) == "retrieval"
    assert pairs.choose([f"frame_{i:05d}.jpg" for i in range(0, 5000, 10)]) == "sequential"
    assert pairs.choose([f"IMG_{i * i}.jpg" for i in range(500)]) == "retrieval"
    assert sorted(pairs.exhaustive(5)) == [(i, j) for i in range(5) for j in range(i + 1, 5)]


@pytest.fixture(scope="module")
def walk():
    """(descriptors of 80 photos on a closed path past 800 landmarks in random order of names, their places on the path)."""
    rng = np.random.default_rng(0)
    landmarks = rng.gamma(0.4, size=(800, 128)).astype(np.float32)
    place = rng.permutation(80)
    rows = []
    for p in place:
        seen = landmarks[np.arange(p * 10, p * 10 + 100) % 800]
        noisy = seen * rng.lognormal(0, 0.25, seen.shape) + 0.02 * rng.random(seen.shape)
        rows.append((noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32))
    return rows, place


def test_photos_that_see_the_same_are_compared(walk):
    rows, place = walk
    chosen = set(pairs.retrieval(pairs.similarities(rows)))
    gap = np.abs(place[:, None] - place[None])
    gap = np.minimum(gap, 80 - gap)
    overlapping = {(i, j) for i in range(80) for j in range(i + 1, 80) if gap[i, j] <= 5}  # half of what they see, or more
    assert len(overlapping & chosen) > 0.95 * len(overlapping)
    assert len(chosen) < 0.75 * 80 * 79 / 2


def test_a_video_closes_its_loop(walk):
    rows, place = walk
    in_order = [rows[i] for i in np.argsort(place)]
    chosen = set(pairs.sequential(80, pairs.similarities(in_order)))
    assert {(i, i + 1) for i in range(79)} < chosen
    assert any(j - i > 65 for i, j in chosen)


def test_photos_without_features_are_like_no_other():
    rows = [np.zeros((0, 128), np.float32)] * 3
    assert (pairs.similarities(rows) == 0).all() and pairs.retrieval(pairs.similarities(rows))

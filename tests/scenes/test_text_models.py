"""COLMAP text models as other programs and people write them, and what of both kinds of model must be refused."""

import shutil
import warnings

import numpy as np
import pycolmap
import pytest
import torch
from scene_makers import spot_errors, write_scene

from learn2splat.errors import SceneError
from learn2splat.scenes import load_scene


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text") / "s"
    write_scene(folder, count=4, text=True)
    for name in ("rigs", "frames"):
        (folder / "sparse" / "0" / f"{name}.txt").unlink(missing_ok=True)
    return folder, load_scene(folder)


@pytest.fixture
def root(original, tmp_path):
    return shutil.copytree(original[0], tmp_path / "s")


def lines_of(root, name):
    return (root / "sparse" / "0" / f"{name}.txt").read_text().splitlines()


def write_lines(root, name, lines, encoding="utf-8", newline="\n"):
    (root / "sparse" / "0" / f"{name}.txt").write_bytes((newline.join(lines) + newline).encode(encoding))


def assert_same(scene, expected, names=None):
    assert scene.image_names == (names or expected.image_names)
    torch.testing.assert_close(scene.camtoworlds, expected.camtoworlds)
    torch.testing.assert_close(scene.Ks, expected.Ks)
    assert all(torch.equal(a, b) for a, b in zip(scene.images, expected.images))
    assert spot_errors(scene).max() < 0.08


def quiet_load(root):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_scene(root)


def test_one_line_per_photo(root, original):
    """No second line at all, and so no observations: every point is in front of every camera."""
    kept = [line for line in lines_of(root, "images") if line.startswith("#") or len(line.split()) == 10]
    write_lines(root, "images", kept)
    write_lines(root, "points3D", [" ".join(line.split()[:8]) for line in lines_of(root, "points3D") if not line.startswith("#")])
    assert_same(quiet_load(root), original[1])


@pytest.mark.parametrize("blank", ["", " ", "\t"])
def test_second_lines_without_keypoints(root, original, blank):
    lines = [line if line.startswith("#") or len(line.split()) == 10 else blank for line in lines_of(root, "images")]
    write_lines(root, "images", lines)
    assert_same(quiet_load(root), original[1])


@pytest.mark.parametrize("separator", ["\t", "  ", " \t "])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_any_blanks_between_columns(root, original, separator, newline):
    for name in ("cameras", "images", "points3D"):
        write_lines(root, name, [line if line.startswith("#") else line.replace(" ", separator) for line in lines_of(root, name)], newline=newline)
    assert_same(quiet_load(root), original[1])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_names_with_blanks_in_any_encoding(root, original, encoding):
    names = [f"DJI flüg 2 ({i}).png" for i in range(4)]
    lines = lines_of(root, "images")
    for i, name in enumerate(names):
        lines = [line.replace(f"{i:02d}.png", name) for line in lines]
        (root / "images" / f"{i:02d}.png").rename(root / "images" / name)
    write_lines(root, "images", lines, encoding)
    assert_same(quiet_load(root), original[1], tuple(names))


def test_numbers_of_windows_programs(root, original):
    """Exponents of three digits; a camera that nobody uses is "-nan(ind)"."""
    cameras = [*lines_of(root, "cameras"), "7 PINHOLE 240 180 -nan(ind) -1.#IND 1.#QNAN nan(0x8)"]
    write_lines(root, "cameras", [line.replace(" 200 ", " 2.00000000e+002 ") for line in cameras])
    assert_same(quiet_load(root), original[1])


@pytest.mark.parametrize("factor, spell", [(1, str), (1.0, repr), (257, str), (1 / 255, repr)])
def test_colours_of_any_range(root, original, factor, spell):
    lines = lines_of(root, "points3D")
    for i, line in enumerate(lines):
        words = line.split()
        if not line.startswith("#"):
            words[4:7] = [spell(int(word) * factor) for word in words[4:7]]
            lines[i] = " ".join(words)
    write_lines(root, "points3D", lines)
    assert torch.equal(load_scene(root).colors, original[1].colors)


def changed_rotations(root, change):
    """Apply `change` to [QW QX QY QZ TX TY TZ] of every photo."""
    lines = lines_of(root, "images")
    for i, line in enumerate(lines):
        words = line.split()
        if not line.startswith("#") and len(words) == 10:
            words[1:8] = [repr(value) for value in change([float(word) for word in words[1:8]])]
            lines[i] = " ".join(words)
    write_lines(root, "images", lines)


@pytest.mark.parametrize("norm", [0.95, 1.05, 2.0, 0.3])
@pytest.mark.parametrize("binary", [False, True])
def test_rotations_that_nobody_normalised(root, original, norm, binary):
    changed_rotations(root, lambda row: [*(norm * np.array(row[:4])).tolist(), *row[4:]])
    if binary:
        model = root / "sparse" / "0"
        to_binary_as_written(model)
    with pytest.warns(UserWarning, match=r"normalised the rotation of 4 photos"):
        scene = load_scene(root)
    assert_same(scene, original[1])
    rotation = scene.camtoworlds[:, :3, :3].double()
    assert (rotation @ rotation.mT - torch.eye(3)).abs().max() < 1e-6


def to_binary_as_written(model):
    """pycolmap normalises what it reads, so images.bin is packed here (its own rotations replaced by those of images.txt)."""
    import struct

    rows = {int(line.split()[0]): list(map(float, line.split()[1:8])) for line in (model / "images.txt").read_text().splitlines()
            if not line.startswith("#") and len(line.split()) == 10}  # fmt: skip
    pycolmap.Reconstruction(str(model)).write_binary(str(model))
    data = bytearray((model / "images.bin").read_bytes())
    for image_id, row in rows.items():
        at = next(i for i in range(8, len(data) - 64) if data[i : i + 4] == image_id.to_bytes(4, "little") and b".png\0" in data[i + 64 : i + 72])
        data[at + 4 : at + 60] = struct.pack("<7d", *row)
    (model / "images.bin").write_bytes(bytes(data))
    for name in ("cameras", "images", "points3D"):
        (model / f"{name}.txt").unlink()


def test_columns_in_another_order(root):
    changed_rotations(root, lambda row: [*row[4:], *row[:4]])
    with pytest.raises(SceneError, match=r"photo 0\d.png in .* has a rotation of length [\d.]+, expected a unit quaternion: .*QW QX QY QZ TX TY TZ"):
        load_scene(root)


@pytest.mark.parametrize("size", ["0 180", "240 0", "-240 180", "4294967328 180"])
@pytest.mark.filterwarnings("ignore:left out")
def test_sizes_that_are_none(root, size):
    write_lines(root, "cameras", [line.replace("240 180", size) for line in lines_of(root, "cameras")])
    with pytest.raises(SceneError, match="a camera of size"):
        load_scene(root)


@pytest.mark.parametrize(
    "name, change, match",
    [
        ("images", lambda lines: [*lines, "a web page"], "expected IMAGE_ID QW"),
        ("images", lambda lines: [*lines, "9 1 0 0 0 0 0 0 99 x.png"], "camera 99, which cameras.txt lacks"),
        ("images", lambda lines: [*lines, lines[-2]], "comes twice"),
        (
            "images",
            lambda lines: [line.replace(".png", ".png\n0.5 0.5 x") if line.endswith("00.png") else line for line in lines],
            "expected the keypoints",
        ),
        ("points3D", lambda lines: [*lines, "77 1 2"], "expected POINT3D_ID"),
        ("points3D", lambda lines: [*lines, "77 1 2 three 1 2 3 0.5"], "expected POINT3D_ID"),
        ("points3D", lambda lines: [*lines, "-5 1 2 3 1 2 3 0.5"], "expected POINT3D_ID"),
        ("cameras", lambda lines: [*lines, "2 PINHOLE 240 180 200"], "4 parameters of a PINHOLE camera"),
        ("cameras", lambda lines: [*lines, lines[-1]], "comes twice"),
    ],
)
def test_lines_that_are_none(root, name, change, match):
    write_lines(root, name, change(lines_of(root, name)))
    with pytest.raises(SceneError, match=match):
        load_scene(root)


def test_a_model_larger_than_a_block_and_ids_in_any_order(tmp_path, monkeypatch):
    """points3D.bin is read block by block: what it holds does not depend on where the blocks end."""
    root = tmp_path / "s"
    write_scene(root, count=2)
    expected = load_scene(root)
    monkeypatch.setattr("learn2splat.scenes._colmap_binary._BLOCK", 100)
    assert torch.equal(load_scene(root).points, expected.points)
    path = root / "sparse" / "0" / "points3D.bin"
    data = path.read_bytes()
    record = 51 + 16
    records = [data[8 + i * record : 8 + (i + 1) * record] for i in range(12)]
    path.write_bytes(data[:8] + b"".join(records[::-1]))
    scene = load_scene(root)
    assert torch.equal(scene.points, expected.points) and torch.equal(scene.colors, expected.colors)

"""RealEstate10K chunks: cameras and photos as the format says, nothing in a file is run, and damage gives one sentence."""

from __future__ import annotations

import os

import pytest
import torch
from re10k_makers import FOCAL, entry, write_chunks
from tiny_scenes import arc

from learn2splat.errors import SceneError
from learn2splat.scenes.re10k import find_chunks, load_re10k


def test_a_scene_of_a_chunk(tmp_path):
    folder = write_chunks(tmp_path / "test")
    chunks = find_chunks(folder)
    assert list(chunks) == ["aaa", "bbb", "ccc"] and chunks["ccc"].name == "000001.torch"
    (folder / "index.json").unlink()
    assert find_chunks(folder) == chunks  # by looking into them
    scene = load_re10k(chunks["bbb"], "bbb")
    assert scene.name == "bbb" and len(scene) == 10 and scene.test_idx == (0, 8) and len(scene.points) == 0
    back = scene.to_normalised.inverse().apply_poses(scene.camtoworlds)
    torch.testing.assert_close(back, arc(10), rtol=0, atol=1e-5)
    fx, fy, cx, cy = FOCAL
    torch.testing.assert_close(scene.Ks[3], torch.tensor([[fx * 64, 0, cx * 64], [0, fy * 36, cy * 36], [0, 0, 1]]))
    assert [int(image.float().mean().round()) for image in scene.images] == [20 * i for i in range(10)]
    assert scene.size(0) == (64, 36) and scene.image_names[7] == "00007.jpg"


def test_an_index_cannot_lead_out_of_its_folder(tmp_path):
    folder = write_chunks(tmp_path / "test")
    (folder / "index.json").write_text('{"aaa": "000000.torch", "x": "../secret.torch", "y": "/etc/passwd"}')
    assert list(find_chunks(folder)) == ["aaa"]


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("bomb",)


def broken(change):
    def make(path):
        scene = entry("aaa", views=3)
        change(scene)
        torch.save([scene], path)

    return make


DAMAGED = {
    "holds more than tensors": lambda path: torch.save([{"key": "aaa", "images": [], "cameras": Bomb()}], path),
    "or is damaged": lambda path: path.write_bytes(b"PK\x03\x04 nothing"),
    "is no chunk of scenes": lambda path: torch.save([{"key": "aaa"}], path),
    "holds no scene aaa": lambda path: torch.save([entry("zzz", views=2)], path),
    r"shape \(n, 18\)": broken(lambda scene: scene.update(cameras=torch.zeros(3, 17))),
    "finite numbers": broken(lambda scene: scene["cameras"].fill_(torch.nan)),
    "as many photos as cameras": broken(lambda scene: scene["images"].pop()),
    "rotations": broken(lambda scene: scene["cameras"][1, 6:9].mul_(2)),
    "focal lengths": broken(lambda scene: scene["cameras"][:, 0].neg_()),
    "photo 1 of scene aaa": broken(lambda scene: scene["images"].__setitem__(1, torch.zeros(9, dtype=torch.uint8))),
}


@pytest.mark.parametrize("message", DAMAGED)
def test_damage_gives_a_sentence_and_runs_nothing(tmp_path, monkeypatch, message):
    monkeypatch.chdir(tmp_path)
    DAMAGED[message](tmp_path / "000000.torch")
    with pytest.raises(SceneError, match=message):
        load_re10k(tmp_path / "000000.torch", "aaa")
    assert not (tmp_path / "bomb").exists()


def test_no_chunks(tmp_path):
    with pytest.raises(SceneError, match=r"no index.json and no .torch chunks"):
        find_chunks(tmp_path)
    (tmp_path / "index.json").write_text("[1]")
    with pytest.raises(SceneError, match="index of chunks"):
        find_chunks(tmp_path)
    with pytest.raises(SceneError, match="no chunk at"):
        load_re10k(tmp_path / "no.torch", "aaa")


def test_cameras_that_are_none(tmp_path):
    """Mirrored, of an infinite focal length, scaled, quantised: one sentence that says which photo."""
    changes = {
        "must be rotations": lambda cameras: cameras[1].__setitem__(
            [6, 7, 8, 10, 11, 12, 14, 15, 16], -cameras[1, [6, 7, 8, 10, 11, 12, 14, 15, 16]]
        ),
        "photo 1 of scene aaa .* has a camera with a number of": lambda cameras: cameras[1].__setitem__(0, 3e38),
        "photo 2 of scene aaa .* has a camera with focal lengths": lambda cameras: cameras[2].__setitem__(1, 0.0),
        "photo 0 of scene aaa .* has a pose .* units away": lambda cameras: cameras[0].__setitem__(9, 1e30),
    }
    for match, change in changes.items():
        scene = entry("aaa", views=3)
        change(scene["cameras"])
        torch.save([scene], tmp_path / "c.torch")
        with pytest.raises(SceneError, match=match):
            load_re10k(tmp_path / "c.torch", "aaa")
    scene = entry("aaa", views=3)
    scene["cameras"] = scene["cameras"].to_sparse()
    torch.save([scene], tmp_path / "c.torch")
    with pytest.raises(SceneError, match=r"finite numbers of shape \(n, 18\)"):
        load_re10k(tmp_path / "c.torch", "aaa")


def test_cut_pickles_and_odd_indices(tmp_path):
    import zipfile

    torch.save([entry("aaa", views=3)], tmp_path / "ok.torch")
    whole = zipfile.ZipFile(tmp_path / "ok.torch")
    pickled = next(name for name in whole.namelist() if name.endswith("data.pkl"))
    for keep in range(0, len(whole.read(pickled)), 9):
        with zipfile.ZipFile(tmp_path / "cut.torch", "w") as cut:
            for name in whole.namelist():
                cut.writestr(name, whole.read(name)[:keep] if name == pickled else whole.read(name))
        with pytest.raises(SceneError, match=r"download it again|is no chunk of scenes"):
            load_re10k(tmp_path / "cut.torch", "aaa")
    (tmp_path / "index.json").write_text("[" * 100_000)
    with pytest.raises(SceneError, match=r"not a readable index of chunks .*nested too deeply.*delete it"):
        find_chunks(tmp_path)
    (tmp_path / "index.json").write_text('{"aaa": "' + "a" * 5000 + '"}')
    with pytest.raises(SceneError, match="no chunk at"):
        load_re10k(find_chunks(tmp_path)["aaa"], "aaa")

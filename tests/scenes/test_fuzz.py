"""Damaged scenes: whatever bytes are in the files, `load_scene` gives a scene that can be computed with, or one sentence."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from mutate import changed_bytes
from scene_makers import poses, world_spots, write_scene
from test_scene_transforms import opengl_pose, write_ply

from learn2splat.errors import SceneError
from learn2splat.scenes import load_scene

CASES = 150  # of each format and seed; 7000 of other seeds were run by hand, all with these two outcomes
WORDS = (
    "nan",
    "-1",
    "0",
    "1e300",
    "1e38",
    "99999999999999999999",
    "null",
    "[]",
    "{}",
    '"x"',
    "true",
    "-nan(ind)",
    "1e-320",
    "../../x",
    "/",
    "é",
    "\0",
    "",
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """One small scene of each format."""
    folder = tmp_path_factory.mktemp("fuzz")
    size = ((60, 45),)
    write_scene(folder / "binary", "OPENCV", count=3, sizes=size)
    write_scene(folder / "text", "SIMPLE_RADIAL", count=3, sizes=size, text=True)
    write_scene(folder / "transforms", count=3, sizes=size)
    shutil.rmtree(folder / "transforms" / "sparse")
    write_ply(folder / "transforms" / "pc.ply", world_spots())
    names = [f"images/{i:02d}.png" for i in range(3)]
    meta = {"fl_x": 50.0, "fl_y": 50.0, "cx": 30.0, "cy": 22.0, "w": 60, "h": 45, "k1": 0.01, "ply_file_path": "pc.ply"}
    meta |= {"applied_transform": np.eye(4)[:3].tolist(), "train_filenames": names[1:], "test_filenames": names[:1]}
    frames = [{"file_path": name, "transform_matrix": opengl_pose(pose).tolist()} for name, pose in zip(names, poses(3))]
    (folder / "transforms" / "transforms.json").write_text(json.dumps({**meta, "frames": frames}))
    return folder


def mutated(data: bytes, rng: random.Random, *, text: bool) -> bytes:
    """A word replaced by an odd one, or bytes changed."""
    if text and rng.random() < 0.7:
        words = data.decode().split(" ")
        words[rng.randrange(len(words))] = rng.choice([*WORDS, rng.choice(words)])
        return " ".join(words).encode()
    return changed_bytes(data, rng)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", ["binary", "text", "transforms"])
def test_any_bytes(originals, tmp_path, format):
    rng = random.Random(f"scenes {format}")
    root = shutil.copytree(originals / format, tmp_path / "s")
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.stem not in ("rigs", "frames")]
    whole = {path: path.read_bytes() for path in files}
    weights = [0.1 if path.suffix == ".png" else 1 for path in files]
    outcomes = {"scene": 0, "sentence": 0}
    for _ in range(CASES):
        (path,) = rng.choices(files, weights)
        path.write_bytes(mutated(whole[path], rng, text=path.suffix in (".txt", ".json")))
        try:
            scene = load_scene(root, long_side=30)
        except SceneError as error:
            assert "\n" not in str(error)
            outcomes["sentence"] += 1
        else:
            outcomes["scene"] += 1
            rotations = scene.camtoworlds[:, :3, :3]
            assert all(bool(torch.isfinite(tensor).all()) for tensor in (scene.camtoworlds, scene.Ks, scene.points))
            assert (rotations @ rotations.mT - torch.eye(3)).abs().max() < 1e-5 and bool((scene.Ks[:, [0, 1], [0, 1]] > 0).all())
            assert np.isfinite(scene.scene_scale) and scene.train_idx and scene.test_idx
        path.write_bytes(whole[path])
    assert min(outcomes.values()) > CASES / 10

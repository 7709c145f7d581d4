"""Starts from depth maps that a scene brings: exact depth of a scene by formula, in every kind of file, size and unit; lenses; what is dropped."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_scenes import FOCAL, HEIGHT, WIDTH, arc

from learn2splat import load_scene
from learn2splat.errors import SceneError
from learn2splat.initializers import depth_init
from learn2splat.initializers.depth import resampled, sound
from learn2splat.scenes._camera import Camera
from learn2splat.scenes.depth_files import DepthFile

PLANE, NORMAL = 0.4, np.array([0.3, -0.2, 1.0])  # the points x with NORMAL . x = PLANE


def plane_depth(pose, width, height):
    """(height, width) exact depth of the plane at pixel centres, for a camera whose photo has WIDTH x HEIGHT px."""
    x = ((np.arange(width) + 0.5) * WIDTH / width - WIDTH / 2) / FOCAL
    y = ((np.arange(height) + 0.5) * HEIGHT / height - HEIGHT / 2) / FOCAL
    rays = np.stack([*np.meshgrid(x, y), np.ones((height, width))], 2) @ pose[:3, :3].T
    return (PLANE - NORMAL @ pose[:3, 3]) / (rays @ NORMAL)


def write(root, suffix=".npy", *, size=(WIDTH, HEIGHT), unit=1.0, named=True, points=False, views=5, key=None):
    """A transforms.json with a depth map of the plane per photo, `unit` file units per unit of the poses."""
    (root / "images").mkdir(parents=True)
    (root / "depth").mkdir()
    frames = []
    for i, pose in enumerate(arc(views).double().numpy()):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 40 * i + 20, np.uint8)).save(root / "images" / f"{i}.png")
        depth = plane_depth(pose, *size) * unit
        file = root / "depth" / f"{i}{suffix}"
        if suffix == ".npy":
            np.save(file, depth.astype(np.float32))
        elif suffix == ".png":
            Image.fromarray(np.round(depth).astype(np.uint16)).save(file)
        else:
            Image.fromarray(depth.astype(np.float32)).save(file)
        opengl = pose @ np.diag([1, -1, -1, 1])
        frames.append(
            {"file_path": f"images/{i}.png", "transform_matrix": opengl.tolist(), **({"depth_file_path": f"depth/{i}{suffix}"} if named else {})}
        )
    meta = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2, "w": WIDTH, "h": HEIGHT, "frames": frames}
    if points:
        xy = np.random.default_rng(0).uniform(-0.3, 0.3, (200, 2))
        xyz = np.column_stack([xy, PLANE - xy @ NORMAL[:2]])
        xyz[:60, 2] += 0.5  # a third is hidden behind it
        rows = "\n".join(f"{x} {y} {z} 9 9 9" for x, y, z in xyz)
        head = "ply\nformat ascii 1.0\nelement vertex 200\nproperty float x\nproperty float y\nproperty float z\n"
        head += "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
        (root / "points3D.ply").write_text(head + rows + "\n")
        meta["ply_file_path"] = "points3D.ply"
    if key is not None:
        meta["depth_unit_scale_factor"] = key
    (root / "transforms.json").write_text(json.dumps(meta))
    return root


def off_plane(scene, gaussians):
    """Largest distance of a Gaussian to the plane, units of the poses."""
    means = scene.to_normalised.inverse().apply(gaussians.means.double()).numpy()
    return np.abs(means @ NORMAL - PLANE).max()


def start(scene, **options):
    return depth_init(scene, generator=torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize(
    ("suffix", "options", "error"),
    [
        (".npy", {}, 1e-3),
        (".tiff", {"named": False}, 1e-3),
        (".png", {"unit": 1000.0}, 2e-3),  # mm
        (".png", {"unit": 5000.0, "key": 0.0002}, 1e-3),
        (".npy", {"unit": 0.01, "points": True}, 1e-2),  # nobody knows the unit: points tell, some of them hidden
        (".npy", {"size": (16, 12)}, 0.04),  # a coarse map
        (".npy", {"size": (64, 48), "named": False}, 0.02),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_every_file_puts_gaussians_on_the_surface(tmp_path, suffix, options, error):
    scene = load_scene(write(tmp_path, suffix, **options))
    gaussians = start(scene)
    assert len(gaussians) == len(scene.train_idx) * (WIDTH // 4) * (HEIGHT // 4)
    assert off_plane(scene, gaussians) < error
    assert len(start(scene, max_points=7)) == 7


def test_a_lens_is_looked_through():
    """The map of a distorted photo, exact by formula, read at the pixels of the photo without lens."""
    camera = Camera(64, 48, 60.0, 60.0, 32.0, 24.0, (-0.2, 0.05, 0.002, -0.001, 0, 0, 0, 0))
    rows, columns = np.mgrid[:480, :640] + 0.5
    rays = camera.rays(np.stack([columns.ravel() / 10, rows.ravel() / 10], 1))
    depth = (2 + 0.5 * rays[:, 0] - 0.3 * rays[:, 1]).reshape(480, 640)

    class InMemory(DepthFile):
        def read(self):
            return depth

    K = np.array([[50.0, 0, 20], [0, 50, 15], [0, 0, 1]])
    found = resampled(InMemory("x", camera), K, (30, 40))
    y, x = np.mgrid[:30, :40] + 0.5
    expected = 2 + 0.5 * (x - 20) / 50 - 0.3 * (y - 15) / 50
    assert np.nanmax(np.abs(found - expected)) < 1.5e-3 and np.isfinite(found).mean() > 0.95


def test_holes_and_edges_are_dropped():
    depth = torch.full((12, 12), 2.0)
    depth[:, 6:] = 3.0  # an edge
    depth[2, 2] = torch.nan
    usable = sound(depth)
    assert not bool(usable[:, 5:7].any()) and not bool(usable[2, 2])
    assert int(usable.sum()) == 12 * 10 - 1
    assert bool(sound(torch.linspace(1.0, 1.3, 12).expand(12, 12)).all())  # a slope is no edge


@pytest.mark.filterwarnings("ignore")
def test_bad_files_are_one_sentence(tmp_path):
    root = write(tmp_path / "a")
    scene = load_scene(root)
    file = root / "depth" / "1.npy"
    good = file.read_bytes()
    for content, message in {
        good[: len(good) // 2]: "not a readable npy", b"": "not a readable npy", b"not numpy at all": "not a readable npy",
    }.items():  # fmt: skip
        file.write_bytes(content)
        with pytest.raises(SceneError, match=message):
            start(scene)
    np.save(file, np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(SceneError, match="not a readable npy"):
        start(scene)
    np.save(file, np.zeros((3, 4, 5), np.float32))
    with pytest.raises(SceneError, match=r"must be numbers of shape \(height, width\)"):
        start(scene)
    np.save(file, np.ones((HEIGHT, HEIGHT), np.float32))
    with pytest.raises(SceneError, match="not the shape of its photo"):
        start(scene)
    file.unlink()
    with pytest.raises(SceneError, match=r"depth map .*1.npy is missing"):
        start(load_scene(root))
    for i in range(5):
        np.save(root / "depth" / f"{i}.npy", np.zeros((HEIGHT, WIDTH), np.float32))
    with pytest.raises(SceneError, match="hold no depth"):
        start(load_scene(root))
    picture = write(tmp_path / "b", ".png")
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(picture / "depth" / "1.png")
    with pytest.raises(SceneError, match="16-bit grey or float"):
        start(load_scene(picture))
    (picture / "depth" / "1.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(SceneError, match="cannot be read"):
        start(load_scene(picture))
    with pytest.raises(SceneError, match="brings no depth maps"):
        start(replace(scene, depth_files=None))

"""A scene small enough to be fitted within a test: a few coloured blobs, seen from an arc, in memory or as a COLMAP folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from learn2splat.gaussians import Gaussians
from learn2splat.render import render_views
from learn2splat.scenes import Scene, Similarity
from learn2splat.scenes.scene import every_nth_split

WIDTH, HEIGHT = 32, 24
FOCAL = 40.0


def blobs(count: int = 40, seed: int = 0) -> Gaussians:
    """Random opaque blobs in a box of side 1 around the origin."""
    g = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=torch.rand(count, 3, generator=g) - 0.5,
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=g), dim=1),
        log_scales=torch.log(torch.tensor(0.12)) + 0.3 * torch.randn(count, 3, generator=g),
        logit_opacities=1.5 + torch.rand(count, generator=g),
        sh0=1.7 * (2 * torch.rand(count, 1, 3, generator=g) - 1),
        shN=torch.zeros(count, 15, 3),
    )


def arc(views: int, distance: float = 1.6, degrees: float = 70.0) -> Tensor:
    """(views, 4, 4) camtoworlds on an arc at `distance`, looking at the origin; OpenCV axes, world up is -y."""
    poses = torch.eye(4).repeat(views, 1, 1)
    for pose, angle in zip(poses, torch.linspace(-degrees / 2, degrees / 2, views) * torch.pi / 180):
        forward = torch.stack([torch.sin(angle), torch.tensor(0.0), torch.cos(angle)])
        right = torch.stack([torch.cos(angle), torch.tensor(0.0), -torch.sin(angle)])
        pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, torch.tensor([0.0, 1.0, 0.0]), forward, -distance * forward
    return poses


def tiny_scene(views: int = 10, *, seed: int = 0, two_sizes: bool = False, name: str = "tiny") -> Scene:
    """Photos of `blobs`. With `two_sizes`, every other photo is cropped to fewer rows."""
    truth, poses = blobs(seed=seed), arc(views)
    K = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    with torch.no_grad():
        renders = render_views(truth, torch.linalg.inv(poses), K.repeat(views, 1, 1), WIDTH, HEIGHT).clamp(0, 1)
    images = (renders * 255).round().to(torch.uint8)
    train, test = every_nth_split(views, 8)
    return Scene(
        name=name,
        image_names=tuple(f"view_{i:02d}.png" for i in range(views)),
        images=tuple(image[: HEIGHT - 6] if two_sizes and i % 2 else image for i, image in enumerate(images)),
        camtoworlds=poses,
        Ks=K.repeat(views, 1, 1),
        points=truth.means,
        colors=((0.5 + 0.28209479 * truth.sh0[:, 0]).clamp(0, 1) * 255).to(torch.uint8),
        train_idx=train,
        test_idx=test,
        to_normalised=Similarity.identity(),
        background=torch.zeros(3),
    )


def write_colmap(root: Path, views: int = 10, *, seed: int = 0) -> Path:
    """`tiny_scene` as COLMAP text files and PNG photos, in an input frame twice as large, turned and shifted. Returns `root`."""
    scene = tiny_scene(views, seed=seed)
    turn = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    to_input = Similarity(2.0, turn, torch.tensor([3.0, -1.0, 5.0], dtype=torch.float64))
    poses = to_input.apply_poses(scene.camtoworlds.double()).numpy()
    points = to_input.apply(scene.points.double()).numpy()
    model = root / "sparse" / "0"
    model.mkdir(parents=True)
    (root / "images").mkdir()
    (model / "cameras.txt").write_text(f"1 PINHOLE {WIDTH} {HEIGHT} {FOCAL} {FOCAL} {WIDTH / 2} {HEIGHT / 2}\n")
    lines = []
    for i, (name, pose) in enumerate(zip(scene.image_names, poses)):
        Image.fromarray(scene.images[i].numpy()).save(root / "images" / name)
        viewmat = np.linalg.inv(pose)
        numbers = " ".join(repr(float(x)) for x in (*_wxyz(viewmat[:3, :3]), *viewmat[:3, 3]))
        p_cam = points @ viewmat[:3, :3].T + viewmat[:3, 3]
        xy = FOCAL * p_cam[:, :2] / p_cam[:, 2:] + [WIDTH / 2, HEIGHT / 2]
        lines += [f"{i + 1} {numbers} 1 {name}", " ".join(f"{x} {y} {k + 1}" for k, (x, y) in enumerate(xy))]
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    rows = []
    for k, (point, color) in enumerate(zip(points, scene.colors.tolist())):
        track = " ".join(f"{i + 1} {k}" for i in range(views))
        rows.append(f"{k + 1} {' '.join(repr(float(x)) for x in point)} {' '.join(map(str, color))} 0.5 {track}")
    (model / "points3D.txt").write_text("\n".join(rows) + "\n")
    return root


def _wxyz(rotation: np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    return np.roll(Rotation.from_matrix(rotation).as_quat(), 1)

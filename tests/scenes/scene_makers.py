"""Small scenes on disk for the tests: photos of bright spots at known 3D points, seen by cameras that pycolmap itself projects with.

A spot's centre in a loaded photo says where the pixels went; `img_from_cam` of pycolmap says where they should be.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
from PIL import Image

SPOTS = np.array([[x, y, 4 + 0.3 * ((3 * i + j) % 3)] for i, x in enumerate((-1.2, -0.4, 0.4, 1.2)) for j, y in enumerate((-0.8, 0.0, 0.8))])
PARAMS = {  # of a 240 x 180 camera; distortion of a few px at the corners
    "SIMPLE_PINHOLE": [200, 118, 92],
    "PINHOLE": [200, 205, 118, 92],
    "SIMPLE_RADIAL": [200, 118, 92, -0.12],
    "RADIAL": [200, 118, 92, -0.1, 0.04],
    "OPENCV": [200, 205, 118, 92, -0.1, 0.03, 0.004, -0.003],
}
WORLD_OFFSET = np.array([10.0, -20.0, 5.0])  # so that a forgotten shift shows


def poses(count: int) -> list[np.ndarray]:
    """cam_from_world (3, 4) of cameras on a small arc that look at the spots."""
    result = []
    for i in range(count):
        angle = 0.04 * (i - (count - 1) / 2)
        rotation = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
        translation = np.array([0.1 * i, 0.03 * i, 0.1]) - rotation @ WORLD_OFFSET
        result.append(np.hstack([rotation, translation[:, None]]))
    return result


def world_spots() -> np.ndarray:
    return SPOTS + WORLD_OFFSET


def draw_spots(camera: pycolmap.Camera, cam_from_world: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8, a white blob (sigma 1.5 px) on dark grey where the camera, lens included, sees each spot."""
    image = np.full((camera.height, camera.width), 30.0)
    rows, columns = np.mgrid[: camera.height, : camera.width] + 0.5
    for xy in camera.img_from_cam(world_spots() @ cam_from_world[:, :3].T + cam_from_world[:, 3]):
        image += 220 * np.exp(-((columns - xy[0]) ** 2 + (rows - xy[1]) ** 2) / (2 * 1.5**2))
    return np.repeat(np.clip(image + 0.5, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def write_scene(root: Path, model: str = "PINHOLE", *, count: int = 4, sizes=((240, 180),), text: bool = False) -> None:
    """A COLMAP folder with `count` photos; photo i has size `sizes[i % len(sizes)]` and a camera of `model` scaled to it."""
    (root / "images").mkdir(parents=True)
    (root / "sparse" / "0").mkdir(parents=True)
    reconstruction = pycolmap.Reconstruction()
    cameras = []
    for camera_id, size in enumerate(sizes, start=1):
        camera = pycolmap.Camera(model=model, camera_id=camera_id, width=240, height=180, params=PARAMS[model])
        camera.rescale(*size)
        reconstruction.add_camera_with_trivial_rig(camera)
        cameras.append(camera)
    for i, pose in enumerate(poses(count)):
        camera = cameras[i % len(cameras)]
        keypoints = camera.img_from_cam(world_spots() @ pose[:, :3].T + pose[:, 3])
        image = pycolmap.Image(name=f"{i:02d}.png", keypoints=keypoints, camera_id=camera.camera_id, image_id=i + 1)
        reconstruction.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose))
        Image.fromarray(draw_spots(camera, pose)).save(root / "images" / f"{i:02d}.png")
    for j, xyz in enumerate(world_spots()):
        track = pycolmap.Track([pycolmap.TrackElement(i + 1, j) for i in range(count)])
        reconstruction.add_point3D(xyz, track, np.array([10 * j, 200, 5], np.uint8))
    (reconstruction.write_text if text else reconstruction.write_binary)(str(root / "sparse" / "0"))


def spot_errors(scene) -> np.ndarray:
    """(M, spots) distances in px between where `scene` projects the spots and where its photos show them."""
    points = scene.to_normalised.apply(scene.points.new_tensor(world_spots()).double())
    errors = []
    for i in range(len(scene)):
        p_cam = points @ scene.viewmats[i, :3, :3].double().T + scene.viewmats[i, :3, 3].double()
        xy = p_cam @ scene.Ks[i].double().T
        xy = (xy[:, :2] / xy[:, 2:]).numpy()
        light = scene.images[i].double().numpy().mean(2) - 30
        row = []
        for x, y in xy:
            top, left = max(int(y) - 5, 0), max(int(x) - 5, 0)
            patch = np.clip(light[top : top + 11, left : left + 11], 0, None)
            rows, columns = np.mgrid[top : top + patch.shape[0], left : left + patch.shape[1]] + 0.5
            weight = patch.sum()
            row.append(np.hypot((patch * columns).sum() / weight - x, (patch * rows).sum() / weight - y) if weight > 0 else np.inf)
        errors.append(row)
    return np.array(errors)

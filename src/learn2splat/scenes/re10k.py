"""RealEstate10K in the `.torch` chunks of pixelSplat: lists of scenes with JPEG photos and cameras, without points.

A scene of a chunk: `key`; `images`, a list of (bytes,) uint8 tensors, each a JPEG file; `cameras` (n, 18): fx, fy, cx, cy in units of the photo's
width and height, two zeros, then the rows of the 3x4 camera-from-world matrix, OpenCV axes. Chunks are read with `weights_only`: nothing in them is
run.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import SceneError
from ._camera import ROTATION_TOLERANCE, Camera, nearest_rotation, pose_fault
from ._names import is_file
from ._normalise import similarity_from_cameras
from ._photos import in_threads
from ._text import read_json
from .scene import Scene, every_nth_split

CAMERA_NUMBERS = 18


def find_chunks(folder: Path) -> dict[str, Path]:
    """Scene -> chunk, by the `index.json` of the folder, else by looking into every chunk.

    Raises:
        SceneError: there are no chunks, or the index is unreadable.
    """
    index = folder / "index.json"
    if index.is_file():
        try:
            entries = {str(key): folder / str(name) for key, name in read_json(index, "index of chunks").items()}
        except SceneError as error:
            raise SceneError(f"{error}: delete it to look into the chunks themselves") from error
        return {key: chunk for key, chunk in sorted(entries.items()) if chunk.parent == folder}
    chunks = sorted(folder.glob("*.torch"))
    if not chunks:
        raise SceneError(f"no index.json and no .torch chunks in {folder}: give the folder of a split, as re10k/test")
    return dict(sorted((entry["key"], chunk) for chunk in chunks for entry in _read_chunk(chunk)))


def load_re10k(chunk: Path, key: str, *, test_every: int = 8) -> Scene:
    """One scene of a chunk. Photos are named by their position, so that index files fit. There are no points, and no scale but that of the cameras.

    Raises:
        SceneError: the chunk is missing, holds more than tensors, lacks the scene, or the scene is damaged.
    """
    entry = next((entry for entry in _read_chunk(chunk) if entry["key"] == key), None)
    if entry is None:
        raise SceneError(f"{chunk} holds no scene {key}: its index.json belongs to other chunks")
    cameras, files = entry["cameras"], entry["images"]
    plain = isinstance(cameras, Tensor) and cameras.layout == torch.strided and cameras.dtype in (torch.float32, torch.float64)
    if not plain or cameras.ndim != 2 or cameras.shape[1] != CAMERA_NUMBERS or not bool(torch.isfinite(cameras).all()):
        raise SceneError(f"scene {key} of {chunk}: cameras must be finite numbers of shape (n, {CAMERA_NUMBERS})")
    if not isinstance(files, (list, tuple)) or len(files) != len(cameras) or len(files) < 2:
        raise SceneError(f"scene {key} of {chunk}: expected as many photos as cameras ({len(cameras)}), and two at least")
    photos = in_threads(lambda i: _decode(files[i], f"photo {i} of scene {key} in {chunk}"), list(range(len(files))))
    placed = [_camera(row, photo, f"photo {i} of scene {key} in {chunk}") for i, (row, photo) in enumerate(zip(cameras.double().numpy(), photos))]
    Ks = torch.from_numpy(np.stack([camera.K() for camera, _ in placed]))
    camtoworlds = torch.from_numpy(np.stack([pose for _, pose in placed]))
    to_normalised = similarity_from_cameras(camtoworlds.numpy())
    train_idx, test_idx = every_nth_split(len(photos), test_every)
    return Scene(
        name=key,
        image_names=tuple(f"{i:05d}.jpg" for i in range(len(photos))),
        images=tuple(photos),
        camtoworlds=to_normalised.apply_poses(camtoworlds).float(),
        Ks=Ks.float(),
        points=torch.zeros(0, 3),
        colors=torch.zeros(0, 3, dtype=torch.uint8),
        train_idx=train_idx,
        test_idx=test_idx,
        to_normalised=to_normalised,
        background=torch.zeros(3),
    )


def _read_chunk(path: Path) -> list[dict[str, Any]]:
    """The scenes of a chunk that have a name, photos and cameras."""
    if not is_file(path):
        raise SceneError(f"no chunk at {path}: copy the whole folder of the split")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a cut pickle raises a dozen types, from IndexError to struct.error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SceneError(f"{path} holds more than tensors or is damaged, and is not opened for safety ({reason}): download it again") from error
    scenes = content if isinstance(content, list) else []
    if not scenes or not all(isinstance(entry, dict) and {"key", "images", "cameras"} <= entry.keys() for entry in scenes):
        raise SceneError(f"{path} is no chunk of scenes: expected a list of entries with key, images and cameras")
    return [{**entry, "key": str(entry["key"])} for entry in scenes]


def _camera(row: np.ndarray, photo: Tensor, what: str) -> tuple[Camera, np.ndarray]:
    """(camera, camtoworld (4, 4)) of the 18 numbers of a photo (H, W, 3)."""
    height, width, _ = photo.shape
    camera = Camera(width, height, row[0] * width, row[1] * height, row[2] * width, row[3] * height)
    matrix = row[6:].reshape(3, 4)
    rotation = nearest_rotation(matrix[:, :3])
    if rotation is None or abs(np.linalg.norm(matrix[:, :3]) - 3**0.5) > ROTATION_TOLERANCE:
        raise SceneError(f"{what}: camera-from-world matrices must be rotations with a shift")
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation.T, -rotation.T @ matrix[:, 3]
    fault = camera.fault() or pose_fault(pose)
    if fault:
        raise SceneError(f"{what} has {fault}")
    return camera, pose


def _decode(file: Any, what: str) -> Tensor:
    """(H, W, 3) uint8 of the bytes of a JPEG or PNG."""
    try:
        data = file if isinstance(file, bytes) else file.to(torch.uint8).contiguous().view(-1).numpy().tobytes()
        with Image.open(io.BytesIO(data)) as photo:
            return torch.from_numpy(np.array(photo.convert("RGB")))
    except Exception as error:  # as many types as PIL has plugins
        raise SceneError(f"{what} is not a readable image ({error}): download the chunk again") from error

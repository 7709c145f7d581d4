"""RealEstate10K in the `.torch` chunks of pixelSplat: lists of scenes with JPEG photos and cameras, without points.

A scene of a chunk: `key`; `images`, a list of (bytes,) uint8 tensors, each a JPEG file; `cameras` (n, 18): fx, fy, cx, cy in units of the photo's
width and height, two zeros, then the rows of the 3x4 camera-from-world matrix, OpenCV axes. Chunks are read with `weights_only`: nothing in them is
run.
"""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..errors import SceneError
from ._normalise import similarity_from_cameras
from ._photos import in_threads
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
            entries = {str(key): folder / str(name) for key, name in json.loads(index.read_text()).items()}
        except (OSError, ValueError, AttributeError) as error:
            raise SceneError(f"{index} is not a readable index of chunks ({error}): delete it to look into the chunks themselves") from error
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
    if not isinstance(cameras, Tensor) or cameras.ndim != 2 or cameras.shape[1] != CAMERA_NUMBERS or not bool(torch.isfinite(cameras).all()):
        raise SceneError(f"scene {key} of {chunk}: cameras must be finite numbers of shape (n, {CAMERA_NUMBERS})")
    if not isinstance(files, (list, tuple)) or len(files) != len(cameras) or len(files) < 2:
        raise SceneError(f"scene {key} of {chunk}: expected as many photos as cameras ({len(cameras)}), and two at least")
    photos = in_threads(lambda i: _decode(files[i], f"photo {i} of scene {key} in {chunk}"), list(range(len(files))))
    sizes = torch.tensor([[photo.shape[1], photo.shape[0]] for photo in photos], dtype=torch.float64)
    numbers = cameras.double()
    Ks = torch.eye(3, dtype=torch.float64).repeat(len(numbers), 1, 1)
    Ks[:, 0, 0], Ks[:, 1, 1] = numbers[:, 0] * sizes[:, 0], numbers[:, 1] * sizes[:, 1]
    Ks[:, 0, 2], Ks[:, 1, 2] = numbers[:, 2] * sizes[:, 0], numbers[:, 3] * sizes[:, 1]
    viewmats = torch.eye(4, dtype=torch.float64).repeat(len(numbers), 1, 1)
    viewmats[:, :3] = numbers[:, 6:].view(-1, 3, 4)
    rotation = viewmats[:, :3, :3]
    if not bool((Ks[:, [0, 1], [0, 1]] > 0).all()) or not bool((rotation @ rotation.mT - torch.eye(3)).abs().max() < 1e-2):
        raise SceneError(f"scene {key} of {chunk}: focal lengths must be positive, and camera-from-world matrices rotations with a shift")
    camtoworlds = torch.linalg.inv(viewmats)
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
    if not path.is_file():
        raise SceneError(f"no chunk at {path}: copy the whole folder of the split")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SceneError(f"{path} holds more than tensors or is damaged, and is not opened for safety ({reason}): download it again") from error
    scenes = content if isinstance(content, list) else []
    if not scenes or not all(isinstance(entry, dict) and {"key", "images", "cameras"} <= entry.keys() for entry in scenes):
        raise SceneError(f"{path} is no chunk of scenes: expected a list of entries with key, images and cameras")
    return [{**entry, "key": str(entry["key"])} for entry in scenes]


def _decode(file: Any, what: str) -> Tensor:
    """(H, W, 3) uint8 of the bytes of a JPEG or PNG."""
    try:
        data = file if isinstance(file, bytes) else file.to(torch.uint8).contiguous().view(-1).numpy().tobytes()
        with Image.open(io.BytesIO(data)) as photo:
            return torch.from_numpy(np.array(photo.convert("RGB")))
    except (AttributeError, TypeError, RuntimeError, OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise SceneError(f"{what} is not a readable image ({error}): download the chunk again") from error

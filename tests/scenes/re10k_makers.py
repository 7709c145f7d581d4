"""A chunk as pixelSplat's converter writes it: JPEG bytes in uint8 tensors, normalised intrinsics, camera-from-world rows."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tiny_scenes import arc

FOCAL = (0.9, 1.6, 0.5, 0.52)  # fx, fy, cx, cy in units of width and height


def jpeg(color: int, width: int, height: int) -> torch.Tensor:
    data = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), color, np.uint8)).save(data, "JPEG")
    return torch.frombuffer(bytearray(data.getvalue()), dtype=torch.uint8)


def entry(key: str, views: int = 10, width: int = 64, height: int = 36) -> dict:
    viewmats = torch.linalg.inv(arc(views).double())
    cameras = torch.cat([torch.tensor([*FOCAL, 0, 0]).repeat(views, 1), viewmats[:, :3].reshape(views, 12).float()], dim=1)
    images = [jpeg(20 * i, width, height) for i in range(views)]
    return {"key": key, "url": "", "timestamps": torch.arange(views), "cameras": cameras, "images": images}


def write_chunks(folder: Path, **options: int) -> Path:
    """Two chunks with three scenes and their index. Returns `folder`."""
    folder.mkdir(parents=True)
    torch.save([entry("aaa", **options), entry("bbb", **options)], folder / "000000.torch")
    torch.save([entry("ccc", **options)], folder / "000001.torch")
    (folder / "index.json").write_text('{"aaa": "000000.torch", "bbb": "000000.torch", "ccc": "000001.torch"}')
    return folder

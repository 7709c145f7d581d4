"""Photos with exact depth to learn depth from: windows of procedural scenes, cached on disk, cropped and spoiled like photographs.

A window is a few photos that stand near each other, cropped to one size: the same texture at other scales, with the principal point anywhere. What
differs between photos of one scene in life differs here: exposure, colour balance, noise, blur.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from ..files import atomic_produce
from ..scenes import make_procedural_scene
from ..scenes.procedural import LAYOUTS
from .tasks import Dice

FIRST_SEED = 20_000  # The demo, the tests and meta-training use smaller ones.
VIEWS = {"room": 24, "orbit": 32, "forward": 12}  # Neighbours are 2 to 15 degrees apart then, twice that where every second photo is left out.
CROP = (128, 96)  # px, of every photo of a window
LARGEST_ZOOM = 1.5  # Photos are up to so many times larger before they are cropped.
WINDOW = 6  # photos, the first of them in the middle of the others
SPARSE_SHARE = 0.35  # Of the windows that leave out every second photo.
GAIN, BALANCE, NOISE = 0.15, 0.04, 0.015  # Standard deviations: log exposure, log of each channel; largest of the noise.
BLUR_SHARE, BLUR = 0.2, 0.8  # Of the photos; px, largest standard deviation.
NEAR_QUANTILE = 0.01


@dataclass(frozen=True)
class Window:
    """V photos: `images` (V, 3, H, W) float32 in [0, 1]; `depths` (V, H, W) along +z, world units; `viewmats` (V, 4, 4), `Ks` (V, 3, 3) float64."""

    images: Tensor
    depths: Tensor
    viewmats: Tensor
    Ks: Tensor


class DepthPool:
    """`count` procedural scenes with depth, made when first drawn and kept in the folder `cache`."""

    def __init__(self, cache: Path, count: int, first_seed: int = FIRST_SEED) -> None:
        self.cache, self.count, self.first_seed = cache, count, first_seed

    def path(self, number: int) -> Path:
        """The file of scene `number`, made if there is none yet."""
        layout = LAYOUTS[number % len(LAYOUTS)]
        path = self.cache / f"{layout}_{self.first_seed + number}.safetensors"
        if not path.exists():
            zoom = 1 + (LARGEST_ZOOM - 1) * (number // len(LAYOUTS) % 5) / 4
            size = {"width": round(CROP[0] * zoom), "height": round(CROP[1] * zoom)}
            seed = self.first_seed + number
            scene, depths = make_procedural_scene(seed, layout=layout, num_views=VIEWS[layout], num_points=600, return_depth=True, **size)
            tensors = {"images": torch.stack(scene.images), "depths": depths.half(), "viewmats": scene.viewmats, "Ks": scene.Ks}
            atomic_produce(path, lambda temporary: save_file(tensors, temporary))  # another process may be doing the same, to the same bits
        return path

    def window(self, dice: Dice) -> Window:
        """A random window of a random scene."""
        with safe_open(self.path(dice.integer(0, self.count - 1)), framework="pt") as file:
            viewmats, Ks = file.get_tensor("viewmats").double(), file.get_tensor("Ks").double()
            idx = _near_each_other(viewmats, dice)
            images, depths = file.get_slice("images"), file.get_slice("depths")
            photos = torch.stack([images[i : i + 1][0] for i in idx]).permute(0, 3, 1, 2).float() / 255
            exact = torch.stack([depths[i : i + 1][0] for i in idx]).float()
        photos, exact, Ks = _cropped(photos, exact, Ks[idx], dice)
        return Window(torch.stack([_spoiled(photo, dice) for photo in photos]), exact, viewmats[idx], Ks)


def depth_range(depths: Tensor, dice: Dice) -> tuple[float, float]:
    """Near and far planes of a photo with exact `depths`, as badly known as they are in use."""
    few = depths.flatten()[:: max(1, depths.numel() // 2048)]
    near, far = few.quantile(torch.tensor([NEAR_QUANTILE, 1 - NEAR_QUANTILE])).tolist()
    return near / dice.log_uniform(1.0, 2.0), far * dice.log_uniform(1.0, 2.5)


def _near_each_other(viewmats: Tensor, dice: Dice) -> list[int]:
    centres = -(viewmats[:, :3, :3].mT @ viewmats[:, :3, 3:])[:, :, 0]
    axes = viewmats[:, 2, :3]
    first = dice.integer(0, len(viewmats) - 1)
    distances = (centres - centres[first]).norm(dim=1)
    turn = (axes @ axes[first]).clamp(-1, 1).acos()
    order = (distances / distances.median() + 1.5 * turn).argsort().tolist()[1:]
    if dice.chance(SPARSE_SHARE):
        order = order[dice.integer(0, 1) :: 2]
    return [first, *order[: WINDOW - 1]]


def _cropped(images: Tensor, depths: Tensor, Ks: Tensor, dice: Dice) -> tuple[Tensor, Tensor, Tensor]:
    (width, height), (full_height, full_width) = CROP, images.shape[2:]
    crops, exact, Ks = [], [], Ks.clone()
    for image, depth, K in zip(images, depths, Ks):
        x, y = dice.integer(0, full_width - width), dice.integer(0, full_height - height)
        crops.append(image[:, y : y + height, x : x + width])
        exact.append(depth[y : y + height, x : x + width])
        K[0, 2] -= x
        K[1, 2] -= y
    return torch.stack(crops), torch.stack(exact), Ks


def _spoiled(image: Tensor, dice: Dice) -> Tensor:
    generator = dice.fork()
    gains = (GAIN * torch.randn(1, generator=generator) + BALANCE * torch.randn(3, generator=generator)).exp()
    if dice.chance(BLUR_SHARE):
        taps = torch.arange(-2, 3).float()
        kernel = (-0.5 * (taps / dice.uniform(0.3, BLUR)).square()).exp()
        kernel = (kernel / kernel.sum()).expand(3, 1, 1, 5)
        image = F.conv2d(F.pad(image[None], (2, 2, 2, 2), mode="replicate"), kernel, groups=3)
        image = F.conv2d(image, kernel.mT.contiguous(), groups=3)[0]
    noise = dice.uniform(0, NOISE) * torch.randn(image.shape, generator=generator)
    return (image * gains[:, None, None] + noise).clamp(0, 1)

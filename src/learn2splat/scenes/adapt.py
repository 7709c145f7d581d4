"""Scenes as a published evaluation wants them: of one exact photo size, with given views, with points where the data have none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import OptionError, SceneError
from ._masks import shrink_masks
from ._normalise import similarity_from_points
from ._photos import in_threads
from .scene import Scene


def cover_and_crop(scene: Scene, height: int, width: int) -> Scene:
    """Photos of exactly `height` x `width` px: shrunk until they just cover it, then cropped around the middle, as pixelSplat does.

    Raises:
        SceneError: a photo is smaller; enlarged photos would be another data set.
    """
    small = next((i for i in range(len(scene)) if scene.size(i)[0] < width or scene.size(i)[1] < height), None)
    if small is not None:
        found = "{1} x {0}".format(*scene.size(small))
        raise SceneError(f"photo {scene.image_names[small]} of {scene.name} has {found} px (height x width), fewer than {height} x {width}")
    adapted = in_threads(lambda i: _adapt(scene.images[i], scene.Ks[i].double(), height, width), list(range(len(scene))))
    covered = [_covering(scene.size(i), height, width) for i in range(len(scene))]
    masks = shrink_masks(scene.masks, [size for size, _, _ in covered])
    if masks is not None:
        masks = tuple(mask[top : top + height, left : left + width] for mask, (_, left, top) in zip(masks, covered))
    return replace(scene, images=tuple(photo for photo, _ in adapted), Ks=torch.stack([K for _, K in adapted]).float(), masks=masks)


def resized(scene: Scene, long_side: int) -> Scene:
    """All photos shrunk by one ratio, so that the longest side of the largest has `long_side` px; the scene itself where that would enlarge them."""
    ratio = long_side / max(max(scene.size(i)) for i in range(len(scene)))
    if ratio >= 1:
        return scene

    def shrink(i: int) -> tuple[Tensor, Tensor]:
        width, height = scene.size(i)
        size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        K = scene.Ks[i].double()
        K[0] *= size[0] / width
        K[1] *= size[1] / height
        return torch.from_numpy(np.array(Image.fromarray(scene.images[i].numpy()).resize(size, Image.Resampling.HAMMING))), K.float()

    images, Ks = zip(*in_threads(shrink, list(range(len(scene)))))
    masks = shrink_masks(scene.masks, [(image.shape[1], image.shape[0]) for image in images])
    return replace(scene, images=images, Ks=torch.stack(Ks), masks=masks)


def _adapt(photo: Tensor, K: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    rows, columns, _ = photo.shape
    size, left, top = _covering((columns, rows), height, width)
    if size != (columns, rows):
        photo = torch.from_numpy(np.array(Image.fromarray(photo.numpy()).resize(size, Image.Resampling.HAMMING)))
    K = K.clone()
    K[0] *= size[0] / columns
    K[1] *= size[1] / rows
    K[0, 2] -= left
    K[1, 2] -= top
    return photo[top : top + height, left : left + width].contiguous(), K


def _covering(size: tuple[int, int], height: int, width: int) -> tuple[tuple[int, int], int, int]:
    """((width, height) of a photo of `size` that just covers the wanted size; what is cropped at the left and at the top)."""
    ratio = max(height / size[1], width / size[0])
    shrunk = (max(width, round(size[0] * ratio)), max(height, round(size[1] * ratio)))
    return shrunk, (shrunk[0] - width) // 2, (shrunk[1] - height) // 2


def with_random_points(scene: Scene, count: int, depths: tuple[float, float], *, seed: int = 0) -> Scene:
    """A start for a scene without points: random pixels of the photos that are fitted, with their colours, at random depths along their rays.

    Args:
        depths: nearest and farthest, drawn log-uniformly. Unit: the largest distance of two cameras of these photos.

    Returns:
        The scene with `points`, `colors` and a warning that says so, in the frame that these points make normal (median 0, median depth 1).

    Raises:
        SceneError: all cameras are at one place.
    """
    train = torch.tensor(scene.train_idx)
    centres = scene.camtoworlds[train, :3, 3].double()
    unit = float(torch.cdist(centres, centres).max())
    if not unit > 0:
        raise SceneError(f"all cameras of {scene.name} that are fitted are at one place, so it has no scale: choose other context views")
    if not 0 < depths[0] <= depths[1] or count < 1:
        raise OptionError(f"random points need a positive count and range of depths, got {count} and {depths}")
    generator = torch.Generator().manual_seed(seed)
    camera = train[torch.randint(len(train), (count,), generator=generator)]
    sizes = torch.tensor([scene.size(int(i)) for i in range(len(scene))], dtype=torch.float64)[camera]
    pixels = torch.rand(count, 2, generator=generator, dtype=torch.float64) * sizes
    depth = unit * depths[0] * (depths[1] / depths[0]) ** torch.rand(count, generator=generator, dtype=torch.float64)
    Ks, poses = scene.Ks[camera].double(), scene.camtoworlds[camera].double()
    rays = (pixels - Ks[:, :2, 2]) / Ks[:, [0, 1], [0, 1]]
    in_camera = torch.cat([rays, torch.ones(count, 1, dtype=torch.float64)], dim=1) * depth.unsqueeze(1)
    points = torch.einsum("nij,nj->ni", poses[:, :3, :3], in_camera) + poses[:, :3, 3]
    colors = torch.stack([scene.images[int(i)][int(y), int(x)] for i, (x, y) in zip(camera, pixels)])
    moved = similarity_from_points(points.numpy(), depth.numpy())
    before = scene.to_normalised
    combined = replace(
        before,
        scale=moved.scale * before.scale,
        rotation=moved.rotation @ before.rotation,
        translation=moved.scale * (moved.rotation @ before.translation) + moved.translation,
    )
    note = f"{scene.name} has no points: starts from {count} random ones on the rays of {len(train)} photos"
    return replace(
        scene,
        camtoworlds=moved.apply_poses(scene.camtoworlds),
        points=moved.apply(points).float(),
        colors=colors,
        to_normalised=combined,
        warnings=(*scene.warnings, note),
    )

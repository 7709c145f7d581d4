"""What other photos show where a photo would have its points at given depths, and how alike the two are.

A pixel x = (column, row, 1) of the photo at depth z is seen in a neighbour at p / p_z, p = z A x + b, with A = K_n R K^-1 and b = K_n t, in px of
the photos. Maps of features may have fewer pixels: a map of width w covers the same photo, its pixel centres at (column + 0.5) * width / w.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from ..threads import num_threads

GROUPS = 4  # of channels of the features; each gives a correlation of its own
VARIANCE_FLOOR = 4e-5  # Of values in [0, 1], as in native/sweep.hpp: the noise of 8-bit photos is no texture.
TINY = 1e-6
PATCH_ROOM = 32  # Numbers of a patch in native code


@dataclass(frozen=True)
class Seen:
    """A photo as the others are compared with it.

    Attributes:
        size: (width, height) of the photo, px.
        K, viewmat: (3, 3) px and (4, 4), float64.
        features: (C, h, w), each group of channels of length 1.
        patches: (25, h', w') the photo around each pixel, without mean, of length 1 where there is texture.
        context: (c, h, w) what the photo itself shows.
    """

    size: tuple[int, int]
    K: Tensor
    viewmat: Tensor
    features: Tensor
    patches: Tensor
    context: Tensor

    @cached_property
    def native_features(self) -> Tensor:
        """(h, w, C) with the groups of channels interleaved, as native/correlate.hpp has them."""
        channels, height, width = self.features.shape
        return self.features.view(GROUPS, channels // GROUPS, height, width).permute(2, 3, 1, 0).reshape(height, width, channels).contiguous()

    @cached_property
    def native_patches(self) -> Tensor:
        """(h', w', 32), zeros at the end."""
        return F.pad(self.patches, (0, 0, 0, 0, 0, PATCH_ROOM - len(self.patches))).permute(1, 2, 0).contiguous()


def grid_centres(size: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """(h, w, 3) px of the photo of `size` (width, height): x = (column, row, 1) of the pixel centres of a map of `shape` (h, w)."""
    rows = (torch.arange(shape[0]) + 0.5) * (size[1] / shape[0])
    columns = (torch.arange(shape[1]) + 0.5) * (size[0] / shape[1])
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)], 2)


def project_planes(photo: Seen, neighbour: Seen, depths: Tensor) -> tuple[Tensor, Tensor]:
    """Where the neighbour sees the points of `photo` at `depths` (D, h, w).

    Returns:
        (D, h, w, 2) from -1 to 1 across the neighbour, as `grid_sample` counts with align_corners=False; (D, h, w) bool, whether inside.
    """
    A, b = (part.to(depths) for part in _relation(photo, neighbour))
    rays = grid_centres(photo.size, tuple(depths.shape[1:])).to(depths) @ A.mT
    p = depths[..., None] * rays + b
    z = p[..., 2:]
    at = p[..., :2] / z.clamp_min(TINY) * (2 / depths.new_tensor(neighbour.size)) - 1
    inside = (z[..., 0] > TINY) & (at.abs() <= 1).all(3)
    return at.clamp(-2, 2), inside


def _relation(photo: Seen, neighbour: Seen) -> tuple[Tensor, Tensor]:
    """A (3, 3) and b (3,) float64."""
    relative = neighbour.viewmat @ torch.linalg.inv(photo.viewmat)
    return neighbour.K @ relative[:3, :3] @ torch.linalg.inv(photo.K), neighbour.K @ relative[:3, 3]


def warp(features: Tensor, at: Tensor) -> Tensor:
    """(C, D, h, w) bilinear values of `features` (C, h', w') at `at` (D, h, w, 2) of `project_planes`; outside, those of the border."""
    depths, height, width, _ = at.shape
    sampled = F.grid_sample(features[None], at.reshape(1, depths * height, width, 2), padding_mode="border", align_corners=False)
    return sampled.view(-1, depths, height, width)


def correlate(photo: Seen, neighbours: Sequence[Seen], depths: Tensor) -> Tensor:
    """How alike the neighbours and the photo are, (GROUPS + 4, D, h, w).

    Channels: the mean over the neighbours that see a point of the correlation of each group of features; of those, averaged over groups, the mean of
    the best two neighbours; the mean and the mean of the best two of the correlation of patches; the share of neighbours that see the point.

    Args:
        depths: (D, h, w) world units; h, w as the features of `photo`.
    """
    native = depths.device.type == "cpu" and not torch.is_grad_enabled()
    return (_correlate_natively if native else correlate_in_torch)(photo, neighbours, depths)


def correlate_in_torch(photo: Seen, neighbours: Sequence[Seen], depths: Tensor) -> Tensor:
    """`correlate` with gradients, anywhere."""
    own, own_patches = photo.features, F.interpolate(photo.patches[None], size=depths.shape[1:], mode="nearest-exact")[0]
    learned, plain, seen = [], [], []
    for neighbour in neighbours:
        at, inside = project_planes(photo, neighbour, depths)
        products = warp(neighbour.features, at).mul(own[:, None])
        learned.append(products.view(GROUPS, -1, *depths.shape).sum(1) * inside)
        plain.append((warp(neighbour.patches, at) * own_patches[:, None]).sum(0) * inside)
        seen.append(inside)
    seen = torch.stack(seen).to(depths)
    count = seen.sum(0).clamp_min(1)
    learned, plain = torch.stack(learned), torch.stack(plain)
    single = [_best_two(learned.mean(1), seen), plain.sum(0) / count, _best_two(plain, seen), seen.mean(0)]
    return torch.cat([learned.sum(0) / count, torch.stack(single)])


def _correlate_natively(photo: Seen, neighbours: Sequence[Seen], depths: Tensor) -> Tensor:
    """`correlate` on a CPU, ten times as fast; results do not depend on the number of threads."""
    from .. import _native

    _, height, width = depths.shape
    own_patches = F.interpolate(photo.native_patches.permute(2, 0, 1)[None], size=(height, width), mode="nearest-exact")[0].permute(1, 2, 0)
    relations = [_relation(photo, neighbour) for neighbour in neighbours]
    warps = torch.stack([torch.cat([A.flatten(), b]) for A, b in relations]).float()
    volume = depths.new_empty(GROUPS + 4, *depths.shape)
    _native.correlate(
        [one.native_features.numpy() for one in (photo, *neighbours)],
        [own_patches.contiguous().numpy(), *(one.native_patches.numpy() for one in neighbours)],
        warps.numpy(),
        torch.tensor([one.size for one in neighbours], dtype=torch.float32).numpy(),
        depths.contiguous().numpy(),
        photo.size[0] / width,
        photo.size[1] / height,
        num_threads(),
        volume.numpy(),
    )
    return volume


def _best_two(scores: Tensor, seen: Tensor) -> Tensor:
    """Mean over the best two of the neighbours (N, D, h, w) that see a point; of the one where it is alone, 0 where there is none."""
    masked = scores.masked_fill(seen == 0, -2.0)
    best = masked.topk(min(2, len(scores)), dim=0).values
    there = best > -2.0
    return (best * there).sum(0) / there.sum(0).clamp_min(1)


def unit_groups(features: Tensor) -> Tensor:
    """(V, C, h, w) with each group of channels of length 1."""
    split = features.view(len(features), GROUPS, -1, *features.shape[2:])
    return F.normalize(split, dim=2, eps=1e-3).view_as(features)


def patches_of(grey: Tensor) -> Tensor:
    """(V, 25, h, w) the 5x5 px around each pixel of `grey` (V, h, w) in [0, 1]: the sum of products of two is their normalised correlation."""
    around = F.unfold(F.pad(grey[:, None], (2, 2, 2, 2), mode="replicate"), 5)
    around = around - around.mean(1, keepdim=True)
    around = around / (around.square().sum(1, keepdim=True) + 25 * VARIANCE_FLOOR).sqrt()
    return around.view(len(grey), 25, *grey.shape[1:])

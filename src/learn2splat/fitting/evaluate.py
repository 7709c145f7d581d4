"""Rendering the photos of a scene by position, and the held-out metrics: the mean over photos of per-photo PSNR and SSIM."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..gaussians.record import Gaussians
from ..losses import psnr, ssim
from ..render import render_views
from ..scenes import Scene

VIEWS_LOOKED_AT = 3  # by `shows_anything`
EVAL_BATCH = 8  # Views rendered at once in evaluation: bounds the memory on scenes with hundreds of held-out photos.


def by_size(scene: Scene, idx: Iterable[int]) -> list[list[int]]:
    """`idx` split into groups of equal photo size (a batch has one size), in order of first appearance."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i in idx:
        groups.setdefault(scene.size(i), []).append(i)
    return list(groups.values())


def render_photos(scene: Scene, gaussians: Gaussians, idx: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Render photos `idx` of the scene, which must have one size.

    Returns:
        renders and targets, both (V, H, W, 3) of the type and on the device of the Gaussians; targets in [0, 1], renders not clamped.

    Gradients reach the fields of `gaussians`.
    """
    like = gaussians.means
    width, height = scene.size(idx[0])
    rows = torch.as_tensor(idx)
    targets = photos(scene, idx, like)
    cameras = scene.viewmats[rows].to(like), scene.Ks[rows].to(like), width, height
    renders = render_views(gaussians, *cameras, background=scene.background.to(like), eps2d=scene.eps2d)
    return renders, targets


def photos(scene: Scene, idx: Sequence[int], like: Tensor) -> Tensor:
    """(V, H, W, 3) photos `idx`, of one size, in [0, 1]: stacked as bytes, which is a quarter of the memory to move."""
    return torch.stack([scene.images[i] for i in idx]).float().div_(255).to(like)


def pixel_weights(scene: Scene, idx: Sequence[int], like: Tensor) -> Tensor | None:
    """(V, H, W) how much each pixel of photos `idx`, of one size, counts in losses and scores: 0 where it is masked; None where all count."""
    return None if scene.masks is None else torch.stack([scene.masks[i] for i in idx]).to(like)


@dataclass(frozen=True)
class PhotoScore:
    """What one photo scored: PSNR in dB and SSIM of the render clamped to [0, 1], where the photo is not masked."""

    name: str
    psnr: float
    ssim: float


@torch.no_grad()
def rendered(scene: Scene, gaussians: Gaussians, idx: Sequence[int]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(position, render clamped to [0, 1], photo) for every photo of `idx`; both (H, W, 3). Photos of one size come together."""
    for group in by_size(scene, idx):
        for start in range(0, len(group), EVAL_BATCH):
            batch = group[start : start + EVAL_BATCH]
            renders, targets = render_photos(scene, gaussians, batch)
            yield from zip(batch, renders.clamp(0, 1), targets)


def shows_anything(scene: Scene, gaussians: Gaussians) -> bool:
    """Whether a hundredth of the pixels of any of the first held-out photos is not just the background."""
    for _, render, _ in rendered(scene, gaussians, scene.test_idx[:VIEWS_LOOKED_AT]):
        painted = (render - scene.background.to(render)).abs().amax(-1) > 2 / 255
        if float(painted.float().mean()) > 0.01:
            return True
    return False


def score(scene: Scene, gaussians: Gaussians, idx: Sequence[int] | None = None) -> list[PhotoScore]:
    """Scores of the photos `idx` (default: the held-out ones), in that order."""
    idx = scene.test_idx if idx is None else idx
    scores = {
        i: score_of(scene.image_names[i], render, photo, pixel_weights(scene, [i], render)) for i, render, photo in rendered(scene, gaussians, idx)
    }
    return [scores[i] for i in idx]


def score_of(name: str, render: Tensor, photo: Tensor, weights: Tensor | None = None) -> PhotoScore:
    """What the render of one photo scores; both (H, W, 3), the render clamped to [0, 1]. `weights` (1, H, W): `pixel_weights` of the photo."""
    pair = render[None], photo[None], weights
    return PhotoScore(name, float(psnr(*pair)[0]), float(ssim(*pair)[0]))


def mean_score(scores: Sequence[PhotoScore]) -> tuple[float, float]:
    """(PSNR, SSIM): means over photos of per-photo values, the field's convention (not the PSNR of the mean error)."""
    return sum(s.psnr for s in scores) / len(scores), sum(s.ssim for s in scores) / len(scores)

"""PSNR and SSIM as other projects report them (docs/benchmark.md). They differ from ours at the borders of photos, by hundredths on small ones.

| metrics | render | SSIM, 11x11 Gaussian window of sigma 1.5 |
|---|---|---|
| `ours` | clamped to [0, 1] | mean over the windows that lie inside (`losses.ssim`) |
| `gsplat` | clamped to [0, 1] | mean over all pixels, the photo mirrored at its border: torchmetrics, which gsplat uses |
| `inria` | rounded to 8 bits: a PNG file | mean over all pixels, zeros around the photo: the code of 3D Gaussian Splatting |
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ..fitting import mean_score, rendered, score
from ..gaussians import Gaussians
from ..losses.photometric import SSIM_C1, SSIM_C2, SSIM_SIGMA, SSIM_WINDOW
from ..scenes import Scene


def quality_as(metrics: Literal["gsplat", "inria"], scene: Scene, gaussians: Gaussians) -> tuple[float, float]:
    """(PSNR in dB, SSIM): means over the held-out photos. Nobody else's metrics know masks: with some, they are ours."""
    if scene.masks is not None:
        return mean_score(score(scene, gaussians))
    scores = [scores_as(metrics, render, photo) for _, render, photo in rendered(scene, gaussians, scene.test_idx)]
    return sum(psnr for psnr, _ in scores) / len(scores), sum(ssim for _, ssim in scores) / len(scores)


def scores_as(metrics: Literal["gsplat", "inria"], render: Tensor, photo: Tensor) -> tuple[float, float]:
    """(PSNR in dB, SSIM) of a render and a photo, (H, W, 3) in [0, 1]."""
    if metrics == "inria":
        render = (render * 255 + 0.5).clamp(0, 255).floor() / 255
    error = float((render - photo).square().mean())
    return -10 * math.log10(max(error, 1e-12)), _padded_ssim(render, photo, "constant" if metrics == "inria" else "reflect")


def _padded_ssim(render: Tensor, photo: Tensor, padding: str) -> float:
    border = SSIM_WINDOW // 2
    x, y = (torch.nn.functional.pad(image.permute(2, 0, 1)[:, None].double(), (border,) * 4, mode=padding) for image in (render, photo))
    taps = torch.tensor([math.exp(-0.5 * ((k - border) / SSIM_SIGMA) ** 2) for k in range(SSIM_WINDOW)], dtype=torch.float64)
    taps = (taps / taps.sum()).to(x.device)

    def mean(image: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(torch.nn.functional.conv2d(image, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))

    mx, my, xx, yy, xy = (mean(image) for image in (x, y, x * x, y * y, x * y))
    similarity = (2 * mx * my + SSIM_C1) * (2 * (xy - mx * my) + SSIM_C2) / ((mx * mx + my * my + SSIM_C1) * (xx - mx * mx + yy - my * my + SSIM_C2))
    return float(similarity.mean())

"""The loss of meta-training: what both objectives judge Gaussians by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..fitting.evaluate import by_size, pixel_weights, render_photos
from ..gaussians.record import Gaussians
from ..losses import photometric_loss
from ..scenes import Scene
from .config import MetaConfig

LEAST_ERROR = 1e-4  # Mean squared error of a view, 40 dB: better than this is as good as perfect.


def meta_loss(scene: Scene, gaussians: Gaussians, views: Sequence[int], config: MetaConfig) -> Tensor:
    """Mean over `views` of L1 + SSIM and, times `psnr_weight`, of the logarithm of the mean squared error over `LEAST_ERROR`."""
    total = torch.zeros(())
    for same in by_size(scene, views):
        renders, targets = render_photos(scene, gaussians, same)
        total = total + photometric_loss(renders, targets, ssim_weight=config.ssim_weight, weights=pixel_weights(scene, same, renders))
        if config.psnr_weight:
            errors = (renders - targets).square().mean(dim=(1, 2, 3))
            total = total + config.psnr_weight * (errors.clamp_min(LEAST_ERROR) / LEAST_ERROR).log().sum()
    return total / len(views)

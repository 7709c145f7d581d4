"""PSNR and SSIM as other projects measure them: torchmetrics for gsplat, a naive SSIM over windows for the code of 3DGS."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from learn2splat.bench.metrics import scores_as
from learn2splat.losses import ssim


@pytest.fixture(scope="module")
def pair():
    g = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 5, 6, generator=g), size=(24, 30), mode="bicubic")[0].permute(1, 2, 0).clamp(0, 1)
    return (smooth + 0.1 * torch.randn(24, 30, 3, generator=g)).clamp(0, 1), (smooth * 255).round() / 255


def test_gsplat_measures_with_torchmetrics(pair):
    render, photo = (image.permute(2, 0, 1)[None] for image in pair)
    measured_psnr, measured_ssim = scores_as("gsplat", *pair)
    assert measured_psnr == pytest.approx(float(peak_signal_noise_ratio(render, photo, data_range=1.0)), abs=1e-4)
    assert measured_ssim == pytest.approx(float(structural_similarity_index_measure(render, photo, data_range=1.0)), abs=1e-5)
    assert abs(measured_ssim - float(ssim(pair[0][None], pair[1][None]))) > 1e-3  # another number than ours


def test_inria_measures_png_files_with_zeros_around_them(pair):
    render, photo = pair
    measured_psnr, measured_ssim = scores_as("inria", render, photo)
    x, y = (render * 255).round().double().numpy() / 255, photo.double().numpy()
    assert measured_psnr == pytest.approx(10 * math.log10(1 / ((x - y) ** 2).mean()), abs=1e-5)

    def mean(image):  # 11 taps of sigma 1.5: scipy cuts at radius 5, and zeros stand outside
        return gaussian_filter(image, (1.5, 1.5, 0), radius=(5, 5, 0), mode="constant")

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    similarity = ((2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))).mean()
    assert measured_ssim == pytest.approx(float(similarity), abs=1e-6)
    assert abs(measured_ssim - float(ssim(render[None], photo[None]))) > 1e-3  # another number than ours


def test_equal_images_have_a_finite_score(pair):
    assert scores_as("inria", pair[1], pair[1]) == (pytest.approx(120), pytest.approx(1))

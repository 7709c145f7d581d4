"""L1 + SSIM of rendered and real photos, one value per view: what the inner step of every optimizer minimises.

SSIM is that of Wang et al. 2004 with the choices of docs/method.md section 3: 11x11 Gaussian window of sigma 1.5, valid padding, data range 1,
C1 = 0.01^2, C2 = 0.03^2, mean over windows and channels. On the CPU one native pass (native/ssim.hpp) computes the loss and its gradient; CUDA
tensors go through torch's depthwise convolutions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import OptionError, ShapeError
from ..threads import num_threads

SSIM_WINDOW = 11  # px; native/ssim.hpp has the same numbers
SSIM_SIGMA = 1.5  # px
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2


def photometric_loss(renders: Tensor, targets: Tensor, *, ssim_weight: float = 0.2, weights: Tensor | None = None) -> Tensor:
    """Sum over views of (1 - ssim_weight) * mean|I - I*| + ssim_weight * (1 - SSIM), a scalar. docs/method.md section 3.

    Args:
        renders: (V, H, W, 3), float32 or float64, nominally in [0, 1] (not clamped here). H and W at least 11.
        targets: the same shape, dtype and device; constants.
        ssim_weight: in [0, 1].
        weights: (V, H, W), 0 or more, of the dtype and on the device of renders; constants. How much each pixel counts: the means are then weighted
            means, L1's over pixels and SSIM's over windows, whose moments are those of the weighted pixels in them. Where a weight is 0, neither
            image matters. A view without any weight has the loss 0. None: every pixel counts the same.

    Raises:
        ShapeError: shapes, dtypes or devices differ, or an image is smaller than the window.
        OptionError: ssim_weight is outside [0, 1], or targets require a gradient.

    Gradients reach renders, once (no second derivatives). Where a value equals its target, |I - I*| has the gradient 0. NaN stays visible: the
    loss of that view is NaN.
    """
    return _view_losses(renders, targets, ssim_weight, weights).sum()


def ssim(renders: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Structural similarity of each view (V,), at most 1. Arguments, errors and gradients as in `photometric_loss`."""
    return 1 - _view_losses(renders, targets, 1.0, weights)


def psnr(renders: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of each view (V,) in dB, for a data range of 1; infinite for equal images. Nothing is clamped here.

    `weights` (V, H, W) as in `photometric_loss`: of the weighted mean squared error.
    """
    _check_images(renders, targets, weights)
    squares = (renders - targets).square()
    if weights is None:
        return -10 * torch.log10(squares.mean(dim=(1, 2, 3)))
    return -10 * torch.log10((squares.mean(dim=3) * weights).sum(dim=(1, 2)) / weights.sum(dim=(1, 2)))


def _view_losses(renders: Tensor, targets: Tensor, ssim_weight: float, weights: Tensor | None) -> Tensor:
    """(V,) losses; the one place that chooses between the native kernel and torch."""
    _check_images(renders, targets, weights)
    if min(renders.shape[1:3]) < SSIM_WINDOW:
        size = f"{renders.shape[2]}x{renders.shape[1]}"
        raise ShapeError(f"SSIM needs images of at least {SSIM_WINDOW}x{SSIM_WINDOW} px, got {size}: use larger images, or psnr")
    if not 0 <= ssim_weight <= 1:
        raise OptionError(f"ssim_weight must be within [0, 1], got {ssim_weight}")
    if targets.requires_grad:
        raise OptionError("targets must not require a gradient, only renders get one: pass targets.detach()")
    if renders.device.type == "cpu":
        return _FusedLoss.apply(renders, targets, float(ssim_weight), renders.requires_grad and torch.is_grad_enabled(), weights)
    return view_losses_torch(renders, targets, ssim_weight, weights)


def _check_images(renders: Tensor, targets: Tensor, weights: Tensor | None = None) -> None:
    if renders.ndim != 4 or renders.shape[-1] != 3:
        raise ShapeError(f"renders must have shape (V, H, W, 3), got {tuple(renders.shape)}")
    if targets.shape != renders.shape:
        raise ShapeError(f"targets must have the shape of renders, {tuple(renders.shape)}, got {tuple(targets.shape)}")
    if renders.dtype not in (torch.float32, torch.float64):
        raise ShapeError(f"renders must be float32 or float64 in [0, 1], got {renders.dtype}: divide photos of uint8 by 255")
    if targets.dtype != renders.dtype or targets.device != renders.device:
        got = f"{targets.dtype} on {targets.device}"
        raise ShapeError(f"targets must be {renders.dtype} on {renders.device} as renders are, got {got}: use targets.to(renders)")
    if weights is not None and (weights.shape != renders.shape[:3] or weights.dtype != renders.dtype or weights.device != renders.device):
        expected = f"(V, H, W) = {tuple(renders.shape[:3])}, dtype and device of renders"
        raise ShapeError(f"weights must have shape {expected}, got {tuple(weights.shape)}, {weights.dtype} on {weights.device}")


class _FusedLoss(torch.autograd.Function):
    """(V,) losses from the native kernel, which leaves the gradient behind; backward only scales it."""

    @staticmethod
    def forward(ctx, renders: Tensor, targets: Tensor, ssim_weight: float, needs_grad: bool, weights: Tensor | None) -> Tensor:
        from .. import _native

        renders, targets = renders.detach().contiguous(), targets.detach().contiguous()
        l1 = torch.empty(len(renders), dtype=torch.float64)
        similarity = torch.empty_like(l1)
        grads = torch.empty_like(renders) if needs_grad else None
        outputs = (l1.numpy(), similarity.numpy(), grads.numpy() if needs_grad else None)
        forward = _native.photometric_forward_f32 if renders.dtype == torch.float32 else _native.photometric_forward_f64
        per_channel = None if weights is None else weights.detach().unsqueeze(3).expand(renders.shape).contiguous().numpy()
        forward(renders.numpy(), targets.numpy(), per_channel, ssim_weight, num_threads(), *outputs)
        if needs_grad:
            ctx.save_for_backward(grads)
        return ((1 - ssim_weight) * l1 + ssim_weight * (1 - similarity)).to(renders.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_losses: Tensor):
        (grads,) = ctx.saved_tensors
        grads = grads * grad_losses[:, None, None, None]  # never the saved tensor itself: a caller may change what it gets
        return grads, None, None, None, None


def view_losses_torch(renders: Tensor, targets: Tensor, ssim_weight: float, weights: Tensor | None = None) -> Tensor:
    """The same losses (V,) from torch's operators, on any device and differentiable by autograd; on a CPU many times slower."""
    x, y = renders.permute(0, 3, 1, 2), targets.permute(0, 3, 1, 2)
    pixels = torch.ones_like(x[:, :1]) if weights is None else weights.unsqueeze(1)
    moments = _windows(torch.cat([pixels * image for image in (x, y, x * x + y * y, x * y)] + [pixels], dim=1))
    windows = moments[:, -1:]
    mx, my, squares, product = (moments[:, :-1] / windows.clamp_min(torch.finfo(windows.dtype).tiny)).chunk(4, dim=1)
    means = mx * mx + my * my
    similarity = (2 * mx * my + SSIM_C1) * (2 * (product - mx * my) + SSIM_C2) / ((means + SSIM_C1) * (squares - means + SSIM_C2))
    l1 = _weighted_mean((x - y).abs().mean(dim=1, keepdim=True), pixels, 0.0)
    return (1 - ssim_weight) * l1 + ssim_weight * (1 - _weighted_mean(similarity.mean(dim=1, keepdim=True), windows, 1.0))


def _windows(images: Tensor) -> Tensor:
    """Every channel of (V, K, H, W) under the Gaussian window, without padding."""
    taps = torch.tensor([math.exp(-0.5 * ((k - SSIM_WINDOW // 2) / SSIM_SIGMA) ** 2) for k in range(SSIM_WINDOW)], dtype=torch.float64)
    taps = (taps / taps.sum()).to(images)
    groups = images.shape[1]  # depthwise: torch has its own float32 kernels for it, so that TF32 never rounds the variances away
    images = torch.nn.functional.conv2d(images, taps.view(1, 1, -1, 1).expand(groups, 1, -1, 1), groups=groups)
    return torch.nn.functional.conv2d(images, taps.view(1, 1, 1, -1).expand(groups, 1, 1, -1), groups=groups)


def _weighted_mean(values: Tensor, weights: Tensor, without: float) -> Tensor:
    """Mean (V,) of (V, 1, H, W) under weights of that shape; `without` where there is no weight at all."""
    total = weights.sum(dim=(1, 2, 3))
    return torch.where(total > 0, (values * weights).sum(dim=(1, 2, 3)) / total.clamp_min(torch.finfo(total.dtype).tiny), without)

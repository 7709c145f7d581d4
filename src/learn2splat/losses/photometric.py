"""L1 + SSIM of rendered and real photos, one value per view: what the inner step of every optimizer minimises.

SSIM is that of Wang et al. 2004 with the choices of METHOD.md section 3: 11x11 Gaussian window of sigma 1.5, valid padding, data range 1,
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


def photometric_loss(renders: Tensor, targets: Tensor, *, ssim_weight: float = 0.2) -> Tensor:
    """Sum over views of (1 - ssim_weight) * mean|I - I*| + ssim_weight * (1 - SSIM), a scalar. METHOD.md section 3.

    Args:
        renders: (V, H, W, 3), float32 or float64, nominally in [0, 1] (not clamped here). H and W at least 11.
        targets: the same shape, dtype and device; constants.
        ssim_weight: in [0, 1].

    Raises:
        ShapeError: shapes, dtypes or devices differ, or an image is smaller than the window.
        OptionError: ssim_weight is outside [0, 1], or targets require a gradient.

    Gradients reach renders, once (no second derivatives). Where a value equals its target, |I - I*| has the gradient 0. NaN stays visible: the
    loss of that view is NaN.
    """
    return _view_losses(renders, targets, ssim_weight).sum()


def ssim(renders: Tensor, targets: Tensor) -> Tensor:
    """Structural similarity of each view (V,), at most 1. Arguments, errors and gradients as in `photometric_loss`."""
    return 1 - _view_losses(renders, targets, 1.0)


def psnr(renders: Tensor, targets: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each view (V,) in dB, for a data range of 1; infinite for equal images. Nothing is clamped here."""
    _check_images(renders, targets)
    return -10 * torch.log10((renders - targets).square().mean(dim=(1, 2, 3)))


def _view_losses(renders: Tensor, targets: Tensor, ssim_weight: float) -> Tensor:
    """(V,) losses; the one place that chooses between the native kernel and torch."""
    _check_images(renders, targets)
    if min(renders.shape[1:3]) < SSIM_WINDOW:
        size = f"{renders.shape[2]}x{renders.shape[1]}"
        raise ShapeError(f"SSIM needs images of at least {SSIM_WINDOW}x{SSIM_WINDOW} px, got {size}: use larger images, or psnr")
    if not 0 <= ssim_weight <= 1:
        raise OptionError(f"ssim_weight must be within [0, 1], got {ssim_weight}")
    if targets.requires_grad:
        raise OptionError("targets must not require a gradient, only renders get one: pass targets.detach()")
    if renders.device.type == "cpu":
        return _FusedLoss.apply(renders, targets, float(ssim_weight), renders.requires_grad and torch.is_grad_enabled())
    return view_losses_torch(renders, targets, ssim_weight)


def _check_images(renders: Tensor, targets: Tensor) -> None:
    if renders.ndim != 4 or renders.shape[-1] != 3:
        raise ShapeError(f"renders must have shape (V, H, W, 3), got {tuple(renders.shape)}")
    if targets.shape != renders.shape:
        raise ShapeError(f"targets must have the shape of renders, {tuple(renders.shape)}, got {tuple(targets.shape)}")
    if renders.dtype not in (torch.float32, torch.float64):
        raise ShapeError(f"renders must be float32 or float64 in [0, 1], got {renders.dtype}: divide photos of uint8 by 255")
    if targets.dtype != renders.dtype or targets.device != renders.device:
        got = f"{targets.dtype} on {targets.device}"
        raise ShapeError(f"targets must be {renders.dtype} on {renders.device} as renders are, got {got}: use targets.to(renders)")


class _FusedLoss(torch.autograd.Function):
    """(V,) losses from the native kernel, which leaves the gradient behind; backward only scales it."""

    @staticmethod
    def forward(ctx, renders: Tensor, targets: Tensor, ssim_weight: float, needs_grad: bool) -> Tensor:
        from .. import _native

        renders, targets = renders.detach().contiguous(), targets.detach().contiguous()
        l1 = torch.empty(len(renders), dtype=torch.float64)
        similarity = torch.empty_like(l1)
        grads = torch.empty_like(renders) if needs_grad else None
        outputs = (l1.numpy(), similarity.numpy(), grads.numpy() if needs_grad else None)
        forward = _native.photometric_forward_f32 if renders.dtype == torch.float32 else _native.photometric_forward_f64
        forward(renders.numpy(), targets.numpy(), ssim_weight, num_threads(), *outputs)
        if needs_grad:
            ctx.save_for_backward(grads)
        return ((1 - ssim_weight) * l1 + ssim_weight * (1 - similarity)).to(renders.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_losses: Tensor):
        (grads,) = ctx.saved_tensors
        return grads * grad_losses[:, None, None, None], None, None, None  # never the saved tensor itself: a caller may change what it gets


def view_losses_torch(renders: Tensor, targets: Tensor, ssim_weight: float) -> Tensor:
    """The same losses (V,) from torch's operators, on any device and differentiable by autograd; on a CPU many times slower."""
    l1 = (renders - targets).abs().mean(dim=(1, 2, 3))
    x, y = renders.permute(0, 3, 1, 2), targets.permute(0, 3, 1, 2)
    taps = torch.tensor([math.exp(-0.5 * ((k - SSIM_WINDOW // 2) / SSIM_SIGMA) ** 2) for k in range(SSIM_WINDOW)], dtype=torch.float64)
    taps = (taps / taps.sum()).to(renders)
    moments = torch.cat([x, y, x * x + y * y, x * y], dim=1)
    groups = moments.shape[1]  # depthwise: torch has its own float32 kernels for it, so that TF32 never rounds the variances away
    moments = torch.nn.functional.conv2d(moments, taps.view(1, 1, -1, 1).expand(groups, 1, -1, 1), groups=groups)
    moments = torch.nn.functional.conv2d(moments, taps.view(1, 1, 1, -1).expand(groups, 1, 1, -1), groups=groups)
    mx, my, squares, product = moments.chunk(4, dim=1)
    means = mx * mx + my * my
    similarity = (2 * mx * my + SSIM_C1) * (2 * (product - mx * my) + SSIM_C2) / ((means + SSIM_C1) * (squares - means + SSIM_C2))
    return (1 - ssim_weight) * l1 + ssim_weight * (1 - similarity.mean(dim=(1, 2, 3)))

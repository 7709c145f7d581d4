"""FLIP, the difference that a viewer sees when two images alternate on a screen (Andersson et al., "FLIP: A Difference Evaluator for Alternating
Images", HPG 2020): it has no weights, so every result has it.

Colours are filtered by the eye's sensitivity to contrast, compared as the eye does (HyAB in a Hunt-adjusted CIELAB), and differences count more where
an edge or a point appears or disappears. 0: the same; 1: black against white at most.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

PIXELS_PER_DEGREE = 67.0206  # The paper's observer: 0.7 m from a screen of 3840 px on 0.7 m.
# Contrast sensitivity of the luminance, red-green and blue-yellow channels: sums of Gaussians a sqrt(pi / b) exp(-pi^2 x^2 / b), x in degrees.
SENSITIVITY = (((1.0, 0.0047),), ((1.0, 0.0053),), ((34.1, 0.04), (13.5, 0.025)))
COLOUR_EXPONENT, FEATURE_EXPONENT = 0.7, 0.5
KNEE, KNEE_VALUE = 0.4, 0.95  # Colour errors up to this share of the largest fill this part of the range.
FEATURE_WIDTH = 0.082  # degrees
WHITE = (0.950428545, 1.0, 1.088900371)  # D65
TO_XYZ = (
    (10135552 / 24577794, 8788810 / 24577794, 4435075 / 24577794),
    (2613072 / 12288897, 8788810 / 12288897, 887015 / 12288897),
    (1425312 / 73733382, 8788810 / 73733382, 70074185 / 73733382),
)


@torch.no_grad()
def flip(render: Tensor, photo: Tensor) -> Tensor:
    """The error (H, W) in [0, 1] of `render` against `photo`, both (H, W, 3) sRGB in [0, 1]."""
    images = torch.stack([photo, render]).permute(0, 3, 1, 2).double().clamp(0, 1)
    opponent = _opponent_of_xyz(_xyz(_linear(images)))
    colour = _colour_error(*_seen(opponent))
    feature = _feature_error(*((opponent[:, :1] + 16) / 116))
    return (colour ** (1 - feature)).to(render.dtype)


def _linear(srgb: Tensor) -> Tensor:
    return torch.where(srgb > 0.04045, ((srgb + 0.055) / 1.055) ** 2.4, srgb / 12.92)


def _xyz(linear: Tensor) -> Tensor:
    return torch.einsum("ij,njhw->nihw", linear.new_tensor(TO_XYZ), linear)


def _white(like: Tensor) -> Tensor:
    return like.new_tensor(WHITE).view(1, 3, 1, 1)


def _opponent_of_xyz(xyz: Tensor) -> Tensor:
    """YyCxCz: luminance, red-green, blue-yellow; linear, so that it may be filtered."""
    x, y, z = (xyz / _white(xyz)).split(1, 1)
    return torch.cat([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def _seen(opponent: Tensor) -> Tensor:
    """What is left of both images at the distance of the observer, in Hunt-adjusted CIELAB."""
    filtered = torch.cat([_filtered(opponent[:, c : c + 1], *_sensitivity(c)) for c in range(3)], 1)
    y = (filtered[:, :1] + 16) / 116
    xyz = torch.cat([y + filtered[:, 1:2] / 500, y, y - filtered[:, 2:] / 200], 1) * _white(opponent)
    back = torch.linalg.inv(opponent.new_tensor(TO_XYZ))
    return _hunt_lab(torch.einsum("ij,njhw->nihw", back, xyz).clamp(0, 1))


def _hunt_lab(linear: Tensor) -> Tensor:
    xyz = _xyz(linear) / _white(linear)
    delta = 6 / 29
    f = torch.where(xyz > delta**3, xyz.clamp_min(1e-12) ** (1 / 3), xyz / (3 * delta**2) + 4 / 29)
    lightness = 116 * f[:, 1:2] - 16
    chroma = torch.cat([500 * (f[:, :1] - f[:, 1:2]), 200 * (f[:, 1:2] - f[:, 2:])], 1)
    return torch.cat([lightness, 0.01 * lightness * chroma], 1)


def _hyab(a: Tensor, b: Tensor) -> Tensor:
    """City block in lightness, straight line in chroma: (3, H, W) -> (H, W)."""
    return (a[0] - b[0]).abs() + (a[1:] - b[1:]).norm(dim=0)


def _colour_error(photo: Tensor, render: Tensor) -> Tensor:
    green, blue = _hunt_lab(torch.eye(3, dtype=photo.dtype, device=photo.device)[1:].view(2, 3, 1, 1))
    largest = float(_hyab(green, blue)) ** COLOUR_EXPONENT
    error, knee = _hyab(photo, render) ** COLOUR_EXPONENT, KNEE * largest
    return torch.where(error < knee, error * KNEE_VALUE / knee, KNEE_VALUE + (error - knee) / (largest - knee) * (1 - KNEE_VALUE))


def _feature_error(photo: Tensor, render: Tensor) -> Tensor:
    """How much an edge or a point is there in one image and not in the other; (1, H, W) luminances in [0, 1]."""
    smooth, slope, bend = _feature_taps()
    both = torch.stack([photo, render])
    sizes = []
    for taps in (slope, bend):
        across, down = _filtered(both, smooth, taps), _filtered(both, taps, smooth)
        first, second = torch.cat([across, down], 1).norm(dim=1)
        sizes.append((first - second).abs())
    return (torch.maximum(*sizes) / math.sqrt(2)) ** FEATURE_EXPONENT


def _filtered(images: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """A sum of separable filters, their taps (S, K), the images (n, 1, H, W) continued by their border."""
    height, width = images.shape[-2:]
    pairs = zip(vertical, horizontal)
    return sum(_band(v, height).to(images) @ images @ _band(h, width).to(images).T for v, h in pairs)


def _band(taps: Tensor, length: int) -> Tensor:
    """The filter as a matrix (length, length): on a CPU a product with it is several times as fast as a convolution in float64."""
    radius = len(taps) // 2
    columns = (torch.arange(length)[:, None] + torch.arange(-radius, radius + 1)).clamp(0, length - 1)
    return torch.zeros(length, length, dtype=taps.dtype).scatter_add_(1, columns, taps.expand(length, -1))


@functools.cache
def _sensitivity(channel: int) -> tuple[Tensor, Tensor]:
    """Taps of the filter of an opponent channel; all of them add up to 1."""
    widest = max(b for terms in SENSITIVITY for _, b in terms)
    radius = math.ceil(3 * math.sqrt(widest / (2 * math.pi**2)) * PIXELS_PER_DEGREE)
    x = torch.arange(-radius, radius + 1, dtype=torch.float64) / PIXELS_PER_DEGREE
    shapes = torch.stack([torch.exp(-(math.pi**2) * x**2 / b) for _, b in SENSITIVITY[channel]])
    weights = torch.tensor([a * math.sqrt(math.pi / b) for a, b in SENSITIVITY[channel]], dtype=torch.float64)
    total = (weights * shapes.sum(1) ** 2).sum()
    return shapes * (weights / total)[:, None], shapes


@functools.cache
def _feature_taps() -> tuple[Tensor, Tensor, Tensor]:
    """A Gaussian, its first and its second derivative, each (1, K); positive and negative taps of a filter add up to 1 each."""
    sd = 0.5 * FEATURE_WIDTH * PIXELS_PER_DEGREE
    x = torch.arange(-math.ceil(3 * sd), math.ceil(3 * sd) + 1, dtype=torch.float64)
    smooth = torch.exp(-(x**2) / (2 * sd**2))

    def balanced(taps: Tensor) -> Tensor:
        return torch.where(taps > 0, taps / taps.clamp_min(0).sum(), taps / -taps.clamp_max(0).sum())

    return (smooth / smooth.sum())[None], balanced(-x * smooth)[None], balanced((x**2 / sd**2 - 1) * smooth)[None]

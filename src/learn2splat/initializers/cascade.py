"""The network that tells depth from a few posed photos: coarse over the whole range at 1/4 of the size, then finer around it at 1/2, twice.

    photos -> features at 1/4 and at 1/2
    at 1/4:  correlation with the neighbours at NUM_PLANES depths, evenly spaced in their logarithm (_volume.py) -> 3-D U-Net -> most likely depth
    at 1/2:  correlation at NUM_NEAR depths within +-22 % of it, then within +-8 % of the answer -> another 3-D U-Net -> depth and confidence

Sources: DepthSplat and ReSplat (METHOD.md section 8) for the plane sweep with features, CasMVSNet (arXiv:1912.06378) for the cascade, GwcNet
(arXiv:1903.04025) for correlation in groups. All that the network sees is a correlation, a photo or a ratio of depths, so that nothing depends on the
unit of length; the same network serves both ranges at 1/2, for it is told the width. The volume has its own dimension for depth, and not channels:
what is learned at one depth holds at all, and a few minutes of training suffice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._volume import GROUPS, Seen, correlate, patches_of, unit_groups

NUM_PLANES, NUM_NEAR = 48, 16
WIDTHS = (0.20, 0.07)  # Half the range of the two passes at 1/2, of the logarithm of depth.
CHANNELS = GROUPS + 4  # of a volume
PEAK = 2  # The depth is the mean over so many candidates on either side of the most likely one.
WITHIN = 0.03  # Confidence is the probability that the relative error is below this.
MULTIPLE = 16  # Sides of a photo are multiples of this many px.


@dataclass(frozen=True)
class CascadeConfig:
    """Channels."""

    coarse_features: int = 32
    fine_features: int = 16
    context: int = 48
    volume: int = 8


class Features(nn.Module):
    """Photo -> features for comparison, of length 1 in each group, and for context, at 1/4 or (`fine`) at 1/2 of its size."""

    def __init__(self, config: CascadeConfig, *, fine: bool) -> None:
        super().__init__()
        c = config.context
        self.enter = nn.Conv2d(3, c // 2, 5, stride=2, padding=2)
        self.level1 = Residual(c // 2)
        self.down = nn.Conv2d(c // 2, c, 3, stride=2, padding=1)
        self.level2 = nn.Sequential(Residual(c), Residual(c))
        self.up = nn.Conv2d(c, c // 2, 1) if fine else None
        self.compared = nn.Conv2d(c // 2, config.fine_features, 3, padding=1) if fine else nn.Conv2d(c, config.coarse_features, 1)

    def forward(self, photos: Tensor) -> tuple[Tensor, Tensor]:
        """(V, 3, H, W) in [0, 1] -> what is compared, and context."""
        mean, spread = photos.mean((2, 3), keepdim=True), photos.std((2, 3), keepdim=True)
        half = self.level1(F.relu(self.enter((photos - mean) / (spread + 0.05))))
        context = self.level2(F.relu(self.down(half)))
        if self.up is not None:
            context = half + F.interpolate(self.up(context), size=half.shape[2:], mode="bilinear", align_corners=False)
        return unit_groups(self.compared(context)), context


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.b(F.relu(self.a(x))))


class Conv3d(nn.Conv3d):
    """As torch's, but fast for a batch of one: torch leaves oneDNN to larger ones, which is five times as slow (2.13)."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 1 or x.device.type != "cpu" or torch.is_grad_enabled() or not torch.backends.mkldnn.is_available():
            return super().forward(x)
        return torch.ops.aten.mkldnn_convolution(x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups)


class VolumeNet(nn.Module):
    """3-D U-Net over (candidates, rows, columns), with what the photo itself shows added at both ends."""

    def __init__(self, channels: int, context: int, width: int) -> None:
        super().__init__()
        w = width
        self.context = nn.Conv2d(context, w, 1)
        self.wide = nn.Sequential(
            nn.Conv2d(context, context, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(context, context, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(context, 4 * w, 3, padding=1),
        )  # fmt: skip
        self.enter = Conv3d(channels, w, 3, padding=1)
        self.down1, self.level1 = Conv3d(w, 2 * w, 3, stride=2, padding=1), Conv3d(2 * w, 2 * w, 3, padding=1)
        self.down2, self.level2 = Conv3d(2 * w, 4 * w, 3, stride=2, padding=1), Conv3d(4 * w, 4 * w, 3, padding=1)
        self.level3 = Conv3d(4 * w, 4 * w, 3, padding=1)
        self.up2, self.up1 = Conv3d(4 * w, 2 * w, 1), Conv3d(2 * w, w, 1)
        self.join1 = Conv3d(2 * w, 2 * w, 3, padding=1)
        self.leave = Conv3d(w, 1, 3, padding=1)

    def forward(self, volume: Tensor, context: Tensor) -> Tensor:
        """(B, channels, D, h, w) and (B, context, h, w) -> logits (B, D, h, w)."""
        x0 = F.relu(self.enter(volume) + self.context(context)[:, :, None])
        x1 = F.relu(self.down1(x0))
        x1 = F.relu(x1 + self.level1(x1))
        x2 = F.relu(self.down2(x1) + self.wide(context)[:, :, None])
        x2 = F.relu(x2 + self.level2(x2))
        x2 = F.relu(x2 + self.level3(x2))
        x1 = F.relu(x1 + F.interpolate(self.up2(x2), size=x1.shape[2:], mode="nearest"))
        x1 = F.relu(x1 + self.join1(x1))
        x0 = F.relu(x0 + F.interpolate(self.up1(x1), size=x0.shape[2:], mode="trilinear", align_corners=False))
        return self.leave(x0)[:, 0]


class Confidence(nn.Module):
    """Logits and context -> logit of the probability that the depth is within 3 %."""

    def __init__(self, context: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(6 + context, 24, 3, padding=1), nn.Conv2d(24, 24, 3, padding=1)
        self.c = nn.Conv2d(24, 1, 1)

    def forward(self, logits: Tensor, volume: Tensor, context: Tensor) -> Tensor:
        chances = logits.softmax(1)
        peak, at = chances.max(1, keepdim=True)
        entropy = -(chances * (chances + 1e-6).log()).sum(1, keepdim=True)
        there = volume.gather(2, at[:, None].expand(-1, volume.shape[1], -1, -1, -1))[:, :, 0]
        shown = torch.cat([peak, entropy, there[:, GROUPS : GROUPS + 4], context], 1)
        return self.c(F.relu(self.b(F.relu(self.a(shown)))))[:, 0]


class Cascade(nn.Module):
    """All of it. Weights of another configuration do not fit."""

    def __init__(self, config: CascadeConfig = CascadeConfig()) -> None:
        super().__init__()
        self.config = config
        self.coarse_features, self.fine_features = Features(config, fine=False), Features(config, fine=True)
        self.coarse = VolumeNet(CHANNELS, config.context, config.volume)
        self.fine = VolumeNet(CHANNELS + 2, config.context // 2, config.volume)
        self.confidence = Confidence(config.context // 2)


def look(features: Features, photos: Tensor, Ks: Tensor, viewmats: Tensor) -> list[Seen]:
    """Photos (V, 3, H, W) of one size, H and W multiples of 16; Ks (V, 3, 3), viewmats (V, 4, 4) float64."""
    compared, context = features(photos)
    grey = photos.mean(1)
    patches = patches_of(grey if features.up is not None else F.avg_pool2d(grey[:, None], 2)[:, 0])
    size = (photos.shape[3], photos.shape[2])
    return [Seen(size, *parts) for parts in zip(Ks, viewmats, compared, patches, context)]


def planes(near: float, far: float, shape: tuple[int, int]) -> Tensor:
    """(NUM_PLANES, h, w) the same depths for all pixels."""
    depths = torch.linspace(math.log(near), math.log(far), NUM_PLANES).exp()
    return depths[:, None, None].expand(-1, *shape).contiguous()


def candidates(centre: Tensor, width: float) -> Tensor:
    """(NUM_NEAR, h, w) around `centre` (h, w)."""
    offsets = torch.linspace(-width, width, NUM_NEAR, device=centre.device)
    return centre * offsets.exp()[:, None, None]


def expected_log_depth(logits: Tensor, depths: Tensor) -> Tensor:
    """(B, h, w) mean of log depth over the candidates around the most likely one. Both arguments (B, D, h, w)."""
    at = logits.argmax(1, keepdim=True)
    number = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
    chances = logits.masked_fill((number - at).abs() > PEAK, -torch.inf).softmax(1)
    return (chances * depths.log()).sum(1)


def coarse_logits(network: Cascade, photos: Sequence[Seen], neighbours: Sequence[Sequence[Seen]], depths: Sequence[Tensor]) -> Tensor:
    """(B, NUM_PLANES, h, w) for photos of one size at `depths` (NUM_PLANES, h, w) each."""
    volumes = [correlate(p, others, d) for p, others, d in zip(photos, neighbours, depths)]
    return network.coarse(torch.stack(volumes), torch.stack([p.context for p in photos]))


def fine_logits(
    network: Cascade, photos: Sequence[Seen], neighbours: Sequence[Sequence[Seen]], centres: Tensor, width: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Around `centres` (B, h, w) of photos of one size: logits (B, NUM_NEAR, h, w), the depths they are of, and the confidence, a logit (B, h, w)."""
    depths = torch.stack([candidates(centre, width) for centre in centres])
    volume = torch.stack([correlate(p, others, d) for p, others, d in zip(photos, neighbours, depths)])
    log_centre = centres.log()
    around = F.avg_pool2d(F.pad(log_centre[:, None], (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    relative = (depths.log() - around) / width
    shown = torch.cat([volume, relative.clamp(-3, 3)[:, None], torch.full_like(relative, 10 * width)[:, None]], 1)
    context = torch.stack([p.context for p in photos])
    logits = network.fine(shown, context)
    return logits, depths, network.confidence(logits, volume, context)


def enlarged(depth: Tensor, shape: tuple[int, int]) -> Tensor:
    """(B, h, w) at another size: each pixel has the depth of one, never one in between."""
    return F.interpolate(depth[:, None], size=shape, mode="nearest-exact")[:, 0]

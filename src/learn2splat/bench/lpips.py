"""LPIPS of final states, where its networks can be had without a network connection.

torchmetrics brings the small linear layers of LPIPS; the networks below them (VGG-16, AlexNet) are torchvision's, with weights in the cache of
torch.hub (`~/.cache/torch/hub/checkpoints`). Nothing is downloaded here: where a part is missing, the value is None and the reason is a sentence.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..fit import rendered
from ..gaussians import Gaussians
from ..scenes import Scene

BACKBONES = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}  # file names of torchvision's ImageNet weights


def why_missing(net: str) -> str | None:
    """What LPIPS with the backbone `net` lacks on this machine; None where it can be computed."""
    for package in ("torchmetrics", "torchvision"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
    weights = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONES[net]
    return None if weights.is_file() else f"{weights} is missing"


def lpips_scores(scene: Scene, gaussians: Gaussians) -> dict[str, object]:
    """`lpips_vgg` and `lpips_alex`, means over the held-out photos (smaller is better) or None; `lpips_missing` says why, if any is None."""
    values: dict[str, object] = {f"lpips_{net}": None for net in BACKBONES}
    missing = {net: reason for net in BACKBONES if (reason := why_missing(net))}
    for net in BACKBONES:
        if net not in missing:
            try:
                measure = _measure(net, str(gaussians.means.device))
                scores = [measure(_unmasked(scene, i, render, photo), photo) for i, render, photo in rendered(scene, gaussians, scene.test_idx)]
                values[f"lpips_{net}"] = sum(scores) / len(scores)
            except Exception as error:  # a torchvision of another torch, damaged weights, photos smaller than the network needs
                missing[net] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
    return {**values, "lpips_missing": next(iter(missing.values()), None)}


def _unmasked(scene: Scene, i: int, render: Tensor, photo: Tensor) -> Tensor:
    """The render of photo i with the photo itself where that is masked: a network has no weights for pixels."""
    return render if scene.masks is None else torch.where(scene.masks[i].to(render.device).unsqueeze(2), render, photo)


@functools.cache
def _measure(net: str, device: str) -> Callable[[Tensor, Tensor], float]:
    """LPIPS of two (H, W, 3) images in [0, 1]."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    metric = LearnedPerceptualImagePatchSimilarity(net_type=net, normalize=True).to(device)

    @torch.no_grad()
    def measure(render: Tensor, photo: Tensor) -> float:
        metric.reset()
        return float(metric(render.permute(2, 0, 1)[None], photo.permute(2, 0, 1)[None]))

    return measure

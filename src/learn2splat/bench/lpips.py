"""How alike renders and photos look, of final states: LPIPS where its networks are on this machine, else its relative ST-LPIPS, and always FLIP,
which has no weights. Smaller is better for all.

LPIPS: torchmetrics brings its small linear layers; the networks below them (VGG-16, AlexNet) are torchvision's, with weights in the cache of
torch.hub (`~/.cache/torch/hub/checkpoints`). ST-LPIPS (shift-tolerant, Ghildyal and Liu, ECCV 2022): stlpips-pytorch (extra `lpips`) brings all of
its weights. Its numbers are not those of LPIPS, so it has columns of its own. Nothing is downloaded here.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..fitting import rendered
from ..gaussians import Gaussians
from ..scenes import Scene
from .flip import flip

BACKBONES = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}  # file names of torchvision's ImageNet weights
# What a result may have, and what its column is called.
PERCEPTUAL = {"lpips_vgg": "LPIPS vgg", "lpips_alex": "LPIPS alex", "st_lpips_alex": "ST-LPIPS alex", "flip": "FLIP"}
UNUSED = ("torchvision", "torchvision.models", "IPython", "torchsummary")  # imported by stlpips-pytorch, for parts of it that are not called here


def why_missing(net: str) -> str | None:
    """What LPIPS with the backbone `net` lacks on this machine; None where it can be computed."""
    for package in ("torchmetrics", "torchvision"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
    weights = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONES[net]
    return None if weights.is_file() else f"{weights} is missing"


def perceptual_scores(scene: Scene, gaussians: Gaussians) -> dict[str, object]:
    """The keys of `PERCEPTUAL`: means over the held-out photos, or None; `lpips_missing` says why LPIPS is None, if it is."""
    values: dict[str, object] = dict.fromkeys(PERCEPTUAL)
    values["flip"] = _mean(scene, gaussians, lambda render, photo: float(flip(render, photo).mean()))
    missing: dict[str, str] = {}
    for net in BACKBONES:
        reason = why_missing(net)
        if reason is None:
            try:
                values[f"lpips_{net}"] = _mean(scene, gaussians, _lpips(net, str(gaussians.means.device)))
                continue
            except Exception as error:  # a torchvision of another torch, damaged weights, photos smaller than the network needs
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        missing[net] = reason
    if missing and importlib.util.find_spec("stlpips_pytorch") is not None:
        with contextlib.suppress(Exception):  # likewise
            values["st_lpips_alex"] = _mean(scene, gaussians, _st_lpips(str(gaussians.means.device)))
    return {**values, "lpips_missing": next(iter(missing.values()), None)}


def _mean(scene: Scene, gaussians: Gaussians, measure: Callable[[Tensor, Tensor], float]) -> float:
    scores = [measure(_unmasked(scene, i, render, photo), photo) for i, render, photo in rendered(scene, gaussians, scene.test_idx)]
    return sum(scores) / len(scores)


def _unmasked(scene: Scene, i: int, render: Tensor, photo: Tensor) -> Tensor:
    """The render of photo i with the photo itself where that is masked: a network has no weights for pixels."""
    return render if scene.masks is None else torch.where(scene.masks[i].to(render.device).unsqueeze(2), render, photo)


@functools.cache
def _lpips(net: str, device: str) -> Callable[[Tensor, Tensor], float]:
    """LPIPS of two (H, W, 3) images in [0, 1]."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    metric = LearnedPerceptualImagePatchSimilarity(net_type=net, normalize=True).to(device)

    @torch.no_grad()
    def measure(render: Tensor, photo: Tensor) -> float:
        metric.reset()
        return float(metric(render.permute(2, 0, 1)[None], photo.permute(2, 0, 1)[None]))

    return measure


@functools.cache
def _st_lpips(device: str) -> Callable[[Tensor, Tensor], float]:
    """ST-LPIPS of two (H, W, 3) images in [0, 1]; AlexNet: VGG-16, with a stride of 1, takes 5 s for a photo of 640x480."""
    with _unused_modules(), contextlib.redirect_stdout(io.StringIO()):  # it prints
        from stlpips_pytorch import stlpips

        metric = stlpips.LPIPS(net="alex", variant="shift_tolerant", verbose=False).to(device)

    @torch.no_grad()
    def measure(render: Tensor, photo: Tensor) -> float:
        return float(metric(render.permute(2, 0, 1)[None], photo.permute(2, 0, 1)[None], normalize=True))

    return measure


@contextlib.contextmanager
def _unused_modules() -> Iterator[None]:
    """Empty modules for `UNUSED` while stlpips-pytorch is imported: they need not be installed, and a torchvision of another torch breaks nothing."""
    before = {name: sys.modules.get(name) for name in UNUSED}
    for name in UNUSED:
        module = types.ModuleType(name)
        module.__dict__.update(models=None, embed=None, summary=None)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module

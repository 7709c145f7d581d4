"""`learn2splat init SCENE`: the start that `fit --init feedforward` makes, alone, with a picture of the depth of every photo."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..bench.page import png
from ..errors import OptionError
from ..files import atomic_write, file_name
from ..gaussians import save_ply, transform_gaussians
from ..initializers import feedforward_start, predict_depth
from ..initializers.feedforward import MAX_PHOTOS, evenly
from . import result as saved
from .common import Command, DeviceName, Flag, MaybeInt, ScenePath, note, require_device

# Near to far: dark red, orange, yellow, green, blue, as thermal cameras have it; what is unsure fades to grey.
DEPTH_COLORS = ((120, 10, 20), (220, 80, 20), (250, 200, 60), (120, 200, 120), (40, 130, 190), (40, 40, 120))
UNSURE = 0.45  # grey


@dataclass(frozen=True)
class Init(Command):
    """Make the splat that a network sees in posed photos, in one pass and without points: a start for fit --init FILE, or for other programs."""

    scene: ScenePath
    """Folder of COLMAP output (images, sparse/0) or with a transforms.json."""
    out: Path
    """The splat to write, a .ply; beside it a folder of its name ending in -depth, with a picture of the depth of every photo."""
    max_gaussians: MaybeInt = None
    """At most so many Gaussians. Default: 30000."""
    all_photos: Flag = False
    """Use the photos that fit holds out, too."""
    long_side: MaybeInt = None
    """Shrink the photos so that the longer side has so many pixels. Default: 1600 at most; 0: never. The network sees 256."""
    test_every: int = 8
    """Hold out the first and then every so-many-th photo of the sorted names."""
    seed: int = 0
    """Fixes what is random: which Gaussians stay, where there are too many."""
    device: DeviceName = "cpu"
    """Where the network runs."""

    def run(self) -> None:
        device = require_device(self.device)
        if self.out.suffix.lower() != ".ply":
            raise OptionError(f"--out must be a .ply, got {self.out}: learn2splat export turns that into other formats")
        if self.max_gaussians is not None and self.max_gaussians < 1:
            raise OptionError(f"--max-gaussians must be at least 1, got {self.max_gaussians}")
        scene = saved.open_scene(self.scene, self.long_side, 1, self.test_every)
        if self.all_photos:
            scene = replace(scene, train_idx=tuple(range(len(scene))))
        began = time.monotonic()
        predicted = predict_depth(scene, evenly(scene.train_idx, MAX_PHOTOS), device=device)
        generator = torch.Generator().manual_seed(self.seed)
        gaussians, why = feedforward_start(scene, max_gaussians=self.max_gaussians, predicted=predicted, generator=generator)
        seconds = time.monotonic() - began
        if why is not None:
            note(f"note: {why}")
        save_ply(self.out, transform_gaussians(gaussians, scene.to_normalised.inverse()), offset=scene.offset)
        folder = self.out.with_name(self.out.stem + "-depth")
        for i, depth, confidence, color in zip(predicted.idx, predicted.depths, predicted.confidence, predicted.colors):
            stem = file_name(re.sub(r"\.[A-Za-z]{3,4}$", "", scene.image_names[i]))[:60]
            atomic_write(folder / f"{i:05d}_{stem}.png", png(torch.cat([color.float() / 255, depth_picture(depth, confidence)], 1)))
        print(f"{len(gaussians)} Gaussians of {len(predicted.idx)} photos in {self.out} after {seconds:.1f} s; their depth: {folder}")


def depth_picture(depth: Tensor, confidence: Tensor) -> Tensor:
    """(h, w, 3) in [0, 1]: red near, blue far, evenly in the rank of the depths of this map; grey where it is unsure or there is none."""
    there = depth.isfinite()
    rank = torch.zeros_like(depth)
    if bool(there.any()):
        known = depth[there].sort().values
        rank[there] = torch.searchsorted(known, depth[there]).to(depth) / max(1, len(known) - 1)
    colors = torch.tensor(DEPTH_COLORS, dtype=torch.float32) / 255
    place = rank.clamp(0, 1) * (len(colors) - 1)
    low = place.floor().clamp(max=len(colors) - 2).long()
    shown = torch.lerp(colors[low], colors[low + 1], (place - low)[..., None])
    sure = torch.where(there, confidence.clamp(0, 1).sqrt(), torch.zeros_like(depth))[..., None]
    return torch.lerp(torch.full_like(shown, UNSURE), shown, sure)

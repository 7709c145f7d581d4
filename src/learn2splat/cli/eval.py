"""`learn2splat eval`: render the held-out photos of a scene from a saved result, or from any splat file, and score them."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import OptionError
from ..fitting import mean_score, score
from ..gaussians import Gaussians
from ..scenes import Scene
from . import result as saved
from .common import Command, DeviceName, Flag, MaybeInt, MaybePath, SplatPath, require_device, to_json


@dataclass(frozen=True)
class Eval(Command):
    """Score a saved result, or any splat file in the frame of a scene, on the held-out photos."""

    splat: SplatPath
    """Folder that learn2splat fit has written, or a splat file (.ply, .compressed.ply, .spz, .sog, .splat)."""
    scene: MaybePath = None
    """Where the scene is. Default: where it was when fitted; a splat file needs it."""
    long_side: MaybeInt = None
    """For a splat file: shrink the photos so that the longer side has so many pixels."""
    data_factor: MaybeInt = None
    """For a splat file: use images_2, images_4 or images_8 in place of images."""
    test_every: MaybeInt = None
    """For a splat file: the photos held out are the first and then every so-many-th of the sorted names. Default: 8."""
    device: DeviceName = "cpu"
    """Where to compute."""
    json: Flag = False
    """Print the scores as one line of JSON."""

    def run(self) -> None:
        device = require_device(self.device)
        label, scene, gaussians = self._open(device)
        scores = score(scene, gaussians)
        psnr, ssim = mean_score(scores)
        if self.json:
            print(to_json({"psnr": psnr, "ssim": ssim, "num_gaussians": len(gaussians), "photos": [asdict(s) for s in scores]}))
            return
        print(f"{scene.name}, {label}: {len(gaussians)} Gaussians, {len(scores)} held-out photos")
        table = Table()
        table.add_column("photo", overflow="fold")
        table.add_column("PSNR (dB)", justify="right")
        table.add_column("SSIM", justify="right")
        for s in scores:
            table.add_row(Text(s.name), f"{s.psnr:.2f}", f"{s.ssim:.4f}")
        table.add_section()
        table.add_row("mean", f"{psnr:.2f}", f"{ssim:.4f}", style="bold")
        Console().print(table)

    def _open(self, device: torch.device) -> tuple[str, Scene, Gaussians]:
        """(what is scored, the scene, the Gaussians in its normalised frame)."""
        loading = {"--long-side": self.long_side, "--data-factor": self.data_factor, "--test-every": self.test_every}
        if saved.splat_path(self.splat) is None:
            given = [name for name, value in loading.items() if value is not None]
            if given and self.splat.exists():
                raise OptionError(f"{given[0]} goes with a splat file: {self.splat} is scored on the photos as they were when fitted")
            config, scene, gaussians = saved.load_result(self.splat, self.scene, device)
            return config["options"]["optimizer"], scene, gaussians
        if self.scene is None:
            raise OptionError(f"say with --scene which photos {self.splat} is to be compared with")
        gaussians = saved.open_splat(self.splat)
        scene = saved.open_scene(self.scene, self.long_side, self.data_factor or 1, self.test_every or 8)
        return self.splat.name, scene, saved.in_scene(gaussians, self.splat, scene).to(device)

"""`learn2splat eval DIR`: render the held-out photos of a saved result again and score them."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from ..fit import mean_score, score
from .common import Command, DeviceName, Flag, MaybePath, ResultPath, require_device, to_json
from .result import load_result


@dataclass(frozen=True)
class Eval(Command):
    """Score a saved result on its held-out photos."""

    result: ResultPath
    """Folder that learn2splat fit has written."""
    scene: MaybePath = None
    """Where the scene is now. Default: where it was when fitted."""
    device: DeviceName = "cpu"
    """Where to compute."""
    json: Flag = False
    """Print the scores as one line of JSON."""

    def run(self) -> None:
        device = require_device(self.device)
        config, scene, gaussians = load_result(self.result, self.scene, device)
        scores = score(scene, gaussians)
        psnr, ssim = mean_score(scores)
        if self.json:
            print(to_json({"psnr": psnr, "ssim": ssim, "num_gaussians": len(gaussians), "photos": [asdict(s) for s in scores]}))
            return
        print(f"{scene.name}, {config['options']['optimizer']}: {len(gaussians)} Gaussians, {len(scores)} held-out photos")
        table = Table()
        table.add_column("photo", overflow="fold")
        table.add_column("PSNR (dB)", justify="right")
        table.add_column("SSIM", justify="right")
        for s in scores:
            table.add_row(s.name, f"{s.psnr:.2f}", f"{s.ssim:.4f}")
        table.add_section()
        table.add_row("mean", f"{psnr:.2f}", f"{ssim:.4f}", style="bold")
        Console().print(table)

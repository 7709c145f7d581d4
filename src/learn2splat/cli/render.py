"""`learn2splat render DIR`: a video of a saved result along a camera path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import imageio.v2 as imageio
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ..errors import OptionError
from ..files import atomic_produce
from ..gaussians import Gaussians
from ..render import render_views
from ..scenes import Scene
from .camera_paths import PathName, camera_path
from .common import Command, DeviceName, MaybeInt, MaybePath, ResultPath, note, require_device
from .result import load_result


@dataclass(frozen=True)
class Render(Command):
    """Render a saved result to a video along a camera path."""

    result: ResultPath
    """Folder that learn2splat fit has written."""
    path: PathName = "spiral"
    """spiral: small loops around one view. orbit: around the subject. interpolate: a tour through the train cameras."""
    out: MaybePath = None
    """The video (.mp4). Default: video.mp4 in the folder of the result."""
    frames: int = 120
    """Number of frames."""
    fps: int = 30
    """Frames per second."""
    width: MaybeInt = None
    """Width of the video in px. Default: that of the photos as they were fitted."""
    scene: MaybePath = None
    """Where the scene is now. Default: where it was when fitted."""
    device: DeviceName = "cpu"
    """Where to compute."""

    def run(self) -> None:
        device = require_device(self.device)
        for name, value, least in (("--frames", self.frames, 2), ("--fps", self.fps, 1), ("--width", self.width or 2, 2)):
            if value < least:
                raise OptionError(f"{name} must be at least {least}, got {value}")
        out = self.out or self.result / "video.mp4"
        if out.suffix != ".mp4":
            raise OptionError(f"--out must be the path of an .mp4 file, got {out}")
        _, scene, gaussians = load_result(self.result, self.scene, device)
        K, width, height = video_camera(scene, self.width)
        poses = camera_path(scene, self.path, self.frames)
        atomic_produce(out, lambda path: write_video(path, gaussians, poses, K, width, height, scene.background, self.fps))
        note(f"{self.frames} frames of {width}x{height} in {out}")


def video_camera(scene: Scene, width: int | None) -> tuple[Tensor, int, int]:
    """(K (3, 3), width, height): the median field of view of the photos that have the most common size; even sizes, as codecs want."""
    sizes = [scene.size(i) for i in scene.train_idx]
    common = max(sorted(set(sizes)), key=sizes.count)
    rows = [i for i, size in zip(scene.train_idx, sizes) if size == common]
    out_width = (width or common[0]) // 2 * 2
    out_height = max(2, round(out_width * common[1] / common[0] / 2) * 2)
    focal = scene.Ks[rows].median(dim=0).values
    K = torch.eye(3)
    K[0, 0], K[1, 1] = focal[0, 0] * out_width / common[0], focal[1, 1] * out_height / common[1]
    K[0, 2], K[1, 2] = out_width / 2, out_height / 2
    return K, out_width, out_height


@torch.no_grad()
def write_video(path: Path, gaussians: Gaussians, camtoworlds: Tensor, K: Tensor, width: int, height: int, background: Tensor, fps: int) -> None:
    """H.264 with the pixel format that every player reads."""
    device = gaussians.means.device
    viewmats = torch.linalg.inv(camtoworlds.double()).float().to(device)
    console = Console(stderr=True)
    with imageio.get_writer(path, fps=fps, codec="libx264", quality=8, macro_block_size=2, pixelformat="yuv420p") as writer:
        for viewmat in track(viewmats, "rendering", console=console, transient=True, disable=not console.is_terminal):
            image = render_views(gaussians, viewmat[None], K[None].to(device), width, height, background=background.to(device))[0]
            writer.append_data((image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())

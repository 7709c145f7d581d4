"""`learn2splat render`: a video, or pictures, of a saved result or of any splat, along a camera path or from given cameras."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import imageio.v2 as imageio
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ..bench.page import png
from ..errors import OptionError, SaveError
from ..files import atomic_produce, atomic_write
from ..gaussians import Gaussians, load_offset, transform_gaussians
from ..render import rasterize
from ..scenes import Scene
from ..scenes.scene import EPS2D
from . import result as saved
from .camera_files import Shot, read_shots
from .camera_paths import PathName, path_through
from .common import Command, DeviceName, Flag, MaybeInt, MaybePath, SplatPath, note, require_device
from .splat_cameras import NEAR, UpName, frame_of, ring, up_of

MaybePathName = Annotated[PathName | None, tyro.conf.arg(help_behavior_hint="")]


@dataclass(frozen=True)
class Render(Command):
    """Render a saved result, or any splat file, to a video along a camera path."""

    splat: SplatPath
    """Folder that learn2splat fit has written, or a splat file (.ply, .compressed.ply, .spz, .sog, .splat)."""
    path: MaybePathName = None
    """spiral: small loops around one view. orbit: around the subject. interpolate: a tour through the train cameras.
    Default: spiral; orbit for a splat without a scene."""
    out: MaybePath = None
    """The video (.mp4), or with --png the folder of the pictures. Default: video.mp4 or video/ in the folder of the result; for a file,
    beside it under its name."""
    frames: int = 120
    """Number of frames."""
    fps: int = 30
    """Frames per second."""
    width: MaybeInt = None
    """Width of the video in px. Default: that of the photos as they were fitted, or of the cameras; 800 without either."""
    scene: MaybePath = None
    """The photos whose cameras the path follows. Default: for a result, where they were when fitted; a splat file needs none."""
    cameras: MaybePath = None
    """Render from exactly these cameras, in place of a path: a transforms.json or a COLMAP model (no photos needed), in the frame of the splat."""
    up: UpName = "auto"
    """Which way is up, for a splat without a scene."""
    depth: Flag = False
    """Show the depth (near is bright) in place of the colours; with --png also as float32 numbers (.npy), in units of the splat."""
    png: Flag = False
    """Write every frame as a PNG in place of a video."""
    device: DeviceName = "cpu"
    """Where to compute."""

    def run(self) -> None:
        device = require_device(self.device)
        for name, value, least in (("--frames", self.frames, 2), ("--fps", self.fps, 1), ("--width", self.width or 2, 2)):
            if value < least:
                raise OptionError(f"{name} must be at least {least}, got {value}")
        for name, value in (("--path", self.path), ("--scene", self.scene)):
            if self.cameras is not None and value is not None:
                raise OptionError(f"{name} does not go with --cameras: these say where to look from")
        out = self.out or self._default_out()
        if not self.png and out.suffix != ".mp4":
            raise OptionError(f"--out must be the path of an .mp4 file, got {out}: for pictures add --png")
        if self.png and out.exists() and not out.is_dir():
            raise SaveError(f"--out must be a folder for --png, and {out} is a file")
        gaussians, shots, background, unit, eps2d = self._open(device)
        near = NEAR if saved.splat_path(self.splat) is not None and self.scene is None and self.cameras is None else 0.01
        if self.png:
            _write_pictures(out, _rendered(gaussians, shots, background, self.depth, near, eps2d), self.depth, unit)
            note(f"{len(shots)} pictures in {out}")
        else:
            shots = _of_one_size(shots)
            frames = _rendered(gaussians, shots, background, self.depth, near, eps2d)
            atomic_produce(out, lambda path: write_video(path, _depth_pictures(frames) if self.depth else frames, self.fps))
            note(f"{len(shots)} frames of {shots[0].width}x{shots[0].height} in {out}")

    def _default_out(self) -> Path:
        name = "video" if saved.splat_path(self.splat) is None else self.splat.name.split(".")[0]
        folder = self.splat if saved.splat_path(self.splat) is None else self.splat.parent
        return folder / (name if self.png else f"{name}.mp4")

    def _open(self, device: torch.device) -> tuple[Gaussians, list[Shot], Tensor, float, float]:
        """(Gaussians and shots in one frame, in which the subject is about 1 away; what is behind; length of a unit of it in those of the splat;
        eps2d of `rasterize`)."""
        from_file = saved.splat_path(self.splat) is not None
        if self.cameras is None and (self.scene is not None or not from_file):
            gaussians, scene = self._with_scene(device, from_file)
            poses = scene.camtoworlds[list(scene.train_idx)].double().numpy()
            shot = video_camera(scene, self.width)
            shots = [replace(shot, camtoworld=pose) for pose in path_through(poses, self.path or "spiral", self.frames)]
            return gaussians, shots, scene.background, 1 / scene.to_normalised.scale, scene.eps2d
        gaussians = saved.open_splat(self.splat)
        to_ring = frame_of(gaussians)
        if self.cameras is not None:
            offset = load_offset(self.splat if from_file else self.splat / saved.PLY)  # cameras are in the frame of the files
            shots = [shot.resized(self.width) if self.width else shot for shot in read_shots(self.cameras)]
            if offset is not None:
                shots = [shot.shifted(-offset.numpy()) for shot in shots]
            poses = to_ring.apply_poses(torch.from_numpy(np.stack([shot.camtoworld for shot in shots]))).numpy()
            shots = [replace(shot, camtoworld=pose) for shot, pose in zip(shots, poses)]
        else:
            around = ring(up_of(gaussians, self.up), self.width)
            path = path_through(np.stack([shot.camtoworld for shot in around]), self.path or "orbit", self.frames)
            shots = [replace(around[0], camtoworld=pose) for pose in path]
        return transform_gaussians(gaussians, to_ring).to(device), shots, torch.zeros(3), 1 / to_ring.scale, EPS2D

    def _with_scene(self, device: torch.device, from_file: bool) -> tuple[Gaussians, Scene]:
        if not from_file:
            _, scene, gaussians = saved.load_result(self.splat, self.scene, device)
            return gaussians, scene
        gaussians = saved.open_splat(self.splat)
        scene = saved.open_scene(self.scene, None, 1, 8)
        return saved.in_scene(gaussians, self.splat, scene).to(device), scene


def video_camera(scene: Scene, width: int | None) -> Shot:
    """The median field of view of the photos that have the most common size; even sizes, as codecs want."""
    sizes = [scene.size(i) for i in scene.train_idx]
    common = max(sorted(set(sizes)), key=sizes.count)
    rows = [i for i, size in zip(scene.train_idx, sizes) if size == common]
    K = scene.Ks[rows].median(dim=0).values.double().numpy()
    K[0, 2], K[1, 2] = common[0] / 2, common[1] / 2
    return Shot("", np.eye(4), K, *common).resized(width or common[0])


def _of_one_size(shots: list[Shot]) -> list[Shot]:
    """Those of the most common size, made even: a video has one."""
    size = Counter((shot.width, shot.height) for shot in shots).most_common(1)[0][0]
    chosen = [shot for shot in shots if (shot.width, shot.height) == size]
    if len(chosen) < len(shots):
        note(f"note: {len(shots) - len(chosen)} of {len(shots)} cameras have another size than {size[0]}x{size[1]} and are left out: --png keeps all")
    return [shot.resized(shot.width) for shot in chosen]


@torch.no_grad()
def _rendered(gaussians: Gaussians, shots: list[Shot], background: Tensor, depth: bool, near: float, eps2d: float) -> Iterator[np.ndarray]:
    """Pictures (H, W, 3) uint8, or depths (H, W) float32 along the optical axis, NaN where nothing is."""
    device, g = gaussians.means.device, gaussians
    console = Console(stderr=True)
    for shot in track(shots, "rendering", console=console, transient=True, disable=not console.is_terminal):
        viewmat = torch.linalg.inv(torch.from_numpy(shot.camtoworld)).float().to(device)
        K = torch.from_numpy(shot.K).float().to(device)
        image, alpha, _ = rasterize(
            g.means, g.quats, g.log_scales.exp(), g.logit_opacities.sigmoid(), g.sh(), viewmat[None], K[None], shot.width, shot.height,
            sh_degree=3, near_plane=near, eps2d=eps2d, backgrounds=background.to(device)[None], render_mode="ED" if depth else "RGB")  # fmt: skip
        if depth:
            yield torch.where(alpha[0, ..., 0] > 0.5, image[0, ..., 0], torch.nan).cpu().numpy()
        else:
            yield (image[0].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _depth_pictures(depths: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Nearness 1 / depth in grey, black where nothing is. The first frame sets the range for all, so that brightness does not flicker."""
    low, high = None, 1.0
    for depth in depths:
        nearness = np.where(np.isfinite(depth), 1 / np.maximum(depth, 1e-6), np.nan)
        if low is None and np.isfinite(nearness).any():
            low, high = np.nanquantile(nearness, [0.02, 0.98])
            low, high = 0.7 * low, 1.2 * high
        grey = np.nan_to_num((nearness - (low or 0)) / max(high - (low or 0), 1e-9)).clip(0, 1)
        yield np.repeat((grey * 255).round().astype(np.uint8)[..., None], 3, axis=2)


def _write_pictures(folder: Path, frames: Iterator[np.ndarray], depth: bool, unit: float) -> None:
    """frame_0000.png ... in the order of the shots, and with `depth` the numbers beside them."""

    def kept() -> Iterator[np.ndarray]:
        for i, frame in enumerate(frames):
            if depth:
                atomic_produce(folder / f"frame_{i:04d}.npy", lambda path, frame=frame: np.save(path, (frame * unit).astype(np.float32)))
            yield frame

    for i, picture in enumerate(_depth_pictures(kept()) if depth else frames):
        atomic_write(folder / f"frame_{i:04d}.png", png(torch.from_numpy(picture) / 255))


def write_video(path: Path, frames: Iterator[np.ndarray], fps: int) -> None:
    """H.264 with the pixel format that every player reads."""
    with imageio.get_writer(path, fps=fps, codec="libx264", quality=8, macro_block_size=2, pixelformat="yuv420p") as writer:
        for frame in frames:
            writer.append_data(frame)

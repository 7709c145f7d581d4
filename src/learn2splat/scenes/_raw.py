"""What the readers of all formats hand to `assemble`: poses, cameras, names of files, points; nothing loaded or normalised yet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ._camera import Camera
from ._notes import Notes
from .depth_files import DepthFile


@dataclass(frozen=True)
class LoadOptions:
    """How to read a scene; the arguments of `load_scene`, checked."""

    long_side: int | None = None
    data_factor: int = 1
    test_every: int = 8
    masks: bool = True
    background: str | None = None
    allow_outside: bool = False
    observations: bool = False


@dataclass(frozen=True)
class RawView:
    """A posed photo of a model, not loaded yet."""

    name: str
    path: Path | None
    camtoworld: np.ndarray  # (4, 4) float64, OpenCV axes, input frame
    camera: Camera
    data_factor: float = 1.0  # how much the file at `path` is still to be shrunk
    seen: np.ndarray | None = None  # positions in RawModel.points of the points observed in this photo; None: the model has no tracks
    held_out: bool | None = None  # None: decided by the every-n-th rule
    mask: Path | None = None
    fault: str | None = None  # why it can only be left out: the end of a sentence "left out photo x: ..."
    observed: tuple[np.ndarray, np.ndarray] | None = None  # positions in RawModel.points (n,), and where they are seen (n, 2), px of `camera`
    depth: DepthFile | None = None


@dataclass(frozen=True)
class RawModel:
    """All that a COLMAP folder or a transforms.json says, in the frame of the files."""

    source: Path
    views: list[RawView]
    points: np.ndarray  # (P, 3) float64
    colors: np.ndarray  # (P, 3) uint8
    notes: Notes
    alpha_is_background: bool = False  # the format says that alpha shows a background (NeRF-synthetic), white there

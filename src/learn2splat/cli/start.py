"""What `fit` starts from: the name of a start (`initializers`), a splat or a point cloud."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from ..errors import OptionError
from ..gaussians import Gaussians, init_from_points, load_cloud
from ..initializers import STARTS, few_points, make_start, sparse_start
from ..initializers.starts import SEE_POINTS
from ..machine import most_gaussians
from ..scenes import Scene
from . import result as saved
from .common import note


def initial_gaussians(scene: Scene, init: str | None, max_points: int | None, seed: int, *, sparse: bool = False) -> tuple[Scene, Gaussians, bool]:
    """The scene (in the sparse setting with the points that the start knows), the start of a run, in the normalised frame, and whether it is a splat
    already.

    Raises:
        OptionError: `init` is not the name of a start or a file, or `max_points` does not fit to it.
        SceneError, PlyError: there is nothing to start from.
    """
    generator = torch.Generator().manual_seed(seed)
    if max_points is not None and max_points < 1:
        raise OptionError(f"--max-points must be at least 1, got {max_points}")
    if max_points is not None and (most := most_gaussians()) is not None and max_points > most:
        raise OptionError(f"--max-points {max_points} is more than the memory of this machine holds: at most about {most} Gaussians")
    if init is None:
        init = "feedforward" if sparse or few_points(scene) else "sfm"
        if init == "feedforward" and not sparse:
            note(f"note: the scene has {len(scene.points)} points, too few to start from: starting from what the photos show (--init feedforward)")
    if init in STARTS:
        if sparse and init in SEE_POINTS and len(scene.points):
            note(f"note: of the points, starts from {scene.warnings[-1]}")
        if sparse:
            scene, gaussians, why = sparse_start(scene, init, max_points=max_points, generator=generator)
        else:
            gaussians, why = make_start(scene, init, max_points=max_points, generator=generator)
        if why is not None:
            note(f"note: {why}")
        return scene, gaussians, False
    path = Path(init)
    if not path.suffix and not path.exists():
        raise OptionError(f"--init must be {', '.join(STARTS)} or the path of a splat or point cloud, got {init}")
    cloud = saved.with_notes(partial(load_cloud, path)) if path.suffix.lower() == ".ply" else None
    if cloud is not None:
        points, colors = cloud
        to_normalised = scene.frame_of(None, points.median(dim=0).values)
        return scene, init_from_points(to_normalised.apply(points).float(), colors, max_points=max_points, generator=generator), False
    if max_points is not None:
        raise OptionError("--max-points does not go with --init SPLAT: all Gaussians of the file are used")
    return scene, saved.in_scene(saved.open_splat(path), path, scene), True

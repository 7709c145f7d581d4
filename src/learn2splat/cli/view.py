"""`learn2splat view`: a saved result, or any splat file, in the browser: to walk around in, and photo against render where there are photos."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from ..gaussians import transform_gaussians
from ..viewer.photos import PhotoPanel
from ..viewer.server import PORT, Stage, add_cameras, address_lines, open_server, view_of
from . import result as saved
from .common import Command, MaybePath, SplatPath, note, stop_on_signals
from .splat_cameras import UpName, frame_of, ring, up_of


@dataclass(frozen=True)
class View(Command):
    """Look at a saved result, or at any splat file, in the browser; Ctrl-C ends it. It is served to this machine alone."""

    splat: SplatPath
    """Folder that learn2splat fit has written, or a splat file (.ply, .compressed.ply, .spz, .sog, .splat)."""
    scene: MaybePath = None
    """The photos that belong to it. Default: for a result, where they were when fitted; a splat file needs none."""
    port: int = PORT
    """Where to serve; the next free one if it is taken."""
    up: UpName = "auto"
    """Which way is up, for a splat without a scene."""

    def run(self) -> None:
        server = open_server(self.port, f"learn2splat: {self.splat.name}")
        if saved.splat_path(self.splat) is None:
            _, scene, gaussians = saved.load_result(self.splat, self.scene, torch.device("cpu"))
        else:
            gaussians = saved.open_splat(self.splat)
            scene = None if self.scene is None else saved.open_scene(self.scene, None, 1, 8)
            if scene is not None:
                gaussians = saved.in_scene(gaussians, self.splat, scene)
        if scene is None:
            gaussians = transform_gaussians(gaussians, frame_of(gaussians))
            up = up_of(gaussians, self.up)
            first = ring(up, None)[0]
            pose, fov = first.camtoworld, float(2 * np.arctan(0.5 * first.height / first.K[1, 1]))
        else:
            up, pose, fov = view_of(scene)
        stage = Stage(server, up)
        stage.start_at(pose, 1.0, up, fov)
        server.gui.add_markdown(f"**{self.splat.name}**: {len(gaussians)} Gaussians")
        if scene is not None:
            cameras = add_cameras(server, scene)
            PhotoPanel(server, scene, cameras).update(gaussians)
        stage.show("splat", gaussians)
        for line in address_lines(server):
            note(line)
        with stop_on_signals() as should_stop:
            while not should_stop():
                time.sleep(0.2)
        stage.close()

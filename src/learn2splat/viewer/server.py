"""The viewer in the browser (viser): a splat, the cameras of its photos, and a photo against its render. What `view` and `fit --view` share."""

from __future__ import annotations

import contextlib
import getpass
import io
import math
import os
import socket
import threading
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from ..errors import BackendError, OptionError
from ..gaussians import Gaussians
from ..scenes import Scene
from .colors import shown

if TYPE_CHECKING:
    import viser

PORT = 8080
HOST = "127.0.0.1"  # others on the network see nothing; over SSH the port is forwarded
THUMBNAIL = 160  # px, longer side of a photo in its frustum
MAX_THUMBNAILS = 120  # cameras beyond that are frames without a picture
COLORS_EVERY = 0.25  # seconds between two looks at whether a viewer has moved
TRAIN, HELD_OUT = (70, 130, 220), (240, 150, 40)


def open_server(port: int, title: str) -> viser.ViserServer:
    """A server on this machine alone, at `port` or the next free one.

    Raises:
        BackendError: viser is not installed.
        OptionError: there is no such port.
    """
    try:
        import viser
    except ImportError:
        raise BackendError("the viewer needs viser: pip install 'learn2splat[view]', or write a page with learn2splat export --format html") from None
    if not 1 <= port <= 65535:
        raise OptionError(f"--port must be between 1 and 65535, got {port}")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a box; stdout is for results
        server = viser.ViserServer(host=HOST, port=port, label=title, verbose=False)
    server.gui.configure_theme(control_layout="floating", dark_mode=True, show_logo=False, show_share_button=False, control_width="medium")
    server.scene.configure_environment_map(None)
    return server


def address_lines(server: viser.ViserServer) -> list[str]:
    """Where to look, also from another machine."""
    port = server.get_port()
    lines = [f"viewer: http://localhost:{port}"]
    if os.environ.get("SSH_CONNECTION"):
        lines.append(f"  on your own machine: ssh -L {port}:localhost:{port} {getpass.getuser()}@{socket.gethostname()}   then open that address")
    return lines


class Stage:
    """The splat in the scene of the server, with colours that follow the viewer, by a thread that works only while somebody looks."""

    def __init__(self, server: viser.ViserServer, up: np.ndarray) -> None:
        self.server = server
        self._lock = threading.Lock()
        self._splats: dict[str, Gaussians] = {}
        self._handles: dict[str, viser.GaussianSplatHandle] = {}
        self._eye: np.ndarray | None = None
        self._places: dict[str, tuple[float, float, float]] = {}
        self._closed = threading.Event()
        server.scene.set_up_direction(tuple(float(value) for value in up))
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    @property
    def watched(self) -> bool:
        """Whether a browser is open."""
        return bool(self.server.get_clients())

    def start_at(self, camtoworld: np.ndarray, distance: float, up: np.ndarray, fov: float) -> None:
        """Where every browser begins: at a pose (4, 4) in OpenCV axes, turning around the point `distance` in front of it."""
        first = self.server.initial_camera
        first.position = tuple(camtoworld[:3, 3])
        first.look_at = tuple(camtoworld[:3, 3] + distance * camtoworld[:3, 2])
        first.up = tuple(float(value) for value in up)
        first.fov = fov

    def show(self, name: str, gaussians: Gaussians, place: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> None:
        """Show, or replace, a splat; `place`: by how much it is moved."""
        what = shown(gaussians, None if self._eye is None else self._eye - np.asarray(place))
        with self._lock:
            self._splats[name], self._places[name] = gaussians, place
            handle = self._handles.get(name)
            if handle is None:
                path = f"/splats/{name}"
                self._handles[name] = self.server.scene.add_gaussian_splats(
                    path, what.centers, what.covariances, what.rgbs, what.opacities, position=place
                )
            else:
                handle.set_gaussians(what.centers, what.covariances, what.rgbs, what.opacities)
                handle.position = place

    def hide(self, name: str) -> None:
        """Take a splat away; nothing if it is not there."""
        with self._lock:
            handle = self._handles.pop(name, None)
            self._splats.pop(name, None)
            if handle is not None:
                handle.remove()

    def close(self) -> None:
        """End the thread and the server."""
        self._closed.set()
        self._thread.join(timeout=2)
        with contextlib.redirect_stdout(io.StringIO()):
            self.server.stop()

    def _follow(self) -> None:
        while not self._closed.wait(COLORS_EVERY):
            clients = list(self.server.get_clients().values())
            if not clients:
                continue
            try:
                latest = max(clients, key=lambda client: client.camera.update_timestamp)
                eye = np.array(latest.camera.position, np.float32)
            except (AssertionError, AttributeError, RuntimeError):  # a browser that has not said yet where it looks from, or has just been closed
                continue
            if self._eye is None or np.linalg.norm(eye - self._eye) > 0.01:
                self._eye = eye
                self._recolor()

    def _recolor(self) -> None:
        with self._lock:
            for name, gaussians in self._splats.items():
                what = shown(gaussians, self._eye - np.asarray(self._places[name]))
                self._handles[name].set_gaussians(what.centers, what.covariances, what.rgbs, what.opacities)


def add_cameras(server: viser.ViserServer, scene: Scene) -> list[viser.CameraFrustumHandle]:
    """A frustum with a thumbnail for every photo, held-out ones in orange, and a switch that shows them: who starts at a photo would stand in its."""
    spread = float(np.median(_nearest(scene.camtoworlds[:, :3, 3].numpy())))
    size = float(np.clip(0.3 * spread, 0.015, 0.08))
    held_out = set(scene.test_idx)
    handles = []
    for i in range(len(scene)):
        width, height = scene.size(i)
        pose = scene.camtoworlds[i].double().numpy()
        handle = server.scene.add_camera_frustum(
            f"/cameras/{i:05d}",
            fov=2 * math.atan(0.5 * height / float(scene.Ks[i, 1, 1])),
            aspect=width / height,
            scale=size,
            thickness=1.5,
            thickness_units="screen",
            color=HELD_OUT if i in held_out else TRAIN,
            image=thumbnail(scene, i, THUMBNAIL) if len(scene) <= MAX_THUMBNAILS else None,
            jpeg_quality=80,
            format="jpeg",
            wxyz=np.roll(Rotation.from_matrix(pose[:3, :3]).as_quat(), 1),
            position=pose[:3, 3],
            visible=False,
        )
        handles.append(handle)
    switch = server.gui.add_checkbox("cameras", False)

    @switch.on_update
    def _(_event: object) -> None:
        for handle in handles:
            handle.visible = switch.value

    return handles


def thumbnail(scene: Scene, i: int, long_side: int) -> np.ndarray:
    """(h, w, 3) uint8 of a photo."""
    picture = Image.fromarray(scene.images[i].numpy())
    picture.thumbnail((long_side, long_side))
    return np.asarray(picture)


def _nearest(centres: np.ndarray) -> np.ndarray:
    """(M,) distance of every camera to the next one."""
    gaps = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    np.fill_diagonal(gaps, np.inf)
    return gaps.min(axis=1)


def view_of(scene: Scene) -> tuple[np.ndarray, np.ndarray, float]:
    """(which way (3,) is up, pose (4, 4) of the photo that stands most in the middle, its vertical field of view in radians)."""
    poses = scene.camtoworlds.double().numpy()
    up = -poses[:, :3, 1].mean(axis=0)
    length = float(np.linalg.norm(up))
    up = up / length if length > 0.3 else np.array([0.0, -1.0, 0.0])
    centres = poses[:, :3, 3]
    i = int(np.linalg.norm(centres - np.median(centres, axis=0), axis=1).argmin())
    return up, poses[i], 2 * math.atan(0.5 * scene.size(i)[1] / float(scene.Ks[i, 1, 1]))

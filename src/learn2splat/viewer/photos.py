"""A photo, what the splat looks like from there, and the difference, one below the other beside the scene; a click on a camera chooses the photo."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..fitting import rendered
from ..gaussians import Gaussians
from ..scenes import Scene
from ..scenes.adapt import resized

if TYPE_CHECKING:
    import viser

LONG_SIDE = 320  # px
DIFFERENCE = 4  # a difference of a quarter is white


class PhotoPanel:
    """The held-out photos come first in the list: they say how good the splat is.

    Args:
        cameras: frusta of the photos, in their order.
    """

    def __init__(self, server: viser.ViserServer, scene: Scene, cameras: list[viser.CameraFrustumHandle]) -> None:
        self.server, self.scene = server, resized(scene, min(LONG_SIDE, max(max(scene.size(i)) for i in range(len(scene)))))
        self._gaussians: Gaussians | None = None
        held_out = set(scene.test_idx)
        order = dict.fromkeys([*scene.test_idx, *scene.train_idx])
        self._index = {f"{scene.image_names[i]}{', held out' if i in held_out else ''}": i for i in order}
        with server.gui.add_folder("Photo against render"):
            self._choice = server.gui.add_dropdown("photo", tuple(self._index), initial_value=next(iter(self._index)))
            self._go = server.gui.add_button("look from there")
            black = np.zeros((8, 8, 3), np.uint8)
            self._images = [server.gui.add_image(black, label=text, format="jpeg") for text in ("photo", "render", f"difference, {DIFFERENCE} times")]
        self._choice.on_update(lambda _: self.refresh())
        self._go.on_click(lambda event: self._look(event.client))
        names = {i: name for name, i in self._index.items()}
        for i, camera in enumerate(cameras):
            camera.on_click(lambda event, i=i: self._clicked(names[i], event.client))

    def update(self, gaussians: Gaussians) -> None:
        """Show this splat from now on."""
        self._gaussians = gaussians
        self.refresh()

    def refresh(self) -> None:
        """Render the chosen photo anew."""
        if self._gaussians is None:
            return
        pictures = compared(self.scene, self._gaussians, self._index[self._choice.value])
        for handle, picture in zip(self._images, pictures):
            handle.image = picture

    def _clicked(self, name: str, client: viser.ClientHandle) -> None:
        self._choice.value = name
        self.refresh()
        self._look(client)

    def _look(self, client: viser.ClientHandle | None) -> None:
        if client is None:
            return
        i = self._index[self._choice.value]
        pose = self.scene.camtoworlds[i].double().numpy()
        with client.atomic():
            client.camera.position = pose[:3, 3]
            client.camera.look_at = pose[:3, 3] + pose[:3, 2]
            client.camera.fov = 2 * math.atan(0.5 * self.scene.size(i)[1] / float(self.scene.Ks[i, 1, 1]))


@torch.no_grad()
def compared(scene: Scene, gaussians: Gaussians, i: int) -> list[np.ndarray]:
    """[photo, render, difference], each (H, W, 3) uint8."""
    _, render, photo = next(iter(rendered(scene, gaussians.detach(), [i])))
    difference = (DIFFERENCE * (render - photo).abs()).clamp(0, 1)
    return [(image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy() for image in (photo, render, difference)]

"""The world that a rule works in: frame and renderer. Ours are scale-free and do not care; weights of the official release do (docs/method.md
section 2): they were trained in the units of the files, with less blur added to every Gaussian."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import OptionError
from ..gaussians.record import Gaussians
from ..gaussians.transform import transform_gaussians
from ..scenes import Scene
from ..scenes.scene import EPS2D

FRAMES = ("normalised", "scene")
RELEASED_EPS2D = 1e-4


@dataclass(frozen=True)
class World:
    """`frame`: normalised (docs/conventions.md), or scene, that of the files. `eps2d`: px^2, as in `rasterize`."""

    frame: str = "normalised"
    eps2d: float = EPS2D

    def __post_init__(self) -> None:
        if self.frame not in FRAMES or not self.eps2d >= 0:
            raise OptionError(f"world_frame must be one of {', '.join(FRAMES)} and eps2d at least 0, got {self.frame!r} and {self.eps2d}")

    def scene(self, scene: Scene) -> Scene:
        """The same photos, points and cameras in this world."""
        moved = scene.in_input_frame() if self.frame == "scene" else scene
        return moved if moved.eps2d == self.eps2d else replace(moved, eps2d=self.eps2d)

    def splat(self, gaussians: Gaussians, scene: Scene) -> Gaussians:
        """`gaussians` of `scene` where `self.scene(scene)` has them."""
        return transform_gaussians(gaussians, scene.to_normalised.inverse()) if self.frame == "scene" else gaussians

    def check(self, scene: Scene) -> None:
        """
        Raises:
            OptionError: `scene` is of another world.
        """
        if (self.frame == "scene" and not scene.to_normalised.is_identity()) or scene.eps2d != self.eps2d:
            raise OptionError(
                f"these weights work in the frame of the files with eps2d {self.eps2d:g}: pass rule.world.scene(scene) and "
                "rule.world.splat(gaussians, scene), as learn2splat fit does"
                if self.frame == "scene"
                else f"the scene is rendered with eps2d {scene.eps2d:g} and these weights need {self.eps2d:g}: pass rule.world.scene(scene)"
            )

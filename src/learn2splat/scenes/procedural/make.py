"""`make_procedural_scene`: a scene made of nothing but a seed, for the demo, for tests and for meta-training.

What stands where: layouts.py, objects.py. Rendering: raycast.py, shapes.py, shadows.py, textures.py. Points: fake_sfm.py.
"""

from __future__ import annotations

from typing import Literal, overload

import numpy as np
import torch
from torch import Tensor

from ...errors import OptionError
from .._assemble import similarity_from_points
from .._photos import in_threads
from ..scene import Scene, every_nth_split
from .fake_sfm import sample_points
from .layouts import stage
from .raycast import View, render, trace

LAYOUTS = ("room", "orbit", "forward")
Layout = Literal["room", "orbit", "forward"]


@overload
def make_procedural_scene(
    seed: int = ..., *, layout: Layout = ..., num_views: int = ..., width: int = ..., height: int = ..., num_points: int = ...,
    test_every: int = ..., return_depth: Literal[False] = ...,
) -> Scene: ...  # fmt: skip
@overload
def make_procedural_scene(
    seed: int = ..., *, layout: Layout = ..., num_views: int = ..., width: int = ..., height: int = ..., num_points: int = ...,
    test_every: int = ..., return_depth: Literal[True],
) -> tuple[Scene, Tensor]: ...  # fmt: skip
def make_procedural_scene(
    seed: int = 0,
    *,
    layout: Layout = "room",
    num_views: int = 24,
    width: int = 192,
    height: int = 144,
    num_points: int = 3000,
    test_every: int = 8,
    return_depth: bool = False,
) -> Scene | tuple[Scene, Tensor]:
    """Textured, lit objects seen by posed cameras, with SfM-like points. The same seed gives the same bits on one machine.

    Args:
        seed: everything random comes from it.
        layout: "room", "orbit" or "forward" (layouts.py).
        width, height: px; the world does not depend on them, its texture detail and points do.
        num_points: at most so many; fewer come back where there is too little texture for them.
        test_every: as in `load_scene`.
        return_depth: also return (M, H, W) float32, the exact depth at pixel centres, world units of the normalised frame.
    """
    if layout not in LAYOUTS:
        raise OptionError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if num_views < 4 or width < 8 or height < 8 or num_points < 1 or test_every < 2:
        raise OptionError(
            "a procedural scene needs num_views >= 4, width and height >= 8, num_points >= 1 and test_every >= 2, "
            f"got {num_views}, {width} x {height}, {num_points} and {test_every}"
        )
    rng, points_rng = np.random.default_rng([seed, LAYOUTS.index(layout)]).spawn(2)
    texture_size = int(np.clip(2 ** np.ceil(np.log2(max(width, height))), 128, 512))
    staged = stage(layout, rng, num_views, texture_size)
    focal = 0.5 * max(width, height) / np.tan(np.radians(staged.fov) / 2)
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    photos, depths = zip(*in_threads(lambda pose: render(staged.world, pose, K, width, height), list(staged.camtoworlds)))
    sfm = sample_points(points_rng, np.stack(photos), np.stack(depths), staged.camtoworlds, K, num_points)
    to_normalised = similarity_from_points(sfm.points, sfm.seen_depths)
    train_idx, test_idx = every_nth_split(num_views, test_every)
    scene = Scene(
        name=f"procedural_{layout}_{seed}",
        image_names=tuple(f"{i:04d}.png" for i in range(num_views)),
        images=tuple(torch.from_numpy(photo) for photo in photos),
        camtoworlds=to_normalised.apply_poses(torch.from_numpy(staged.camtoworlds)).float(),
        Ks=torch.from_numpy(K).float().repeat(num_views, 1, 1),
        points=to_normalised.apply(torch.from_numpy(sfm.points)).float(),
        colors=torch.from_numpy(sfm.colors),
        train_idx=train_idx,
        test_idx=test_idx,
        to_normalised=to_normalised,
        background=torch.zeros(3),
    )
    if not return_depth:
        return scene
    exact = in_threads(lambda pose: trace(staged.world, View.of_pixels(pose, K, width, height, 1))[0], list(staged.camtoworlds))
    return scene, torch.from_numpy(np.stack(exact)) * to_normalised.scale

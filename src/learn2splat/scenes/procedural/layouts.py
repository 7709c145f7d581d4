"""What stands where in a procedural scene, and where the cameras are: three layouts after the scenes that people capture.

"room": furniture-like objects in a room, most cameras near the walls looking in (MegaSynth, arXiv:2412.14166, has the idea);
"orbit": objects on the ground under a sky, cameras around them at two heights (as in Mip-NeRF 360); "forward": objects staggered in depth,
cameras on a small patch in front of them (as in LLFF). Up is +z, lengths are roughly metres.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .objects import OBJECTS, Stage, scatter
from .raycast import World, first_depths
from .shadows import Light, cast_shadows
from .textures import make_atlas, make_backdrop

CLEARANCE = 0.15  # between a camera and any surface


@dataclass(frozen=True)
class Staged:
    """A world and the cameras in it: poses (M, 4, 4) camtoworlds, field of view in degrees along the image's longest side."""

    world: World
    camtoworlds: np.ndarray
    fov: float


def stage(layout: str, rng: np.random.Generator, num_views: int, texture_size: int) -> Staged:
    """Build the world of a layout ("room", "orbit" or "forward") and place `num_views` cameras."""
    scenery = Stage(rng, texture_size)
    return {"room": _room, "orbit": _orbit, "forward": _forward}[layout](scenery, rng, num_views)


# Surroundings ------------------------------------------------------------------------------------------------------------------------


def _light(rng: np.random.Generator, steepest: float) -> Light:
    """A sun at least `steepest` degrees above the horizon, slightly warm, and a sky that is slightly blue."""
    elevation, azimuth = np.radians(rng.uniform(steepest, 75)), rng.uniform(0, 2 * np.pi)
    direction = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    sun = rng.uniform(1.0, 1.7) * np.array([1.0, rng.uniform(0.88, 1.0), rng.uniform(0.75, 0.95)])
    sky = rng.uniform(0.25, 0.5) * np.array([rng.uniform(0.85, 1.0), 0.97, 1.0])
    floor = sky * rng.uniform(0.4, 0.7)
    return Light(direction, sun.astype(np.float32), sky.astype(np.float32), floor.astype(np.float32), softness=float(rng.uniform(0.02, 0.12)))


def _add_room(s: Stage, half: np.ndarray) -> None:
    """Floor at z = 0. Some walls are plain: SfM finds nothing there, in life as here."""
    walls = [s.texture(smooth=s.rng.random() < 0.5) for _ in range(2)]
    floor, ceiling = s.texture(printed=0), s.texture(smooth=True)
    faces = [walls[0], walls[int(s.rng.integers(2))], walls[1], walls[int(s.rng.integers(2))], floor, ceiling]
    s.add("box", [0, 0, half[2]], half, texture=faces, tile=2.0, shell=True, casts_shadow=False, gloss=0.0)
    for _ in range(int(s.rng.integers(3, 8))):  # pictures and shelves on the walls
        axis, sign = int(s.rng.integers(2)), s.rng.choice([-1, 1])
        size = s.rng.uniform([0.3, 0.3, 0.03], [0.9, 0.7, 0.25 if s.rng.random() < 0.3 else 0.06])
        center = np.array([0, 0, s.rng.uniform(0.45, 0.75) * 2 * half[2]])
        center[axis], center[1 - axis] = sign * half[axis], s.rng.uniform(-0.75, 0.75) * half[1 - axis]
        extent = np.array([size[0], size[0], size[1]])
        extent[axis] = size[2]
        s.add("box", center, extent)


def _add_outdoors(s: Stage, radius: float) -> None:
    """Ground inside a sky dome whose lower part is busy with bushes or facades."""
    ground, sky = s.texture(printed=0), s.texture(smooth=True)
    around = [s.texture(make_backdrop) for _ in range(2)]
    s.add("cylinder", [0, 0, -0.05], [radius, radius, 0.05], texture=ground, tile=s.rng.uniform(2, 4), casts_shadow=False, gloss=0.0)
    flags = {"shell": True, "emissive": True, "casts_shadow": False, "gloss": 0.0}
    faces = [around[0], around[1], around[1], around[0], sky, sky]
    s.add("ellipsoid", [0, 0, 0], [radius, radius, 0.6 * radius], texture=faces, tile=0.6 * radius, **flags)


def _look_at(position: np.ndarray, target: np.ndarray, roll: float) -> np.ndarray:
    """camtoworld (4, 4), OpenCV axes, with the world's +z up in the image but for `roll` radians."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1] = np.cos(roll) * right + np.sin(roll) * down, np.cos(roll) * down - np.sin(roll) * right
    pose[:3, 2], pose[:3, 3] = forward, position
    return pose


def _is_free(world: World, pose: np.ndarray, nearest: float) -> bool:
    """Whether a camera is outside every solid and most of its view is farther than `nearest`."""
    for primitive in world.primitives:
        local = primitive.rotation.T @ (pose[:3, 3] - primitive.center)
        if not primitive.shell and (np.abs(local) < primitive.half_sizes + CLEARANCE).all():
            return False
    depth = first_depths(world, pose, 8, 6)
    return float(np.quantile(depth, 0.2)) > nearest and depth.min() > 0.3 * nearest


def _place(world: World, count: int, draw: Callable[[int], np.ndarray], nearest: float) -> np.ndarray:
    """`draw(i)` for i in 0..count-1, drawn again (up to 30 times) while the camera is inside something or looks into it."""
    poses = []
    for i in range(count):
        for _ in range(30):
            pose = draw(i)
            if _is_free(world, pose, nearest):
                break
        poses.append(pose)
    return np.stack(poses)


# Layouts -----------------------------------------------------------------------------------------------------------------------------


def _finish(s: Stage, light: Light) -> World:
    return World(s.primitives, make_atlas(s.bitmaps), light, cast_shadows(s.primitives, light, 3 * s.size))


def _room(s: Stage, rng: np.random.Generator, num_views: int) -> Staged:
    half = rng.uniform([2.5, 2.5, 1.3], [4.0, 4.0, 1.8])
    _add_room(s, half)
    scatter(s, int(rng.integers(5, 10)), lambda: tuple(rng.uniform(-0.62, 0.62, 2) * half[:2]), (0.7, 1.5))
    world = _finish(s, replace(_light(rng, 50), softness=0.15))
    turn, arc = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.0) * 2 * np.pi

    def draw(i: int) -> np.ndarray:
        angle = turn + arc * (i + rng.uniform(-0.3, 0.3)) / num_views
        direction = np.array([np.cos(angle), np.sin(angle)])
        reach = np.min(half[:2] / np.maximum(np.abs(direction), 1e-6))  # to the wall
        out = rng.uniform(0.75, 0.9) if i % 4 else rng.uniform(0.35, 0.6)  # every fourth camera stands inside
        position = np.array([*(out * reach * direction), rng.uniform(0.45, 0.75) * 2 * half[2]])
        target = np.array([*(rng.uniform(-0.35, 0.35, 2) * half[:2]), rng.uniform(0.2, 0.8)])
        return _look_at(position, target, rng.normal(0, 0.03))

    return Staged(world, _place(world, num_views, draw, 0.8), rng.uniform(55, 70))


def _orbit(s: Stage, rng: np.random.Generator, num_views: int) -> Staged:
    _add_outdoors(s, rng.uniform(14, 24))
    reach = rng.uniform(1.2, 2.0)
    OBJECTS[int(rng.choice(5))](s, 0.0, 0.0, 0.0, rng.uniform(1.2, 2.0))  # the subject
    scatter(s, int(rng.integers(4, 9)), lambda: _on_ring(rng, 0.6 * reach, 1.4 * reach), (0.5, 1.1))
    scatter(s, int(rng.integers(3, 7)), lambda: _on_ring(rng, 4.2 * reach, 6 * reach), (1.2, 3.0))  # beyond the cameras
    world = _finish(s, _light(rng, 30))
    distance, heights = rng.uniform(1.9, 2.4) * reach, rng.uniform(0.35, 1.4, 2) * reach
    turn, arc = rng.uniform(0, 2 * np.pi), rng.choice([1.0, 1.0, 0.5]) * 2 * np.pi

    def draw(i: int) -> np.ndarray:
        angle = turn + arc * (i + rng.uniform(-0.2, 0.2)) / num_views
        position = np.array([distance * np.cos(angle), distance * np.sin(angle), heights[i % 2]]) * rng.uniform(0.93, 1.07)
        return _look_at(position, np.array([*rng.normal(0, 0.1, 2), 0.3 * reach]), rng.normal(0, 0.02))

    return Staged(world, _place(world, num_views, draw, 0.8), rng.uniform(45, 60))


def _on_ring(rng: np.random.Generator, inner: float, outer: float) -> tuple[float, float]:
    radius, angle = rng.uniform(inner, outer), rng.uniform(0, 2 * np.pi)
    return radius * np.cos(angle), radius * np.sin(angle)


def _forward(s: Stage, rng: np.random.Generator, num_views: int) -> Staged:
    """Cameras at y < 0 look along +y."""
    if rng.random() < 0.5:
        _add_room(s, np.array([rng.uniform(3.5, 5), rng.uniform(4.5, 6), rng.uniform(1.5, 2)]))
    else:
        _add_outdoors(s, rng.uniform(10, 18))
    scatter(s, int(rng.integers(7, 13)), lambda: (rng.uniform(-2.2, 2.2), rng.uniform(-1.2, 3.2)), (0.5, 1.3))
    world = _finish(s, _light(rng, 40))
    patch, distance = rng.uniform([0.35, 0.2], [0.8, 0.45]), rng.uniform(2.6, 3.4)
    columns = int(np.ceil(np.sqrt(1.6 * num_views)))
    rows = -(-num_views // columns)
    target = np.array([0, rng.uniform(0.5, 2.0), rng.uniform(0.3, 0.6)])
    height = rng.uniform(0.7, 1.2)

    def draw(i: int) -> np.ndarray:
        across = ((i % columns) + rng.uniform(0.2, 0.8)) / columns * 2 - 1
        above = ((i // columns) + rng.uniform(0.2, 0.8)) / rows * 2 - 1
        position = np.array([across * patch[0], -distance + rng.normal(0, 0.1), height + above * patch[1]])
        return _look_at(position, target + rng.normal(0, 0.15, 3) * [1, 0, 0.5], rng.normal(0, 0.02))

    return Staged(world, _place(world, num_views, draw, 0.8), rng.uniform(45, 60))

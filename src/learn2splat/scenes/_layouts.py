"""What stands where in a procedural scene, and where the cameras are: three layouts after the scenes that people capture.

"room": furniture-like objects in a room, most cameras near the walls looking in (MegaSynth, arXiv:2412.14166, has the idea);
"orbit": objects on the ground under a sky, cameras around them at two heights (as in Mip-NeRF 360); "forward": objects staggered in depth,
cameras on a small patch in front of them (as in LLFF). Up is +z, lengths are roughly metres.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ._raycast import World, first_depths
from ._shadows import Light, cast_shadows
from ._shapes import Primitive
from ._textures import make_atlas, make_backdrop, make_texture

NUM_TEXTURES = 12
CLEARANCE = 0.15  # between a camera and any surface


@dataclass(frozen=True)
class Staged:
    """A world and the cameras in it: poses (M, 4, 4) camtoworlds, field of view in degrees along the image's longest side."""

    world: World
    camtoworlds: np.ndarray
    fov: float


class _Stage:
    """Collects primitives; textures 0..NUM_TEXTURES-1 are for objects, the rest are added by `texture`.

    Each texture has its own generator: larger ones draw more numbers, and the world must not depend on the resolution.
    """

    def __init__(self, rng: np.random.Generator, texture_size: int):
        self.rng, self.size = rng, texture_size
        self.bitmaps: list[np.ndarray] = []
        self.primitives: list[Primitive] = []
        for _ in range(NUM_TEXTURES):
            self.texture()

    def texture(self, kind: Callable[..., np.ndarray] = make_texture, **options) -> int:
        """Draw another texture; returns its id."""
        self.bitmaps.append(kind(self.rng.spawn(1)[0], self.size, **options))
        return len(self.bitmaps) - 1

    def add(self, kind: str, center, half_sizes, rotation=None, *, texture: int | None = None, tile: float | None = None, **flags) -> None:
        """One primitive with a random object texture unless told otherwise."""
        texture = int(self.rng.integers(NUM_TEXTURES)) if texture is None else texture
        gloss = float(self.rng.uniform(0.1, 0.5)) if self.rng.random() < 0.2 else 0.0
        self.primitives.append(
            Primitive(
                kind,
                np.asarray(center, np.float64),
                np.asarray(half_sizes, np.float64),
                np.eye(3) if rotation is None else rotation,
                np.broadcast_to(np.asarray(texture, np.int32), 6),
                tile=float(np.exp(self.rng.uniform(np.log(0.4), np.log(1.6)))) if tile is None else tile,
                **{"gloss": gloss, **flags},
            )
        )


def stage(layout: str, rng: np.random.Generator, num_views: int, texture_size: int) -> Staged:
    """Build the world of a layout ("room", "orbit" or "forward") and place `num_views` cameras."""
    scenery = _Stage(rng, texture_size)
    return {"room": _room, "orbit": _orbit, "forward": _forward}[layout](scenery, rng, num_views)


# Objects -----------------------------------------------------------------------------------------------------------------------------


def _yaw(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def _random_rotation(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def _stack(s: _Stage, x: float, y: float, z: float, size: float) -> None:
    """One to three boxes, each turned a little, a ball on top now and then."""
    for level in range(int(s.rng.integers(1, 4))):
        half = size * s.rng.uniform([0.25, 0.25, 0.12], [0.55, 0.55, 0.35]) * 0.85**level
        s.add("box", [x, y, z + half[2]], half, _yaw(s.rng.uniform(0, np.pi)))
        z += 2 * half[2]
    if s.rng.random() < 0.5:
        radius = size * s.rng.uniform(0.12, 0.25)
        s.add("ellipsoid", [x, y, z + radius], [radius] * 3)


def _bottle(s: _Stage, x: float, y: float, z: float, size: float) -> None:
    radius, height = size * s.rng.uniform(0.12, 0.3), size * s.rng.uniform(0.3, 0.6)
    texture = int(s.rng.integers(NUM_TEXTURES))
    s.add("cylinder", [x, y, z + height], [radius, radius, height], texture=texture)
    s.add("ellipsoid", [x, y, z + 2 * height], [radius, radius, 0.6 * radius], texture=texture)
    s.add("cylinder", [x, y, z + 2.3 * height], [0.3 * radius, 0.3 * radius, 0.35 * height])


def _table(s: _Stage, x: float, y: float, z: float, size: float) -> None:
    half, height, turn = size * s.rng.uniform([0.5, 0.4, 0.03], [0.8, 0.6, 0.06]), size * s.rng.uniform(0.5, 0.8), _yaw(s.rng.uniform(0, np.pi))
    texture, leg = int(s.rng.integers(NUM_TEXTURES)), 0.05 * size
    s.add("box", [x, y, z + height], half, turn, texture=texture)
    for a, b in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        foot = np.array([x, y, z + height / 2]) + turn @ [a * (half[0] - leg), b * (half[1] - leg), 0]
        s.add("cylinder", foot, [leg, leg, height / 2], texture=texture)
    small = _OBJECTS[int(s.rng.integers(2))]
    small(s, x, y, z + height + half[2], 0.5 * size)


def _plant(s: _Stage, x: float, y: float, z: float, size: float) -> None:
    pot, trunk = size * s.rng.uniform(0.15, 0.25), size * s.rng.uniform(0.3, 0.5)
    s.add("cylinder", [x, y, z + 0.8 * pot], [pot, pot, 0.8 * pot])
    s.add("cylinder", [x, y, z + 1.6 * pot + trunk], [0.12 * pot, 0.12 * pot, trunk])
    leaf = int(s.rng.integers(NUM_TEXTURES))
    for _ in range(int(s.rng.integers(5, 9))):
        offset = s.rng.normal(size=3) * [0.2, 0.2, 0.15] * size
        center = np.array([x, y, z + 1.6 * pot + 2 * trunk]) + offset
        s.add("ellipsoid", center, size * s.rng.uniform(0.05, 0.22, 3), _random_rotation(s.rng), texture=leaf)


def _union(s: _Stage, x: float, y: float, z: float, size: float) -> None:
    """MegaSynth's recipe: two to six shapes of any orientation that overlap."""
    for _ in range(int(s.rng.integers(2, 7))):
        half = size * np.exp(s.rng.uniform(np.log(0.08), np.log(0.4), 3))
        center = np.array([x, y, z]) + s.rng.uniform([-0.3, -0.3, 0.05], [0.3, 0.3, 0.6]) * size
        s.add(str(s.rng.choice(["ellipsoid", "box", "cylinder"])), center, half, _random_rotation(s.rng))


def _frame_of_sticks(s: _Stage, x: float, y: float, z: float, size: float) -> None:
    """A wire cube: thin structures, seen through."""
    half, turn, thin = size * s.rng.uniform(0.25, 0.5, 3), _yaw(s.rng.uniform(0, np.pi)), size * s.rng.uniform(0.015, 0.04)
    texture, middle = int(s.rng.integers(NUM_TEXTURES)), np.array([x, y, z + half[2]])
    axes = np.eye(3)
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        upright = np.stack([axes[others[0]], axes[others[1]], axes[axis]], axis=1)
        upright[:, 0] *= np.sign(np.linalg.det(upright))
        for a, b in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            offset = a * half[others[0]] * axes[others[0]] + b * half[others[1]] * axes[others[1]]
            s.add("cylinder", middle + turn @ offset, [thin, thin, half[axis]], turn @ upright, texture=texture)


_OBJECTS: tuple[Callable[[_Stage, float, float, float, float], None], ...] = (_stack, _bottle, _table, _plant, _union, _frame_of_sticks)
_OBJECT_ODDS = (0.27, 0.16, 0.17, 0.15, 0.19, 0.06)


def _scatter(s: _Stage, count: int, draw_place: Callable[[], tuple[float, float]], sizes: tuple[float, float]) -> None:
    """Up to `count` objects on the ground that keep their distance."""
    placed: list[tuple[float, float, float]] = []
    for _ in range(10 * count):
        (x, y), size = draw_place(), s.rng.uniform(*sizes)
        if len(placed) < count and all(np.hypot(x - a, y - b) > 0.55 * (size + other) for a, b, other in placed):
            placed.append((x, y, size))
            _OBJECTS[int(s.rng.choice(len(_OBJECTS), p=_OBJECT_ODDS))](s, x, y, 0.0, size)


# Surroundings ------------------------------------------------------------------------------------------------------------------------


def _light(rng: np.random.Generator, steepest: float) -> Light:
    """A sun at least `steepest` degrees above the horizon, slightly warm, and a sky that is slightly blue."""
    elevation, azimuth = np.radians(rng.uniform(steepest, 75)), rng.uniform(0, 2 * np.pi)
    direction = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    sun = rng.uniform(1.0, 1.7) * np.array([1.0, rng.uniform(0.88, 1.0), rng.uniform(0.75, 0.95)])
    sky = rng.uniform(0.25, 0.5) * np.array([rng.uniform(0.85, 1.0), 0.97, 1.0])
    floor = sky * rng.uniform(0.4, 0.7)
    return Light(direction, sun.astype(np.float32), sky.astype(np.float32), floor.astype(np.float32), softness=float(rng.uniform(0.02, 0.12)))


def _add_room(s: _Stage, half: np.ndarray) -> None:
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


def _add_outdoors(s: _Stage, radius: float) -> None:
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


def _finish(s: _Stage, light: Light) -> World:
    return World(s.primitives, make_atlas(s.bitmaps), light, cast_shadows(s.primitives, light, 3 * s.size))


def _room(s: _Stage, rng: np.random.Generator, num_views: int) -> Staged:
    half = rng.uniform([2.5, 2.5, 1.3], [4.0, 4.0, 1.8])
    _add_room(s, half)
    _scatter(s, int(rng.integers(5, 10)), lambda: tuple(rng.uniform(-0.62, 0.62, 2) * half[:2]), (0.7, 1.5))
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


def _orbit(s: _Stage, rng: np.random.Generator, num_views: int) -> Staged:
    _add_outdoors(s, rng.uniform(14, 24))
    reach = rng.uniform(1.2, 2.0)
    _OBJECTS[int(rng.choice(5))](s, 0.0, 0.0, 0.0, rng.uniform(1.2, 2.0))  # the subject
    _scatter(s, int(rng.integers(4, 9)), lambda: _on_ring(rng, 0.6 * reach, 1.4 * reach), (0.5, 1.1))
    _scatter(s, int(rng.integers(3, 7)), lambda: _on_ring(rng, 4.2 * reach, 6 * reach), (1.2, 3.0))  # beyond the cameras
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


def _forward(s: _Stage, rng: np.random.Generator, num_views: int) -> Staged:
    """Cameras at y < 0 look along +y."""
    if rng.random() < 0.5:
        _add_room(s, np.array([rng.uniform(3.5, 5), rng.uniform(4.5, 6), rng.uniform(1.5, 2)]))
    else:
        _add_outdoors(s, rng.uniform(10, 18))
    _scatter(s, int(rng.integers(7, 13)), lambda: (rng.uniform(-2.2, 2.2), rng.uniform(-1.2, 3.2)), (0.5, 1.3))
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

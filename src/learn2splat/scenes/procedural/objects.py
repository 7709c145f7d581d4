"""What stands in procedural scenes: furniture-like objects made of primitives, each with its own size, turn and texture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .shapes import Primitive
from .textures import make_texture

NUM_TEXTURES = 12


class Stage:
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


def _yaw(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def _stack(s: Stage, x: float, y: float, z: float, size: float) -> None:
    """One to three boxes, each turned a little, a ball on top now and then."""
    for level in range(int(s.rng.integers(1, 4))):
        half = size * s.rng.uniform([0.25, 0.25, 0.12], [0.55, 0.55, 0.35]) * 0.85**level
        s.add("box", [x, y, z + half[2]], half, _yaw(s.rng.uniform(0, np.pi)))
        z += 2 * half[2]
    if s.rng.random() < 0.5:
        radius = size * s.rng.uniform(0.12, 0.25)
        s.add("ellipsoid", [x, y, z + radius], [radius] * 3)


def _bottle(s: Stage, x: float, y: float, z: float, size: float) -> None:
    radius, height = size * s.rng.uniform(0.12, 0.3), size * s.rng.uniform(0.3, 0.6)
    texture = int(s.rng.integers(NUM_TEXTURES))
    s.add("cylinder", [x, y, z + height], [radius, radius, height], texture=texture)
    s.add("ellipsoid", [x, y, z + 2 * height], [radius, radius, 0.6 * radius], texture=texture)
    s.add("cylinder", [x, y, z + 2.3 * height], [0.3 * radius, 0.3 * radius, 0.35 * height])


def _table(s: Stage, x: float, y: float, z: float, size: float) -> None:
    half, height, turn = size * s.rng.uniform([0.5, 0.4, 0.03], [0.8, 0.6, 0.06]), size * s.rng.uniform(0.5, 0.8), _yaw(s.rng.uniform(0, np.pi))
    texture, leg = int(s.rng.integers(NUM_TEXTURES)), 0.05 * size
    s.add("box", [x, y, z + height], half, turn, texture=texture)
    for a, b in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        foot = np.array([x, y, z + height / 2]) + turn @ [a * (half[0] - leg), b * (half[1] - leg), 0]
        s.add("cylinder", foot, [leg, leg, height / 2], texture=texture)
    small = OBJECTS[int(s.rng.integers(2))]
    small(s, x, y, z + height + half[2], 0.5 * size)


def _plant(s: Stage, x: float, y: float, z: float, size: float) -> None:
    pot, trunk = size * s.rng.uniform(0.15, 0.25), size * s.rng.uniform(0.3, 0.5)
    s.add("cylinder", [x, y, z + 0.8 * pot], [pot, pot, 0.8 * pot])
    s.add("cylinder", [x, y, z + 1.6 * pot + trunk], [0.12 * pot, 0.12 * pot, trunk])
    leaf = int(s.rng.integers(NUM_TEXTURES))
    for _ in range(int(s.rng.integers(5, 9))):
        offset = s.rng.normal(size=3) * [0.2, 0.2, 0.15] * size
        center = np.array([x, y, z + 1.6 * pot + 2 * trunk]) + offset
        s.add("ellipsoid", center, size * s.rng.uniform(0.05, 0.22, 3), random_rotation(s.rng), texture=leaf)


def _union(s: Stage, x: float, y: float, z: float, size: float) -> None:
    """MegaSynth's recipe: two to six shapes of any orientation that overlap."""
    for _ in range(int(s.rng.integers(2, 7))):
        half = size * np.exp(s.rng.uniform(np.log(0.08), np.log(0.4), 3))
        center = np.array([x, y, z]) + s.rng.uniform([-0.3, -0.3, 0.05], [0.3, 0.3, 0.6]) * size
        s.add(str(s.rng.choice(["ellipsoid", "box", "cylinder"])), center, half, random_rotation(s.rng))


def _frame_of_sticks(s: Stage, x: float, y: float, z: float, size: float) -> None:
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


OBJECTS: tuple[Callable[[Stage, float, float, float, float], None], ...] = (_stack, _bottle, _table, _plant, _union, _frame_of_sticks)
_OBJECT_ODDS = (0.27, 0.16, 0.17, 0.15, 0.19, 0.06)


def scatter(s: Stage, count: int, draw_place: Callable[[], tuple[float, float]], sizes: tuple[float, float]) -> None:
    """Up to `count` objects on the ground that keep their distance."""
    placed: list[tuple[float, float, float]] = []
    for _ in range(10 * count):
        (x, y), size = draw_place(), s.rng.uniform(*sizes)
        if len(placed) < count and all(np.hypot(x - a, y - b) > 0.55 * (size + other) for a, b, other in placed):
            placed.append((x, y, size))
            OBJECTS[int(s.rng.choice(len(OBJECTS), p=_OBJECT_ODDS))](s, x, y, 0.0, size)

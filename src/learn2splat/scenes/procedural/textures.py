"""Procedural textures: tileable bitmaps with a palette, a pattern and fine detail, and their mip pyramids in one atlas.

Bitmaps rather than formulas evaluated per ray, because a look-up costs the same for every pattern and a pyramid removes aliasing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Field = np.ndarray  # (S, S) float32 in [0, 1], tileable


@dataclass(frozen=True)
class Atlas:
    """All textures of a scene with their mip levels, flat, so that one gather reads any texel.

    Attributes:
        texels: (T * L,) uint32, red in the lowest byte; L texels per texture, level 0 first.
        size: px of level 0 (a power of two). One tile of level 0 covers one unit of u and of v.
        offsets: start of each level within the L texels of a texture.
    """

    texels: np.ndarray
    size: int
    offsets: np.ndarray

    def lookup(self, texture_ids: np.ndarray, u: np.ndarray, v: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        """Linear albedo (3, n) float32 at tile coordinates (u, v), from the level whose texel is about as large as `footprint` (tiles)."""
        level = np.log2(np.maximum(footprint * self.size, 1)).astype(np.int32)
        np.minimum(level, len(self.offsets) - 1, out=level)
        size = np.right_shift(np.int32(self.size), level)
        column = ((u - np.floor(u)) * size).astype(np.int32) & (size - 1)  # the mask: u just below 1 rounds up to `size`
        row = ((v - np.floor(v)) * size).astype(np.int32) & (size - 1)
        per_texture = len(self.texels) // self.count
        texel = self.texels[texture_ids * per_texture + self.offsets[level] + row * size + column]
        srgb = np.stack([(texel >> shift & 255).astype(np.float32) for shift in (0, 8, 16)]) * np.float32(1 / 255)
        return srgb * srgb  # gamma 2: close to sRGB, and its inverse is a square root

    @property
    def count(self) -> int:
        """Number of textures."""
        return len(self.texels) // int(sum((self.size >> level) ** 2 for level in range(len(self.offsets))))


def make_atlas(bitmaps: list[np.ndarray]) -> Atlas:
    """Pyramids (2 x 2 means) of square bitmaps (S, S, 3) float32 in [0, 1]."""
    size = bitmaps[0].shape[0]
    levels = int(np.log2(size)) + 1
    stack, chunks = np.stack(bitmaps), []
    for _ in range(levels):
        rgb = (stack * 255 + 0.5).astype(np.uint32)
        chunks.append((rgb[..., 0] | rgb[..., 1] << 8 | rgb[..., 2] << 16).reshape(len(bitmaps), -1))
        if len(chunks) < levels:
            stack = 0.25 * (stack[:, ::2, ::2] + stack[:, 1::2, ::2] + stack[:, ::2, 1::2] + stack[:, 1::2, 1::2])
    offsets = np.cumsum([0, *(chunk.shape[1] for chunk in chunks[:-1])]).astype(np.int32)
    return Atlas(np.concatenate(chunks, axis=1).reshape(-1), size, offsets)


def make_texture(rng: np.random.Generator, size: int, *, smooth: bool = False, printed: float = 0.2) -> np.ndarray:
    """A random tileable texture (size, size, 3) float32 in [0, 1]; `smooth` ones have hardly any detail (painted walls).

    `printed`: how likely it is a poster or a page.
    """
    palette = _palette(rng)
    if smooth:
        field = _fbm(rng, size, 2, 2)
        return np.clip(palette[0] * (0.94 + 0.12 * field[..., None]), 0, 1).astype(np.float32)
    if rng.random() < printed:
        image = _print(rng, size, palette)
    else:
        first, second = rng.choice(len(_PATTERNS), 2, replace=False)
        field, mask = _PATTERNS[first](rng, size), _PATTERNS[second](rng, size)
        image = palette[0] + (palette[1] - palette[0]) * field[..., None]
        amount = rng.uniform(0.0, 0.8) * mask[..., None]
        image = image + (palette[2] - image) * amount
    grain = _fbm(rng, size, 32, 2) - 0.5  # fine detail: what gradients and SfM points live on
    broad = _fbm(rng, size, 4, 3) - 0.5
    contrast = 1 + rng.uniform(0.1, 0.7) * grain + rng.uniform(0.1, 0.5) * broad
    return np.clip(image * contrast[..., None], 0, 1).astype(np.float32)


def make_backdrop(rng: np.random.Generator, size: int) -> np.ndarray:
    """Bushes, facades or clouds for far surroundings: noise at every scale."""
    palette = _palette(rng)
    field = _fbm(rng, size, 4, 5)
    field = np.clip(3 * (field - 0.5) + 0.5, 0, 1)
    image = palette[0] + (palette[1] - palette[0]) * field[..., None]
    image = image + (palette[2] - image) * np.clip(8 * (_fbm(rng, size, 16, 3)[..., None] - 0.55), 0, 0.6)
    return np.clip(image, 0, 1).astype(np.float32)


def _palette(rng: np.random.Generator) -> np.ndarray:
    """Three colours (3, 3) float32 that go together: neighbouring hues or a complement, of different brightness."""
    hue = rng.random() + np.array([0.0, rng.normal(0, 0.08), rng.choice([0.5, 0.1])])
    saturation = rng.beta(1.6, 3.2, 3)
    value = rng.permutation([rng.uniform(0.15, 0.45), rng.uniform(0.45, 0.75), rng.uniform(0.75, 0.98)])
    phase = (hue[:, None] * 6 + np.array([5, 3, 1])) % 6  # HSV to RGB in closed form
    return (value[:, None] * (1 - saturation[:, None] * np.clip(np.minimum(phase, 4 - phase), 0, 1))).astype(np.float32)


def _axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Tile coordinates u (1, S) and v (S, 1) of the texel centres."""
    u = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return u[None, :], u[:, None]


def _fbm(rng: np.random.Generator, size: int, cells: int, octaves: int) -> Field:
    """Periodic value noise: random grids of `cells`, 2 * `cells` ... per tile, smoothly interpolated, amplitudes halved; mean 0.5."""
    total, norm = np.zeros((size, size), np.float32), 0.0
    for octave in range(octaves):
        n = min(cells << octave, size)
        position = np.arange(size, dtype=np.float32) * (n / size)
        low = position.astype(np.int64)
        weight = position - low
        weight = (weight * weight * (3 - 2 * weight))[:, None]
        grid = np.float32(0.5**octave) * rng.random((n, n), dtype=np.float32)
        for _ in range(2):  # along the rows, transposed, and along the rows again; gathering rows copies memory in runs
            grid = grid[low] * (1 - weight) + grid[(low + 1) % n] * weight
            grid = np.ascontiguousarray(grid.T)
        total += grid
        norm += 0.5**octave
    return total / norm


def _checker(rng: np.random.Generator, size: int) -> Field:
    u, v = _axes(size)
    n = 2 * int(rng.integers(2, 9))
    return ((np.floor(u * n) + np.floor(v * n)) % 2).astype(np.float32)


def _stripes(rng: np.random.Generator, size: int) -> Field:
    u, v = _axes(size)
    nu, nv = rng.integers(-12, 13, 2)
    wave = np.sin(2 * np.pi * ((nu or 6) * u + nv * v)).astype(np.float32)
    return np.clip(0.5 + wave * rng.choice([0.5, 4.0]), 0, 1).astype(np.float32)


def _noise(rng: np.random.Generator, size: int) -> Field:
    return np.clip((_fbm(rng, size, int(rng.choice([4, 8, 16])), 4) - 0.5) * rng.uniform(1.5, 5) + 0.5, 0, 1)


def _marble(rng: np.random.Generator, size: int) -> Field:
    u, v = _axes(size)
    nu, nv = rng.integers(1, 7, 2)
    return 0.5 + 0.5 * np.sin(2 * np.pi * (nu * u + nv * v + rng.uniform(0.5, 3) * _fbm(rng, size, 4, 4)), dtype=np.float32)


def _dots(rng: np.random.Generator, size: int) -> Field:
    u, v = _axes(size)
    n = int(rng.integers(3, 12))
    cell_u, cell_v = (u * n).astype(np.int64), (v * n).astype(np.int64)
    shift, radius = rng.uniform(-0.2, 0.2, (2, n, n)).astype(np.float32), rng.uniform(0.1, 0.3, (n, n)).astype(np.float32)
    du, dv = u * n % 1 - 0.5 - shift[0][cell_v, cell_u], v * n % 1 - 0.5 - shift[1][cell_v, cell_u]
    return (du * du + dv * dv < radius[cell_v, cell_u] ** 2).astype(np.float32)


def _bricks(rng: np.random.Generator, size: int) -> Field:
    u, v = _axes(size)
    rows, columns = 2 * int(rng.integers(3, 8)), int(rng.integers(2, 6))
    row = (v * rows).astype(np.int64)
    along = u * columns + 0.5 * (row % 2)
    tone = rng.uniform(0.3, 1, (rows, columns)).astype(np.float32)[row, along.astype(np.int64) % columns]
    mortar = (along % 1 < 0.06) | (v * rows % 1 < 0.12)
    return np.where(mortar, np.float32(0), tone)


def _print(rng: np.random.Generator, size: int, palette: np.ndarray) -> np.ndarray:
    """A poster or a page: rectangles in the palette's colours and rows of short dark marks."""
    image = np.broadcast_to(palette[np.argmax(palette.sum(1))], (size, size, 3)).copy()
    for _ in range(int(rng.integers(5, 25))):
        row, column = rng.integers(0, size, 2)
        height, width = rng.integers(size // 32, size // 4, 2)
        image[row : row + height, column : column + width] = palette[rng.integers(3)] * rng.uniform(0.6, 1.1)
    line = max(2, size // 64)
    for row in range(int(rng.integers(line, 6 * line)), size - line, int(rng.integers(3, 7)) * line):
        marks = np.repeat(rng.random(size // line) < 0.55, line)[:size]
        image[row : row + line, : len(marks)][:, marks] *= 0.25
    return image


_PATTERNS: tuple[Callable[[np.random.Generator, int], Field], ...] = (_checker, _stripes, _noise, _noise, _marble, _dots, _bricks)

"""The shapes of procedural scenes, and where rays meet them.

A primitive is the image of a unit shape (sphere, cube, cylinder) in [-1, 1]^3 under `x_world = rotation @ (half_sizes * x_local) + center`.
All three are convex, so a ray meets each in one interval [near, far]: a solid is hit at `near`, a shell (room, sky), seen from inside, at `far`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

CORNERS = np.array(np.meshgrid([-1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0])).reshape(3, 8)  # of the cube that every unit shape touches


@dataclass(frozen=True)
class Primitive:
    """One shape.

    Attributes:
        kind: "ellipsoid", "box" or "cylinder" (axis: local z).
        center: (3,) world units.
        half_sizes: (3,) world units.
        rotation: (3, 3), world from local.
        texture_ids: six, one per face (-x +x -y +y -z +z); round shapes take the face that their local position points at most.
        tile: world units per texture tile.
        gloss: strength of the highlight, 0 to 1.
        shell: seen from inside.
        emissive: not lit (the sky).
        casts_shadow: false for what has everything else inside or above it.
    """

    kind: str
    center: np.ndarray
    half_sizes: np.ndarray
    rotation: np.ndarray
    texture_ids: np.ndarray
    tile: float
    gloss: float = 0.0
    shell: bool = False
    emissive: bool = False
    casts_shadow: bool = True

    @cached_property
    def local_from_world(self) -> np.ndarray:
        """(3, 3) float64, for directions; points are shifted by `center` first."""
        return self.rotation.T / self.half_sizes[:, None]


def interval(kind: str, origin: Sequence[np.ndarray], direction: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """[near, far] of rays in a unit shape's local coordinates (three arrays each, broadcast); near > far or NaN where they miss it."""
    x, y, z = origin
    dx, dy, dz = direction
    with np.errstate(all="ignore"):  # rays parallel to a face divide by zero, misses take roots of negative numbers
        if kind == "ellipsoid":
            inverse_a = 1 / (dx * dx + dy * dy + dz * dz)
            half_b = (x * dx + y * dy + z * dz) * inverse_a
            root = np.sqrt(half_b * half_b - (x * x + y * y + z * z - 1) * inverse_a)
            return -half_b - root, root - half_b
        inverse = 1 / dz
        middle, reach = -z * inverse, np.abs(inverse)
        near, far = middle - reach, middle + reach
        if kind == "box":
            for o, d in ((x, dx), (y, dy)):
                inverse = 1 / d
                middle, reach = -o * inverse, np.abs(inverse)
                near, far = np.maximum(near, middle - reach), np.minimum(far, middle + reach)
            return near, far
        inverse_a = 1 / (dx * dx + dy * dy)
        half_b = (x * dx + y * dy) * inverse_a
        root = np.sqrt(half_b * half_b - (x * x + y * y - 1) * inverse_a)
        return np.maximum(near, -half_b - root), np.minimum(far, root - half_b)


def transform(matrix: np.ndarray, xyz: np.ndarray, shift: np.ndarray | None = None) -> np.ndarray:
    """`matrix @ xyz + shift` for (R, 3), (3, n) and (R,), in float32. Not `@`: BLAS would start its own threads inside ours (3 x the time)."""
    matrix, shift = matrix.astype(np.float32), np.zeros(len(matrix), np.float32) if shift is None else shift.astype(np.float32)
    out = np.empty((len(matrix), xyz.shape[1]), np.float32)
    for row, (a, b, c), offset in zip(out, matrix, shift):
        np.multiply(a, xyz[0], out=row)
        row += b * xyz[1]
        row += c * xyz[2]
        row += offset
    return out

"""An analytic ray caster for ellipsoids, boxes and cylinders: primary rays, soft shadows of a sun, textures, a little gloss.

A primitive is the image of a unit shape (sphere, cube, cylinder) in [-1, 1]^3 under `x_world = rotation @ (half_sizes * x_local) + center`.
All three are convex, so a ray meets each in one interval [near, far]: a solid is hit at `near`, a shell (room, sky), seen from inside, at `far`.
Rays are `origin + depth * direction` with the direction's camera z equal to 1, so the ray parameter is the depth. numpy float32 throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ._textures import Atlas

SUPERSAMPLING = 2  # rays per pixel and axis
NEAREST = 1e-3  # world units; hits before it do not count
_CULL_MARGIN = 2  # samples around a primitive's projected box
_SHININESS = 40
_SUN_POSITIONS = ((-0.5, -0.25), (0.25, -0.5), (0.5, 0.25), (-0.25, 0.5))  # one per sample of a pixel: a rotated grid on the sun's disc
_CORNERS = np.array(np.meshgrid([-1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0])).reshape(3, 8)


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


@dataclass(frozen=True)
class Light:
    """A sun, and what shines from above and below: linear RGB (3,) float32 each; `direction` (3,) float64 towards the sun, unit."""

    direction: np.ndarray
    sun: np.ndarray
    sky: np.ndarray
    floor: np.ndarray
    softness: float  # radians: half-width of the sun


@dataclass(frozen=True)
class World:
    """What is rendered; up is +z."""

    primitives: list[Primitive]
    atlas: Atlas
    light: Light
    shadows: Shadows


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


@dataclass(frozen=True)
class View:
    """A grid of samples of a pinhole camera.

    Attributes:
        camtoworld: (4, 4) float64.
        x, y: (W',), (H',) float32: directions of the columns and rows at camera z = 1.
        spacing: distance between neighbouring samples at z = 1.
    """

    camtoworld: np.ndarray
    x: np.ndarray
    y: np.ndarray
    spacing: float

    @classmethod
    def of_pixels(cls, camtoworld: np.ndarray, K: np.ndarray, width: int, height: int, samples: int) -> View:
        """samples x samples evenly spaced rays per pixel; 1: through pixel centres."""
        x = ((np.arange(width * samples) + 0.5) / samples - K[0, 2]) / K[0, 0]
        y = ((np.arange(height * samples) + 0.5) / samples - K[1, 2]) / K[1, 1]
        return cls(camtoworld, x.astype(np.float32), y.astype(np.float32), 1 / (samples * K[0, 0]))


def trace(world: World, view: View) -> tuple[np.ndarray, np.ndarray]:
    """(depth (H', W') float32, inf where nothing is hit; index of the primitive that is hit (H', W') uint8, 255 likewise)."""
    depth = np.full((len(view.y), len(view.x)), np.inf, np.float32)
    owner = np.full(depth.shape, 255, np.uint8)
    for k, (primitive, window) in enumerate(zip(world.primitives, _windows(world, view))):
        if window is None:
            continue
        rows, columns = window
        to_local = primitive.local_from_world
        origin = (to_local @ (view.camtoworld[:3, 3] - primitive.center)).astype(np.float32)
        # A direction is linear in the column and the row, so its local coordinates are outer sums: no matrix product per ray.
        slopes = (to_local @ view.camtoworld[:3, :3]).astype(np.float32)
        near, far = interval(primitive.kind, origin, [a * view.x[columns] + (b * view.y[rows] + c)[:, None] for a, b, c in slopes])
        hit = far if primitive.shell else near
        before = depth[rows, columns]
        closer = (near <= far) & (hit > NEAREST) & (hit < before)
        np.copyto(before, hit, where=closer)
        np.copyto(owner[rows, columns], np.uint8(k), where=closer)
    return depth, owner


def first_depths(world: World, camtoworld: np.ndarray, columns: int, rows: int) -> np.ndarray:
    """Depths (n,) along n = columns x rows rays spread over a field of view of 53 x 41 degrees: a glance, all primitives of a kind at once."""
    x, y = np.meshgrid((np.arange(columns) + 0.5) / columns - 0.5, 0.75 * ((np.arange(rows) + 0.5) / rows - 0.5))
    directions = camtoworld[:3, :3] @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    first = np.full(x.size, np.inf)
    for kind in ("ellipsoid", "box", "cylinder"):
        group = [primitive for primitive in world.primitives if primitive.kind == kind]
        if group:
            to_local = np.stack([primitive.local_from_world for primitive in group])
            origins = (to_local @ (camtoworld[:3, 3] - np.stack([primitive.center for primitive in group]))[:, :, None]).transpose(1, 0, 2)
            near, far = interval(kind, origins, (to_local @ directions).transpose(1, 0, 2))
            hit = np.where([[primitive.shell] for primitive in group], far, near)
            first = np.minimum(first, np.where((near <= far) & (hit > NEAREST), hit, np.inf).min(0))
    return first


def _windows(world: World, view: View) -> list[tuple[slice, slice] | None]:
    """Rows and columns of samples that can see each primitive: the box around its projected corners. None: not in the frame."""
    axes = np.stack([primitive.rotation * primitive.half_sizes for primitive in world.primitives])
    centers = np.stack([primitive.center for primitive in world.primitives])
    corners = centers[:, :, None] + axes @ _CORNERS
    p_cam = view.camtoworld[:3, :3].T @ (corners - view.camtoworld[:3, 3:])
    z = p_cam[:, 2]
    columns = (p_cam[:, 0] / np.maximum(z, NEAREST) - view.x[0]) / view.spacing
    rows = (p_cam[:, 1] / np.maximum(z, NEAREST) - view.y[0]) / view.spacing
    bounds = np.stack([rows.min(1) - _CULL_MARGIN, rows.max(1) + _CULL_MARGIN, columns.min(1) - _CULL_MARGIN, columns.max(1) + _CULL_MARGIN])
    limits = np.array([len(view.y), len(view.y), len(view.x), len(view.x)])[:, None]
    bounds = np.clip(bounds, 0, limits).astype(int).T.tolist()
    everything = (slice(None), slice(None))
    windows: list[tuple[slice, slice] | None] = []
    for primitive, (top, bottom, left, right), nearest, farthest in zip(world.primitives, bounds, z.min(1), z.max(1)):
        if primitive.shell or nearest <= NEAREST < farthest:
            windows.append(everything)
        elif farthest <= NEAREST or top >= bottom or left >= right:
            windows.append(None)
        else:
            windows.append((slice(top, bottom), slice(left, right)))
    return windows


def render(world: World, camtoworld: np.ndarray, K: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """(image (H, W, 3) uint8 sRGB, depth (H * s, W * s) float32 of the s x s samples of each pixel, s = SUPERSAMPLING)."""
    s = SUPERSAMPLING
    view = View.of_pixels(camtoworld, K, width, height, s)
    depth, owner = trace(world, view)
    color = _shade(world, view, depth, owner).reshape(3, height, s, width, s)
    color = sum(color[:, :, i, :, j] for i in range(s) for j in range(s)) / (s * s)
    image = (np.sqrt(np.clip(color, 0, 1)) * 255 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(image.transpose(1, 2, 0)), depth


def _shade(world: World, view: View, depth: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Linear RGB (3, H' * W'). Samples are grouped by primitive, so that each one's formulas run on a contiguous slice."""
    order = np.argsort(owner, axis=None, kind="stable")  # a radix sort for uint8
    bounds = np.searchsorted(owner.ravel()[order], np.arange(len(world.primitives) + 1)).tolist()
    n = bounds[-1]  # samples that hit nothing come last, and stay black
    hits = order[:n]
    row, column = np.divmod(hits.astype(np.int32), np.int32(len(view.x)))
    z = depth.ravel()[hits]
    p_cam = np.stack([view.x[column] * z, view.y[row] * z, z])
    normals = np.empty((3, n), np.float32)
    u, v, footprint = (np.empty(n, np.float32) for _ in range(3))
    texture = np.empty(n, np.int32)
    for k, primitive in enumerate(world.primitives):
        part = slice(bounds[k], bounds[k + 1])
        if part.start == part.stop:
            continue
        to_local = primitive.local_from_world
        origin = (to_local @ (view.camtoworld[:3, 3] - primitive.center)).astype(np.float32)
        local = transform(to_local @ view.camtoworld[:3, :3], p_cam[:, part], origin)
        normals[:, part], u[part], v[part], face = _surface(primitive, local)
        u[part] *= 1 / primitive.tile
        v[part] *= 1 / primitive.tile
        footprint[part] = z[part] * np.float32(view.spacing / primitive.tile)
        texture[part] = primitive.texture_ids[face]
    albedo = world.atlas.lookup(texture, u, v, footprint)

    light = world.light
    toward_sun = light.direction.astype(np.float32)
    sample = (row % SUPERSAMPLING) * SUPERSAMPLING + column % SUPERSAMPLING
    sun = np.maximum(transform(toward_sun[None], normals)[0], 0) * world.shadows.lit(view.camtoworld, p_cam, sample)
    up = 0.5 + 0.5 * normals[2]
    color = np.empty((3, n), np.float32)
    for c in range(3):  # channels first: numpy is slow on inner loops of three
        np.multiply(albedo[c], light.floor[c] + (light.sky - light.floor)[c] * up + light.sun[c] * sun, out=color[c])
    for k, primitive in enumerate(world.primitives):
        part = slice(bounds[k], bounds[k + 1])
        if part.start == part.stop:
            continue
        if primitive.emissive:
            color[:, part] = albedo[:, part]
        elif primitive.gloss:  # Blinn and Phong's highlight
            to_camera = -transform(view.camtoworld[:3, :3], p_cam[:, part])
            half = to_camera / np.sqrt((to_camera * to_camera).sum(0)) + toward_sun[:, None]
            cosine = np.maximum((half * normals[:, part]).sum(0), 0) / np.sqrt((half * half).sum(0))
            color[:, part] += light.sun[:, None] * (np.float32(primitive.gloss) * cosine**_SHININESS * (sun[part] > 0))
    out = np.zeros((3, owner.size), np.float32)
    for c in range(3):
        out[c, hits] = color[c]
    return out


def _surface(primitive: Primitive, local: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of points on a primitive, (3, n) local: unit world normals (3, n), outwards (shells: inwards); u and v (n,) in world units; faces (n,)."""
    x, y, z = local
    ax, ay, az = np.abs(local)
    sx, sy, sz = primitive.half_sizes.astype(np.float32)
    if primitive.kind == "cylinder":
        cap = az * az > x * x + y * y
        normal = np.stack([x * ~cap, y * ~cap, np.sign(z) * cap])
        u = np.where(cap, x * sx, np.arctan2(y, x) * (0.5 * (sx + sy)))
        v = np.where(cap, y * sy, z * sz)
        face = np.where(cap, 4 + (z > 0), 0)
    else:
        on_x, on_z = (ax >= ay) & (ax >= az), (az > ax) & (az > ay)
        on_y = ~(on_x | on_z)
        u, v = np.where(on_x, y * sy, x * sx), np.where(on_z, y * sy, z * sz)
        face = np.where(on_x, x > 0, np.where(on_z, 4 + (z > 0), 2 + (y > 0)))
        normal = local if primitive.kind == "ellipsoid" else np.sign(local) * np.stack([on_x, on_y, on_z])
    normal = transform(primitive.rotation / primitive.half_sizes, normal)
    normal *= (-1 if primitive.shell else 1) / np.sqrt((normal * normal).sum(0))
    return normal, u, v, face


@dataclass(frozen=True)
class Shadows:
    """Shadow maps of the sun, one for each sample of a pixel: their mean over the pixel is a soft shadow, the same one from every view.

    A map holds, over a plane across the sun's direction, how deep along it the first solid is met: the middle of the ray's interval in it, so that
    the side in the light (before the middle) does not shadow itself and no bias has to be tuned.

    Attributes:
        frames: (s * s, 3, 3) float64: rows are two axes of the plane and the direction away from the sun.
        low, texel: corner of the maps, and px size, in world units; the same numbers for both axes and all maps.
        depths: (s * s, size, size) float32, inf where nothing casts a shadow.
    """

    frames: np.ndarray
    low: np.ndarray
    texel: float
    depths: np.ndarray

    def lit(self, camtoworld: np.ndarray, p_cam: np.ndarray, sample: np.ndarray) -> np.ndarray:
        """Which points (3, n), camera frame, the sun reaches; sample (n,) in 0..s*s-1 picks the map."""
        size = self.depths.shape[-1]
        rotations = self.frames @ camtoworld[:3, :3]
        origins = self.frames @ camtoworld[:3, 3]
        origins[:, :2] -= self.low
        rotations[:, :2] /= self.texel
        origins[:, :2] /= self.texel
        lit = np.empty(len(sample), bool)
        for i in range(len(self.depths)):
            group = np.flatnonzero(sample == i)
            column, row, depth = transform(rotations[i], p_cam[:, group], origins[i])
            inside = (column >= 0) & (row >= 0) & (column < size) & (row < size)
            texel = np.where(inside, row, 0).astype(np.int32) * size + np.where(inside, column, 0).astype(np.int32)
            lit[group] = (depth < self.depths[i].ravel()[texel]) | ~inside
        return lit


def cast_shadows(primitives: list[Primitive], light: Light, size: int) -> Shadows:
    """The shadow maps of all primitives that cast one, `size` x `size` texels each."""
    casters = [primitive for primitive in primitives if primitive.casts_shadow]
    side, other = _frame(light.direction)
    frames = []
    for a, b in _SUN_POSITIONS:
        direction = light.direction + 2 * light.softness * (a * side + b * other)
        direction /= np.linalg.norm(direction)
        frames.append(np.stack([*_frame(direction), -direction]))
    frames = np.stack(frames)
    axes = np.stack([primitive.rotation * primitive.half_sizes for primitive in casters])
    corners = frames[:, None, :2] @ (np.stack([primitive.center for primitive in casters])[:, :, None] + axes @ _CORNERS)  # (s * s, P, 2, 8)
    low, high = corners.min(3), corners.max(3)  # (s * s, P, 2)
    corner = low.min((0, 1))
    texel = float((high.max((0, 1)) - corner).max() / size)
    depths = np.full((len(frames), size, size), np.inf, np.float32)
    centers = (np.arange(size) + 0.5) * texel
    for i, frame in enumerate(frames):
        for k, primitive in enumerate(casters):
            (left, top), (right, bottom) = np.floor((low[i, k] - corner) / texel).astype(int), np.ceil((high[i, k] - corner) / texel).astype(int)
            rows, columns = slice(max(top, 0), bottom), slice(max(left, 0), right)
            to_local = primitive.local_from_world
            start = (to_local @ (corner @ frame[:2] - primitive.center)).astype(np.float32)
            across = (to_local @ frame[:2].T).astype(np.float32)
            x, y = (centers[part].astype(np.float32) for part in (columns, rows))
            origin = [a * x + (b * y + c)[:, None] for (a, b), c in zip(across, start)]
            near, far = interval(primitive.kind, origin, (to_local @ frame[2]).astype(np.float32))
            before = depths[i, rows, columns]
            middle = 0.5 * (near + far)
            np.copyto(before, middle, where=(near <= far) & (middle < before))
    return Shadows(frames, corner, texel, depths)


def _frame(direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors perpendicular to `direction` and to each other."""
    helper = np.eye(3)[np.argmin(np.abs(direction))]
    side = np.cross(direction, helper)
    side /= np.linalg.norm(side)
    return side, np.cross(direction, side)

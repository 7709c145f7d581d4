"""An analytic ray caster: primary rays, shadows, textures, a little gloss.

Rays are `origin + depth * direction` with the direction's camera z equal to 1, so the ray parameter is the depth. numpy float32 throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .shadows import Light, Shadows
from .shapes import CORNERS, Primitive, interval, transform
from .textures import Atlas

SUPERSAMPLING = 2  # rays per pixel and axis; as many as the shadow maps have suns
NEAREST = 1e-3  # world units; hits before it do not count
_CULL_MARGIN = 2  # samples around a primitive's projected box
_SHININESS = 40


@dataclass(frozen=True)
class World:
    """What is rendered; up is +z."""

    primitives: list[Primitive]
    atlas: Atlas
    light: Light
    shadows: Shadows


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
    corners = centers[:, :, None] + axes @ CORNERS
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

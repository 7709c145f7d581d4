"""SfM-like points of a rendered scene: where texture has gradients, seen in several views, with noise, outliers and holes.

What real reconstructions give the optimizer to start from: dense on print and foliage, nothing on plain walls, a few per cent wild.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .raycast import NEAREST, SUPERSAMPLING
from .shapes import transform

MIN_VIEWS = 3  # shortest track that is kept
DETECTION_RATE = 0.6  # share of the views in which a visible point is matched
VISIBLE_WITHIN = 0.01  # relative depth difference up to which a sample shows the point
_ROUNDS = 6


@dataclass(frozen=True)
class SfmPoints:
    """points (P, 3) float64 world frame; colors (P, 3) uint8; seen_depths (O,) of all (view, point) matches; noise: relative depth sigma."""

    points: np.ndarray
    colors: np.ndarray
    seen_depths: np.ndarray
    noise: float


def sample_points(
    rng: np.random.Generator, images: np.ndarray, depths: np.ndarray, camtoworlds: np.ndarray, K: np.ndarray, num_points: int
) -> SfmPoints:
    """Draw up to `num_points` points (fewer where there is too little texture).

    Args:
        images: (M, H, W, 3) uint8.
        depths: (M, H * s, W * s) float32, of the s x s samples of each pixel.
        camtoworlds, K: (M, 4, 4) and (3, 3), shared by all views.
    """
    count, height, width = images.shape[:3]
    weights = np.stack([_gradient(image) for image in images]).reshape(count, -1)
    noise = float(np.exp(rng.uniform(np.log(0.002), np.log(0.02))))
    outlier_share = rng.uniform(0.02, 0.10)
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    total = 0
    for _ in range(_ROUNDS):
        if total >= num_points:
            break
        per_view = int(np.ceil(2.0 * (num_points - total) / count)) + 4
        for view in range(count):
            # Exponential races (Efraimidis and Spirakis): the smallest keys are a weighted draw without replacement.
            race = rng.standard_exponential(height * width) / np.maximum(weights[view], 1e-12)
            picked = np.argpartition(race, min(per_view, len(race) - 1))[:per_view]
            row, column = np.divmod(picked, width)
            depth = depths[view, row * SUPERSAMPLING, column * SUPERSAMPLING].astype(np.float64)
            good = np.isfinite(depth) & (weights[view][picked] > 0)
            row, column, depth = row[good], column[good], depth[good]
            offset = 0.5 / SUPERSAMPLING  # the first sample of a pixel
            ray = np.stack([(column + offset - K[0, 2]) / K[0, 0], (row + offset - K[1, 2]) / K[1, 1], np.ones(len(row))], axis=1)
            ray = ray @ camtoworlds[view, :3, :3].T
            centre = camtoworlds[view, :3, 3]
            track = _matches(rng, centre + ray * depth[:, None], depths, camtoworlds, K)
            reliable = (track > 0).sum(1) >= MIN_VIEWS
            factor = 1 + noise * rng.standard_normal(len(depth))
            wild = rng.random(len(depth)) < outlier_share
            factor = np.where(wild, np.exp(rng.uniform(-0.7, 0.7, len(depth))), np.maximum(factor, 0.5))
            kept.append(((centre + ray * (depth * factor)[:, None])[reliable], images[view, row, column][reliable], track[reliable]))
            total += int(reliable.sum())
    points, colors, tracks = (np.concatenate(parts) for parts in zip(*kept))
    chosen = rng.permutation(len(points))[:num_points]
    tracks = tracks[chosen]
    return SfmPoints(points[chosen], colors[chosen], tracks[tracks > 0], noise)


def _gradient(image: np.ndarray) -> np.ndarray:
    """(H, W) float32: how much the brightness changes at a pixel, 0 below what a detector would notice."""
    gray = image.astype(np.float32).mean(2) / 255
    change = np.zeros_like(gray)
    change[:, 1:-1] += np.abs(gray[:, 2:] - gray[:, :-2])
    change[1:-1] += np.abs(gray[2:] - gray[:-2])
    return np.where(change > 0.03, change, 0)


def _matches(rng: np.random.Generator, points: np.ndarray, depths: np.ndarray, camtoworlds: np.ndarray, K: np.ndarray) -> np.ndarray:
    """(P, M) float32: the depth of each point in the views that show it and matched it, else 0."""
    rotations = camtoworlds[:, :3, :3].transpose(0, 2, 1)
    shifts = -(rotations @ camtoworlds[:, :3, 3:])[:, :, 0]
    x, y, depth = np.stack([transform(rotation, points.T, shift) for rotation, shift in zip(rotations, shifts)]).transpose(1, 2, 0)
    z = np.maximum(depth, 1e-6)
    column = np.floor(SUPERSAMPLING * (x / z * K[0, 0] + K[0, 2])).astype(np.int64)
    row = np.floor(SUPERSAMPLING * (y / z * K[1, 1] + K[1, 2])).astype(np.int64)
    inside = (depth > NEAREST) & (row >= 0) & (row < depths.shape[1]) & (column >= 0) & (column < depths.shape[2])
    seen = depths[np.arange(len(depths)), row.clip(0, depths.shape[1] - 1), column.clip(0, depths.shape[2] - 1)]
    matched = inside & (np.abs(seen - z) < VISIBLE_WITHIN * z) & (rng.random(z.shape) < DETECTION_RATE)
    return np.where(matched, z, 0).astype(np.float32)

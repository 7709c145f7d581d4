"""PlayCanvas's compressed PLY (SuperSplat, splat-transform): 16 bytes per Gaussian, and one per SH coefficient.

Elements: `chunk`, one row per 256 Gaussians: smallest and largest x y z, log scale and, in newer files, colour; `vertex`: `packed_position` and
`packed_scale` (11, 10, 11 bits between those), `packed_rotation` (2 bits: which of wxyz is largest; 10 bits for each of the others),
`packed_color` (8 bits for r, g, b, opacity); `sh`: f_rest in bytes over [-4, 4], channel-major. Written in Morton order, as chunks must be small.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ...errors import PlyError
from ..record import SH_C0, Gaussians
from ._file import write_atomically
from ._quantise import COEFFICIENTS, from_smallest_three, morton_order, smallest_three, to_unorm, used_degree
from ._repair import MAX_LOGIT, arrays, finite_rows, to_gaussians

CHUNK = 256
_AXES, _RGB = ("x", "y", "z"), ("r", "g", "b")
_SCALES = tuple(f"scale_{axis}" for axis in _AXES)
_PACKED = tuple(f"packed_{name}" for name in ("position", "rotation", "scale", "color"))
_MAX_LOG_SCALE = 20.0


def is_compressed(tables: dict[str, np.ndarray]) -> bool:
    """Whether the tables of a PLY are those of this layout."""
    return "chunk" in tables and "vertex" in tables and "packed_position" in (tables["vertex"].dtype.names or ())


def unpack(path: Path, tables: dict[str, np.ndarray]) -> Gaussians:
    """
    Raises:
        PlyError: attributes are missing, or the chunks are not those of so many Gaussians.
    """
    chunks, vertices = tables["chunk"], tables["vertex"]
    bounds = [f"{end}_{name}" for name in (*_AXES, *_SCALES) for end in ("min", "max")]
    if "min_r" in (chunks.dtype.names or ()):
        bounds += [f"{end}_{name}" for name in _RGB for end in ("min", "max")]
    missing = [name for name in bounds if name not in (chunks.dtype.names or ())] + [n for n in _PACKED if n not in vertices.dtype.names]
    n = len(vertices)
    if missing:
        raise PlyError(f"{path} is not a complete compressed PLY: it lacks {', '.join(missing)}")
    if len(chunks) != -(-n // CHUNK) or n == 0:
        raise PlyError(f"{path} is damaged: {len(chunks)} chunks of {CHUNK} for {n} Gaussians")
    position, rotation, scale, colour = (np.asarray(vertices[name]).astype(np.uint32) for name in _PACKED)
    chunk = np.arange(n) // CHUNK

    def between(names: tuple[str, ...], shares: np.ndarray) -> np.ndarray:
        low, high = (np.stack([chunks[f"{end}_{name}"].astype(np.float32) for name in names], axis=1)[chunk] for end in ("min", "max"))
        return low * (1 - shares) + high * shares

    rgba = _fields(colour, (24, 16, 8, 0), (8, 8, 8, 8))
    rgb = between(_RGB, rgba[:, :3]) if "min_r" in chunks.dtype.names else rgba[:, :3]
    others = (_fields(rotation, (20, 10, 0), (10, 10, 10)) - 0.5) * np.sqrt(2)
    with np.errstate(divide="ignore"):
        logits = np.clip(np.log(rgba[:, 3]) - np.log1p(-rgba[:, 3]), -MAX_LOGIT, MAX_LOGIT)
    return to_gaussians(
        path,
        between(_AXES, _fields(position, (21, 11, 0), (11, 10, 11))),
        from_smallest_three((rotation >> 30).astype(np.int64), others),
        between(_SCALES, _fields(scale, (21, 11, 0), (11, 10, 11))),
        logits,
        (rgb - 0.5) / SH_C0,
        _unpack_sh(path, tables.get("sh"), n),
    )


def save_compressed_ply(path: str | os.PathLike, gaussians: Gaussians) -> None:
    """Write a compressed PLY, with SH up to the degree in use; the order of the Gaussians changes.

    Raises:
        SaveError, PlyError: as `save_ply`.
    """
    path = Path(path)
    g = finite_rows(path, gaussians)
    means, quats, log_scales, logits, sh0, shN = arrays(g, morton_order(g.means.numpy()))
    n, k = len(g), COEFFICIENTS[used_degree(shN)]
    starts = np.arange(0, n, CHUNK)
    bounds, packed = [], []
    log_scales = np.clip(log_scales, -_MAX_LOG_SCALE, _MAX_LOG_SCALE)
    for values, bits in ((means, (11, 10, 11)), (log_scales, (11, 10, 11)), (sh0[:, 0] * SH_C0 + 0.5, (8, 8, 8))):
        low, high = (end.reduceat(values, starts, axis=0) for end in (np.minimum, np.maximum))
        span = np.repeat(high - low, CHUNK, axis=0)[:n]
        shares = (values - np.repeat(low, CHUNK, axis=0)[:n]) / np.where(span > 0, span, 1)
        bounds += [low, high]
        packed.append([to_unorm(shares[:, i], bit) for i, bit in enumerate(bits)])
    (px, py, pz), (sx, sy, sz), (r, green, b) = packed
    largest, others = smallest_three(quats)
    a = to_unorm(others / np.sqrt(2) + 0.5, 10)
    alpha = to_unorm(1 / (1 + np.exp(-logits.astype(np.float64))), 8)
    rows = [px << 21 | py << 11 | pz, largest.astype(np.uint32) << 30 | a[:, 0] << 20 | a[:, 1] << 10 | a[:, 2]]
    rows += [sx << 21 | sy << 11 | sz, r << 24 | green << 16 | b << 8 | alpha]
    sh = np.clip((shN[:, :k] / 8 + 0.5) * 256, 0, 255).astype(np.uint8).transpose(0, 2, 1)  # truncated: reading adds half a step

    names = [f"{end}_{name}" for group in (_AXES, _SCALES, _RGB) for end in ("min", "max") for name in group]
    lines = ["ply", "format binary_little_endian 1.0", f"element chunk {len(starts)}", *(f"property float {name}" for name in names)]
    lines += [f"element vertex {n}", *(f"property uint {name}" for name in _PACKED)]
    lines += [f"element sh {n}", *(f"property uchar f_rest_{i}" for i in range(3 * k))] if k else []
    header = "\n".join([*lines, "end_header\n"]).encode()
    chunks = np.concatenate(bounds, axis=1).astype("<f4")
    write_atomically(path, header, chunks.tobytes(), np.stack(rows, axis=1).astype("<u4").tobytes(), sh.tobytes())


def _fields(packed: np.ndarray, shifts: tuple[int, ...], bits: tuple[int, ...]) -> np.ndarray:
    """Bit fields of `packed` (N,) as shares of their range: (N, len(bits)) float64 in [0, 1]."""
    tops = [(1 << bit) - 1 for bit in bits]
    return np.stack([(packed >> np.uint32(shift) & np.uint32(top)) / top for shift, top in zip(shifts, tops)], axis=1)


def _unpack_sh(path: Path, table: np.ndarray | None, n: int) -> np.ndarray:
    """(N, K, 3) of the element `sh`."""
    if table is None:
        return np.zeros((n, 0, 3))
    names = [f"f_rest_{i}" for i in range(len(table.dtype.names or ()))]
    if len(names) not in (9, 24, 45) or set(names) != set(table.dtype.names) or len(table) != n:
        raise PlyError(f"{path} is damaged: its element 'sh' must have {n} rows of 9, 24 or 45 f_rest")
    values = np.stack([table[name] for name in names], axis=1).astype(np.float64)
    shares = np.where(values == 0, 0.0, np.where(values == 255, 1.0, (values + 0.5) / 256))
    return ((shares - 0.5) * 8).reshape(n, 3, -1).transpose(0, 2, 1)

"""Gaussians in the PLY layout of 3DGS, by attribute name.

`x y z nx ny nz f_dc_0..2 f_rest_0..44 opacity scale_0..2 rot_0..3`, float32, binary little-endian; opacity is a logit, scales are logs, rot is
wxyz, f_rest is channel-major (all red coefficients, then green, then blue), normals are zeros that nobody reads. Reading takes any order of
attributes, any PLY encoding and type, SH degrees 0 to 4 (0, 9, 24, 45 or 72 f_rest; degree 4 is left out), `red green blue` in place of f_dc
(nerfstudio's --ply-color-mode rgb), two scales (2DGS), and PlayCanvas's packed layout (`compressed_ply`). Further attributes are passed over.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from ...errors import PlyError
from ..record import SH_C0, Gaussians
from ._file import write_atomically
from ._ply_file import read_tables
from ._repair import finite_rows, note, to_gaussians
from .compressed_ply import is_compressed, unpack

_MEANS, _NORMALS, _SH0 = ("x", "y", "z"), ("nx", "ny", "nz"), ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALES, _QUATS = ("scale_0", "scale_1", "scale_2"), ("rot_0", "rot_1", "rot_2", "rot_3")
_COLOURS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
_NUM_REST = 45
_OFFSET = "comment offset"
_COEFFICIENTS_OF = {0: 0, 9: 3, 24: 8, 45: 15, 72: 24}  # number of f_rest attributes -> coefficients per channel, degrees 0 to 4


def load_ply(path: str | os.PathLike) -> Gaussians:
    """Gaussians of a PLY, float32 on the CPU, in the file's frame. Coefficients above its SH degree are zero.

    What can be mended or left out (infinite opacities, rotations of length 0, rows with NaN) is, with a UserWarning.

    Raises:
        PlyError: the file is missing, truncated or no PLY; it has no Gaussians; attributes are missing; no row is finite.
    """
    path = Path(path)
    tables = read_tables(path)
    if is_compressed(tables):
        return unpack(path, tables)
    vertices = _vertices(path, tables)
    names = vertices.dtype.names or ()
    colours = _colour_names(names)
    required = (*_MEANS, *(() if colours else _SH0), "opacity", *_SCALES[:2], *_QUATS)
    missing = [name for name in required if name not in names]
    if missing:
        raise PlyError(f"{path} is not a 3DGS splat, it lacks {', '.join(missing)}: a point cloud of x y z and colours is not enough")
    num_rest = sum(name.startswith("f_rest_") for name in names)
    rest = tuple(f"f_rest_{i}" for i in range(num_rest))
    if num_rest not in _COEFFICIENTS_OF or not set(rest) <= set(names):
        raise PlyError(f"{path} has {num_rest} f_rest attributes: expected f_rest_0 upwards, 0, 9, 24 or 45 of them (SH degrees 0 to 3)")

    scales = tuple(name for name in _SCALES if name in names)
    wanted = (*_MEANS, "opacity", *scales, *_QUATS, *(() if colours else _SH0), *rest)
    values = _columns(vertices, wanted, path)
    means, opacity, log_scales, quats, values = np.split(values, np.cumsum([3, 1, len(scales), 4]), axis=1)
    sh0, shN = (_read_colours(path, vertices, colours), values) if colours else (values[:, :3], values[:, 3:])
    k = _COEFFICIENTS_OF[num_rest]
    if k > 15:
        note(f"{path} has spherical harmonics of degree 4: used up to degree 3")
    shN = shN.reshape(len(values), 3, k).transpose(0, 2, 1)[:, :15]
    return to_gaussians(path, means, quats, log_scales, opacity[:, 0], sh0, shN)


def load_cloud(path: str | os.PathLike) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(points (P, 3) float64, colours (P, 3) float32 in [0, 1]; grey without) of a PLY that is a plain point cloud; None if it is a splat.

    Raises:
        PlyError: the file is missing, truncated or no PLY, or it has no points.
    """
    path = Path(path)
    tables = read_tables(path)
    names = tables["vertex"].dtype.names or () if "vertex" in tables else ()
    if is_compressed(tables) or "opacity" in names or "scale_0" in names or not set(_MEANS) <= set(names):
        return None
    vertices = _vertices(path, tables)
    points = np.stack([vertices[name].astype(np.float64) for name in _MEANS], axis=1)
    colours = _colour_names(names)
    rgb = _read_colours(path, vertices, colours) * SH_C0 + 0.5 if colours else np.full(points.shape, 0.5)
    finite = np.isfinite(points).all(1) & np.isfinite(rgb).all(1)
    if not finite.any():
        raise PlyError(f"none of the {len(points)} points in {path} is finite: export the cloud again")
    if not finite.all():
        note(f"{int((~finite).sum())} of {len(points)} points in {path} are NaN or infinite: left out")
    return torch.from_numpy(points[finite]), torch.from_numpy(rgb[finite].clip(0, 1).astype(np.float32))


def save_ply(path: str | os.PathLike, gaussians: Gaussians, *, offset: torch.Tensor | None = None) -> None:
    """Write a 3DGS PLY of SH degree 3. Atomic: whatever happens, `path` holds the old file or the whole new one.

    Args:
        offset: (3,) float64, to be added to the means for the frame of a georeferenced scene (`Scene.offset`): a comment of the header.

    Raises:
        SaveError: disk full, no permission, ...; no partial file stays.
        PlyError: some Gaussians hold NaN or infinite values, which no reader takes.
    """
    path = Path(path)
    g = finite_rows(path, gaussians)
    names = (*_MEANS, *_NORMALS, *_SH0, *(f"f_rest_{i}" for i in range(_NUM_REST)), "opacity", *_SCALES, *_QUATS)
    rest = g.shN.transpose(1, 2).reshape(len(g), _NUM_REST)  # (N, 15, RGB) -> channel-major
    columns = [g.means, torch.zeros_like(g.means), g.sh0[:, 0], rest, g.logit_opacities[:, None], g.log_scales, g.quats]
    rows = torch.cat(columns, dim=1).numpy().astype("<f4", copy=False)
    comments = [] if offset is None else [f"{_OFFSET} " + " ".join(repr(float(value)) for value in offset)]
    properties = [f"property float {name}" for name in names]
    lines = ["ply", "format binary_little_endian 1.0", *comments, f"element vertex {len(g)}", *properties, "end_header\n"]
    write_atomically(path, "\n".join(lines).encode(), rows.tobytes())


def load_offset(path: str | os.PathLike) -> torch.Tensor | None:
    """(3,) float64, the offset that `save_ply` wrote into the header; None if there is none."""
    try:
        with open(path, "rb") as file:
            head = file.read(4096).partition(b"end_header")[0].decode("latin-1")
        words = next((line.split()[2:] for line in head.splitlines() if line.startswith(f"{_OFFSET} ")), [])
        values = torch.tensor([float(word) for word in words], dtype=torch.float64)
    except (OSError, ValueError):
        return None
    return values if len(values) == 3 and bool(torch.isfinite(values).all()) else None


def _vertices(path: Path, tables: dict[str, np.ndarray]) -> np.ndarray:
    if len(tables.get("vertex", ())) == 0:
        raise PlyError(f"{path} holds no Gaussians: expected a PLY element 'vertex' with at least one row")
    return tables["vertex"]


def _colour_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """The attributes of plain colours, if those are what the file has in place of f_dc."""
    return () if set(_SH0) <= set(names) else next((colours for colours in _COLOURS if set(colours) <= set(names)), ())


def _read_colours(path: Path, vertices: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """SH coefficients of degree 0 (N, 3) of sRGB colours: integers over the range of their type, floats in [0, 1] or, if larger, [0, 255]."""
    values = _columns(vertices, names, path).astype(np.float64)
    kinds = {vertices.dtype[name] for name in names}
    top = max(float(np.iinfo(kind).max) for kind in kinds) if all(kind.kind in "iu" for kind in kinds) else 1.0
    if top > 65535 or (top == 1.0 and np.nanmax(values, initial=0) > 1):
        top = 255.0  # 32-bit integers and floats above 1: bytes in a wider type
    return (values / top - 0.5) / SH_C0


def _columns(vertices: np.ndarray, names: tuple[str, ...], path: Path) -> np.ndarray:
    """The named attributes as one (N, len(names)) float32 array."""
    dtype = vertices.dtype
    if any(dtype[name].hasobject for name in names):
        raise PlyError(f"{path} stores a list where a splat has a number: expected scalar attributes")
    if all(dtype[name] == np.dtype("<f4") for name in dtype.names) and dtype.itemsize == 4 * len(dtype.names):
        # The usual file: rows of float32 without padding. One gather instead of a pass per attribute.
        matrix = np.ascontiguousarray(vertices).view("<f4").reshape(len(vertices), len(dtype.names))
        return matrix[:, [dtype.names.index(name) for name in names]]
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite
        return np.stack([vertices[name].astype(np.float32) for name in names], axis=1)

"""Gaussians in the PLY layout of 3DGS, by attribute name.

`x y z nx ny nz f_dc_0..2 f_rest_0..44 opacity scale_0..2 rot_0..3`, float32, binary little-endian; opacity is a logit, scales are logs, rot is
wxyz, f_rest is channel-major (all red coefficients, then green, then blue), normals are zeros that nobody reads. Reading takes any order of
attributes, any PLY encoding and SH degrees 0 to 3 (9, 24 or 45 f_rest, or none).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from plyfile import PlyData, PlyElement, PlyParseError

from ..errors import PlyError, SaveError
from .record import SHAPES, Gaussians

_MEANS, _NORMALS, _SH0 = ("x", "y", "z"), ("nx", "ny", "nz"), ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALES, _QUATS = ("scale_0", "scale_1", "scale_2"), ("rot_0", "rot_1", "rot_2", "rot_3")
_REQUIRED = (*_MEANS, *_SH0, "opacity", *_SCALES, *_QUATS)
_NUM_REST = 45
_COEFFICIENTS_OF = {0: 0, 9: 3, 24: 8, 45: 15}  # number of f_rest attributes -> coefficients per channel, degrees 0 to 3


def load_ply(path: str | os.PathLike) -> Gaussians:
    """Gaussians of a 3DGS PLY, float32 on the CPU, in the file's frame. Coefficients above its SH degree are zero.

    Raises:
        PlyError: the file is missing, truncated or no PLY; it has no Gaussians; attributes are missing; values are NaN or infinite.
    """
    path = Path(path)
    try:
        ply = PlyData.read(str(path))
    except FileNotFoundError as error:
        raise PlyError(f"no PLY file at {path}: check the path") from error
    except (PlyParseError, OSError, ValueError, MemoryError) as error:  # ValueError: UnicodeDecodeError of a header that is no text
        raise PlyError(f"{path} is not a readable PLY file ({error}): it may be truncated, or not a PLY at all; write it again") from error
    vertices = next((element.data for element in ply.elements if element.name == "vertex"), None)
    if vertices is None or len(vertices) == 0:
        raise PlyError(f"{path} holds no Gaussians: expected a PLY element 'vertex' with at least one row")
    names = vertices.dtype.names or ()
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise PlyError(f"{path} is not a 3DGS splat, it lacks {', '.join(missing)}: a point cloud of x y z and colours is not enough")
    num_rest = sum(name.startswith("f_rest_") for name in names)
    rest = tuple(f"f_rest_{i}" for i in range(num_rest))
    if num_rest not in _COEFFICIENTS_OF or not set(rest) <= set(names):
        raise PlyError(f"{path} has {num_rest} f_rest attributes: expected f_rest_0 upwards, 0, 9, 24 or 45 of them (SH degrees 0 to 3)")

    values = _columns(vertices, (*_REQUIRED, *rest), path)
    broken = int((~np.isfinite(values)).any(1).sum())
    if broken:
        raise PlyError(f"{broken} of {len(values)} Gaussians in {path} hold NaN or infinite values: remove them, or export the splat again")
    means, sh0, opacity, scales, quats, shN = np.split(values, np.cumsum([3, 3, 1, 3, 4]), axis=1)
    n, k = len(values), _COEFFICIENTS_OF[num_rest]
    padded = np.zeros((n, *SHAPES["shN"]), np.float32)
    padded[:, :k] = shN.reshape(n, 3, k).transpose(0, 2, 1)
    fields = (means, quats, scales, opacity[:, 0], sh0[:, None], padded)
    return Gaussians(*(torch.from_numpy(np.ascontiguousarray(field)) for field in fields))


def save_ply(path: str | os.PathLike, gaussians: Gaussians) -> None:
    """Write a 3DGS PLY of SH degree 3. Atomic: whatever happens, `path` holds the old file or the whole new one.

    Raises:
        SaveError: disk full, no permission, no such folder; no partial file stays.
        PlyError: some Gaussians hold NaN or infinite values, which no reader takes.
    """
    path = Path(path)
    g = gaussians.detach().to("cpu", torch.float32)
    flat = g.flatten()
    broken = int((~torch.isfinite(flat)).any(1).sum())
    if broken:
        raise PlyError(f"{broken} of {len(g)} Gaussians hold NaN or infinite values: not written to {path}; the run has diverged")
    names = (*_MEANS, *_NORMALS, *_SH0, *(f"f_rest_{i}" for i in range(_NUM_REST)), "opacity", *_SCALES, *_QUATS)
    rest = g.shN.transpose(1, 2).reshape(len(g), _NUM_REST)  # (N, 15, RGB) -> channel-major
    columns = [g.means, torch.zeros_like(g.means), g.sh0[:, 0], rest, g.logit_opacities[:, None], g.log_scales, g.quats]
    rows = torch.cat(columns, dim=1).numpy().astype("<f4", copy=False)
    vertices = rows.view([(name, "<f4") for name in names])[:, 0]  # the same bytes, with names
    ply = PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<")

    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(temporary, "wb") as file:
            ply.write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise SaveError(f"could not write {path} ({error.strerror or error}): free some space, or choose another place") from error
    finally:
        temporary.unlink(missing_ok=True)


def _columns(vertices: np.ndarray, names: tuple[str, ...], path: Path) -> np.ndarray:
    """The named attributes as one (N, len(names)) float32 array."""
    dtype = vertices.dtype
    if any(dtype[name].hasobject for name in names):
        raise PlyError(f"{path} stores a list where a splat has a number: expected scalar attributes")
    if all(dtype[name] == np.dtype("<f4") for name in dtype.names) and dtype.itemsize == 4 * len(dtype.names):
        # The usual file: rows of float32 without padding. One gather instead of a pass per attribute.
        matrix = np.ascontiguousarray(vertices).view("<f4").reshape(len(vertices), len(dtype.names))
        return matrix[:, [dtype.names.index(name) for name in names]]
    return np.stack([vertices[name].astype(np.float32) for name in names], axis=1)

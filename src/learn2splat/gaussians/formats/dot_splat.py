"""The `.splat` of antimatter15's viewer: 32 bytes per Gaussian, no header, SH of degree 0.

Mean and scale as float32 (scales activated), colour and opacity as 4 bytes, rotation as 4 bytes wxyz: 128 (q + 1). The most important first
(opacity times volume), because viewers show the file while it arrives.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ...errors import PlyError
from ..record import SH_C0, Gaussians
from ._file import read_bytes, write_atomically
from ._quantise import bytes_of_logits, logits_of_bytes, to_unorm
from ._repair import arrays, finite_rows, to_gaussians

_ROW = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])


def load_dot_splat(path: str | os.PathLike) -> Gaussians:
    """
    Raises:
        PlyError: the file is missing, empty, or no multiple of 32 bytes.
    """
    path = Path(path)
    data = read_bytes(path)
    if not data or len(data) % _ROW.itemsize:
        raise PlyError(f"{path} is not a .splat file: expected a multiple of {_ROW.itemsize} bytes, got {len(data)}")
    rows = np.frombuffer(data, _ROW)
    with np.errstate(divide="ignore", invalid="ignore"):  # log 0 is a flat Gaussian, log of less is no number: both are dealt with
        log_scales = np.log(rows["scale"].astype(np.float64))
    sh0 = (rows["rgba"][:, :3] / 255.0 - 0.5) / SH_C0
    quats = (rows["quat"].astype(np.float64) - 128) / 128
    return to_gaussians(path, rows["mean"], quats, log_scales, logits_of_bytes(rows["rgba"][:, 3]), sh0, np.zeros((len(rows), 0, 3)))


def save_dot_splat(path: str | os.PathLike, gaussians: Gaussians) -> None:
    """Write a `.splat`; colours that depend on the view lose that, and the order of the Gaussians changes.

    Raises:
        SaveError, PlyError: as `save_ply`.
    """
    path = Path(path)
    g = finite_rows(path, gaussians)
    importance = g.log_scales.sum(1).double() + g.logit_opacities.double().sigmoid().log()
    means, quats, log_scales, logits, sh0, _ = arrays(g, importance.argsort(descending=True, stable=True).numpy())
    rows = np.empty(len(g), _ROW)
    rows["mean"], rows["scale"] = means, np.exp(log_scales)
    rows["rgba"] = np.concatenate([to_unorm(sh0[:, 0] * SH_C0 + 0.5, 8), bytes_of_logits(logits)[:, None]], axis=1)
    unit = quats / np.maximum(np.linalg.norm(quats, axis=1, keepdims=True), 1e-20)
    rows["quat"] = np.clip(np.round(unit * 128 + 128), 0, 255)
    write_atomically(path, rows.tobytes())

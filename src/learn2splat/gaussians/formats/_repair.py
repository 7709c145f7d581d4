"""From the numbers of a file to Gaussians: one loose number is mended or left out with a note, and does not stop everything.

Notes are `UserWarning`s, one sentence each, as those of `load_scene`.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import torch

from ...errors import PlyError
from ..record import SHAPES, Gaussians

# The opacity that an 8-bit 255 stands for, as a logit: the middle of [254.5, 255] / 255, whose ends have the logits 6.2 and infinity.
MAX_LOGIT = math.log(1019)
FLATNESS = math.log(0.01)  # The thickness of a flat Gaussian (2DGS, or a scale of 0): this share of its smallest side.


def note(text: str) -> None:
    """Tell the user something about the file that was read."""
    warnings.warn(text, UserWarning, stacklevel=2)


def to_gaussians(
    path: Path, means: np.ndarray, quats: np.ndarray, log_scales: np.ndarray, logits: np.ndarray, sh0: np.ndarray, shN: np.ndarray
) -> Gaussians:
    """Float32 Gaussians on the CPU, in the file's frame.

    Args:
        path: for the notes.
        means, quats, log_scales, logits, sh0: (N, 3), (N, 4) wxyz, (N, 3) or (N, 2), (N,), (N, 3).
        shN: (N, K, 3) with K = 0, 3, 8 or 15; the coefficients above are zero.

    Raises:
        PlyError: there is no Gaussian, or none of finite numbers.
    """
    n = len(means)
    if n == 0:
        raise PlyError(f"{path} holds no Gaussians")
    if log_scales.shape[1] == 2:
        log_scales = np.concatenate([log_scales, np.full((n, 1), -np.inf, log_scales.dtype)], axis=1)
        note(f"{path} holds flat Gaussians (2DGS): each is given a thickness of a hundredth of its smaller side")
    else:
        flat = int((np.isneginf(log_scales).any(1) & ~np.isneginf(log_scales).all(1)).sum())
        if flat:
            note(f"{flat} of {n} Gaussians in {path} have a scale of 0: taken as a hundredth of their smallest other")
    smallest = np.where(np.isneginf(log_scales), np.inf, log_scales).min(1, keepdims=True)
    log_scales = np.where(np.isneginf(log_scales), smallest + FLATNESS, log_scales)
    infinite = np.isinf(logits)
    if infinite.any():
        note(f"{int(infinite.sum())} of {n} opacities in {path} are infinite: taken as 0.001 and 0.999")
        logits = np.where(infinite, np.sign(logits) * MAX_LOGIT, logits)
    unturned = ~quats.any(1)
    if unturned.any():
        note(f"{int(unturned.sum())} of {n} rotations in {path} are 0 0 0 0: taken as no rotation")
        quats = np.where(unturned[:, None], [1.0, 0.0, 0.0, 0.0], quats)
    padded = np.zeros((n, *SHAPES["shN"]), np.float32)
    padded[:, : shN.shape[1]] = shN
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, and is left out below
        fields = [field.astype(np.float32) for field in (means, quats, log_scales, logits, sh0[:, None], padded)]
    finite = np.logical_and.reduce([np.isfinite(field.reshape(n, -1)).all(1) for field in fields])
    if not finite.any():
        raise PlyError(f"none of the {n} Gaussians in {path} is finite: export the splat again")
    if not finite.all():
        note(f"{int((~finite).sum())} of {n} Gaussians in {path} hold NaN or infinite values: left out")
        fields = [field[finite] for field in fields]
    return Gaussians(*(torch.from_numpy(np.array(field, np.float32, order="C")) for field in fields))


def finite_rows(path: Path, gaussians: Gaussians) -> Gaussians:
    """`gaussians` as float32 on the CPU, for writing.

    Raises:
        PlyError: some hold NaN or infinite values, which no reader takes, or there are none.
    """
    g = gaussians.detach().to("cpu", torch.float32)
    broken = int((~torch.isfinite(g.flatten())).any(1).sum())
    if broken:
        raise PlyError(f"{broken} of {len(g)} Gaussians hold NaN or infinite values: not written to {path}; the run has diverged")
    return g


def arrays(gaussians: Gaussians, order: np.ndarray | None = None) -> list[np.ndarray]:
    """The fields as NumPy arrays, the Gaussians in `order` (positions (N,))."""
    fields = [field.numpy() for field in gaussians.tensors().values()]
    return fields if order is None else [field[order] for field in fields]

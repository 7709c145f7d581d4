"""What the packed formats share: rotations as their three smallest components, opacities as bytes, an order in which neighbours in space are
neighbours in the file, and the SH degree that is in use."""

from __future__ import annotations

import numpy as np

from ._repair import MAX_LOGIT

COEFFICIENTS = {0: 0, 1: 3, 2: 8, 3: 15}  # SH degree -> coefficients per channel above degree 0
_OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])  # the components that stay when the largest is left out


def smallest_three(quats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(which component is the largest (N,), the three others (N, 3) in [-1/sqrt(2), 1/sqrt(2)]) of the rotations `quats` (N, 4) in any order;
    signs are those at which the largest is positive."""
    unit = quats / np.maximum(np.linalg.norm(quats, axis=1, keepdims=True), 1e-20)
    largest = np.abs(unit).argmax(1)
    sign = np.where(np.take_along_axis(unit, largest[:, None], 1) < 0, -1.0, 1.0)
    return largest, np.take_along_axis(unit * sign, _OTHERS[largest], 1)


def from_smallest_three(largest: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The inverse: rotations (N, 4)."""
    quats = np.empty((len(others), 4), np.float32)
    np.put_along_axis(quats, _OTHERS[largest], others.astype(np.float32), 1)
    np.put_along_axis(quats, largest[:, None], np.sqrt(np.maximum(0, 1 - (others**2).sum(1, keepdims=True))).astype(np.float32), 1)
    return quats


def to_unorm(values: np.ndarray, bits: int) -> np.ndarray:
    """[0, 1] as integers of so many bits, rounded; values outside are clipped."""
    top = (1 << bits) - 1
    return np.clip(np.floor(values * top + 0.5), 0, top).astype(np.uint32)


def logits_of_bytes(alphas: np.ndarray) -> np.ndarray:
    """Logits (N,) of opacities in bytes; 0 and 255 stand for almost 0 and almost 1, so that everything stays finite and can be optimized."""
    share = alphas.astype(np.float64) / 255
    with np.errstate(divide="ignore"):
        return np.clip(np.log(share) - np.log1p(-share), -MAX_LOGIT, MAX_LOGIT)


def bytes_of_logits(logits: np.ndarray) -> np.ndarray:
    """The inverse: opacities as bytes (N,), rounded."""
    return to_unorm(1 / (1 + np.exp(-logits.astype(np.float64))), 8).astype(np.uint8)


def used_degree(shN: np.ndarray) -> int:
    """The lowest SH degree that holds all coefficients of shN (N, 15, 3) that are not zero."""
    return max((degree for degree in (1, 2, 3) if shN[:, COEFFICIENTS[degree - 1] : COEFFICIENTS[degree]].any()), default=0)


def morton_order(means: np.ndarray) -> np.ndarray:
    """Positions (N,) that sort `means` (N, 3) along a Z-order curve of 1024 cells per axis."""
    low, high = means.min(0), means.max(0)
    cells = ((means - low) / np.maximum(high - low, 1e-20) * 1023).astype(np.uint64)
    code = np.zeros(len(means), np.uint64)
    for bit in range(10):
        for axis in range(3):
            code |= ((cells[:, axis] >> np.uint64(bit)) & np.uint64(1)) << np.uint64(3 * bit + axis)
    return np.argsort(code, kind="stable")

"""Gaussians in another frame: a similarity moves, turns and scales them, and turns their view-dependent colours along.

SH convention: real spherical harmonics with the signs of 3DGS and gsplat; a colour is `0.5 + sum_k sh[k] Y_k(direction)`, with the unit
direction from the camera to the Gaussian.
"""

from __future__ import annotations

import functools
import math

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from ..scenes.scene import Similarity
from .record import SH_C0, Gaussians

_DEGREE_SLICES = (slice(1, 4), slice(4, 9), slice(9, 16))  # coefficients of degrees 1, 2, 3 among the 16


def sh_basis(directions: Tensor) -> Tensor:
    """The 16 basis functions of degrees 0 to 3 at unit `directions` (..., 3): (..., 16). Signs and order of 3DGS."""
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    values = [
        torch.full_like(x, SH_C0),
        -0.4886025119029199 * y,
        0.4886025119029199 * z,
        -0.4886025119029199 * x,
        1.0925484305920792 * x * y,
        -1.0925484305920792 * y * z,
        0.31539156525252005 * (2 * zz - xx - yy),
        -1.0925484305920792 * x * z,
        0.5462742152960396 * (xx - yy),
        -0.5900435899266435 * y * (3 * xx - yy),
        2.890611442640554 * x * y * z,
        -0.4570457994644658 * y * (4 * zz - xx - yy),
        0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
        -0.4570457994644658 * x * (4 * zz - xx - yy),
        1.445305721320277 * z * (xx - yy),
        -0.5900435899266435 * x * (xx - 3 * yy),
    ]
    return torch.stack(values, dim=-1)


def sh_rotation(rotation: Tensor) -> Tensor:
    """The matrix D (16, 16) float64 with `Y(R d) = D Y(d)` for every direction d; block-diagonal by degree, orthonormal.

    Found by least squares over fixed directions: exact up to rounding, since rotations keep every degree to itself, and right for whatever
    signs and order `sh_basis` has. Coefficients turn like the basis, `sh' = D sh`, because D is orthonormal.
    """
    directions = _spread_directions()
    before, after = sh_basis(directions), sh_basis(directions @ rotation.double().T)
    result = torch.eye(16, dtype=torch.float64)
    for block in _DEGREE_SLICES:
        result[block, block] = torch.linalg.lstsq(before[:, block], after[:, block]).solution.T
    return result


def transform_gaussians(gaussians: Gaussians, similarity: Similarity) -> Gaussians:
    """The same Gaussians in the frame that `similarity` leads to; rendered from transformed cameras they look the same.

    Means are mapped (in float64: input frames may be far from their origin), rotations and SH coefficients turned, log-scales shifted by the log
    of the scale; opacities stay.
    """
    rotation = similarity.rotation.double().cpu()
    turn = [*Rotation.from_matrix(rotation.numpy()).as_quat()]  # xyzw
    quats, sh = gaussians.quats.clone(), gaussians.sh()
    if not torch.equal(rotation, torch.eye(3, dtype=torch.float64)):  # normalising a scene does not turn it: the usual case is a copy
        quats = _quat_product(turn[3], turn[:3], quats)
        sh = sh_rotation(rotation).to(sh) @ sh
    return Gaussians(
        means=similarity.apply(gaussians.means),
        quats=quats,
        log_scales=gaussians.log_scales + math.log(similarity.scale),
        logit_opacities=gaussians.logit_opacities.clone(),
        sh0=sh[:, :1].contiguous(),
        shN=sh[:, 1:].contiguous(),
    )


def _quat_product(w: float, xyz: list[float], quats: Tensor) -> Tensor:
    """The quaternion (w, xyz) times each of `quats` (N, 4) wxyz: first theirs, then ours. Keeps their lengths."""
    ours = quats.new_tensor(xyz).expand(len(quats), 3)
    real, imaginary = quats[:, :1], quats[:, 1:]
    product = w * imaginary + real * ours + torch.linalg.cross(ours, imaginary)
    return torch.cat([w * real - (ours * imaginary).sum(1, keepdim=True), product], dim=1)


@functools.cache
def _spread_directions(count: int = 64) -> Tensor:
    """`count` unit directions (float64), evenly spread: a Fibonacci spiral."""
    i = torch.arange(count, dtype=torch.float64) + 0.5
    z = 1 - 2 * i / count
    angle = i * math.pi * (3 - math.sqrt(5))
    radius = (1 - z * z).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], dim=1)

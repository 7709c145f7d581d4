"""What a browser is sent of a splat: centres, covariances, opacities, and colours as they are seen from one place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..gaussians import Gaussians

C0, C1 = 0.28209479177387814, 0.4886025119029199
C2 = (1.0925484305920792, 0.31539156525252005, 0.5462742152960396)
C3 = (0.5900435899266435, 2.890611442640554, 0.4570457994644658, 0.3731763325901154, 1.445305721320277)
INVISIBLE = 0.5 / 255  # opacity


@dataclass(frozen=True, eq=False)
class Shown:
    """float32: centers (N, 3), covariances (N, 3, 3), opacities (N, 1), rgbs (N, 3) in [0, 1]; what viser takes."""

    centers: np.ndarray
    covariances: np.ndarray
    opacities: np.ndarray
    rgbs: np.ndarray


@torch.no_grad()
def shown(gaussians: Gaussians, eye: np.ndarray | None) -> Shown:
    """The Gaussians that can be seen at all, with their colours as seen from `eye` (3,); None: without what depends on the view."""
    g = gaussians.detach().to("cpu")
    g = g[torch.nonzero(g.logit_opacities.sigmoid() > INVISIBLE)[:, 0]]
    w, x, y, z = torch.nn.functional.normalize(g.quats, dim=1).unbind(1)
    rotation = torch.stack(
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y), 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
         2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=1).reshape(-1, 3, 3)  # fmt: skip
    half = rotation * g.log_scales.exp()[:, None]
    return Shown(
        g.means.numpy(),
        (half @ half.transpose(1, 2)).numpy(),
        g.logit_opacities.sigmoid()[:, None].numpy(),
        colors_from(g, eye).numpy(),
    )


@torch.no_grad()
def colors_from(gaussians: Gaussians, eye: np.ndarray | None) -> Tensor:
    """(N, 3) in [0, 1]."""
    base = 0.5 + C0 * gaussians.sh0[:, 0]
    if eye is None:
        return base.clamp(0, 1)
    directions = torch.nn.functional.normalize(gaussians.means - torch.as_tensor(np.asarray(eye), dtype=torch.float32), dim=1)
    return (base + torch.einsum("nk,nkc->nc", _harmonics(directions), gaussians.shN)).clamp(0, 1)


def _harmonics(d: Tensor) -> Tensor:
    """(N, 15) real spherical harmonics of degrees 1 to 3 at unit directions (N, 3), in the order and with the signs of 3DGS (arXiv:2308.04079)."""
    x, y, z = d.unbind(1)
    xx, yy, zz = x * x, y * y, z * z
    return torch.stack(
        [-C1 * y, C1 * z, -C1 * x,
         C2[0] * x * y, -C2[0] * y * z, C2[1] * (2 * zz - xx - yy), -C2[0] * x * z, C2[2] * (xx - yy),
         -C3[0] * y * (3 * xx - yy), C3[1] * x * y * z, -C3[2] * y * (4 * zz - xx - yy), C3[3] * z * (2 * zz - 3 * xx - 3 * yy),
         -C3[2] * x * (4 * zz - xx - yy), C3[4] * z * (xx - yy), -C3[0] * x * (xx - 3 * yy)], dim=1)  # fmt: skip

"""The inner loss of some photos, its gradient, and what the density control wants to see of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..density.base import Observation
from ..gaussians.record import Gaussians
from ..losses import photometric_loss
from ..render import rasterize
from ..scenes import Scene
from .evaluate import by_size, photos, pixel_weights, render_photos


def loss_and_gradients(scene: Scene, gaussians: Gaussians, views: Sequence[int]) -> tuple[float, Gaussians]:
    """The inner loss, summed over `views` (photo positions; any sizes), and its gradient with respect to the stored fields."""
    leaves = gaussians.detach().requires_grad_()
    total = sum(
        photometric_loss(*render_photos(scene, leaves, same), weights=pixel_weights(scene, same, leaves.means)) for same in by_size(scene, views)
    )
    grads = torch.autograd.grad(total, list(leaves.tensors().values()))
    return float(total.detach()), Gaussians(*grads)


def observed_gradients(
    scene: Scene, gaussians: Gaussians, views: Sequence[int], observes: Literal["grad", "absgrad"]
) -> tuple[float, Gaussians, list[Observation]]:
    """`loss_and_gradients`, and per photo size what `density.DensityControl.observe` takes."""
    leaves = gaussians.detach().requires_grad_()
    total: float | Tensor = 0.0
    metas = []
    for same in by_size(scene, views):
        like, rows = leaves.means, torch.as_tensor(same)
        width, height = scene.size(same[0])
        renders, _, meta = rasterize(
            leaves.means, leaves.quats, leaves.log_scales.exp(), leaves.logit_opacities.sigmoid(), leaves.sh(),
            scene.viewmats[rows].to(like), scene.Ks[rows].to(like), width, height, sh_degree=3,
            backgrounds=scene.background.to(like).expand(len(same), 3), absgrad=observes == "absgrad", eps2d=scene.eps2d,
        )  # fmt: skip
        targets = photos(scene, same, like)
        total = total + photometric_loss(renders, targets, weights=pixel_weights(scene, same, renders))
        metas.append(meta)
    total.backward()
    observations = [
        Observation(
            meta["means2d"].absgrad if observes == "absgrad" else meta["means2d"].grad, meta["radii"], meta["width"], meta["height"], len(views)
        )
        for meta in metas
    ]
    return float(total.detach()), Gaussians(*(leaf.grad for leaf in leaves.tensors().values())), observations

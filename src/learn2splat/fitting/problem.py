"""The views of one step as a nonlinear least-squares problem, for rules of second order: `optimizers.base.Problem` of a scene."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..gaussians.record import COLUMNS, NUM_PARAMS, Gaussians
from ..optimizers.base import Problem, RenderedViews
from ..scenes import Scene
from .evaluate import by_size, pixel_weights, render_photos

# Of the number that moves most, in its own unit, to either side. The others move far less, and then rounding counts more than curvature: on fern, CG
# converges several times further with 0.3 than with 0.02.
DIFFERENCE_STEP = 0.3


class ViewsProblem(Problem):
    """Residuals (render - photo) / sqrt(pixels x channels) of some photos: their squared norm is the mean squared error, summed over photos.
    Masked pixels have none.

    J v is a central difference of renders, because the native rasterizer has no forward mode: two renders. J^T u is its backward pass, over a graph
    that is kept from the first call on: no render.
    """

    def __init__(self, scene: Scene, gaussians: Gaussians, views: Sequence[int]) -> None:
        """`views`: photo positions, of any sizes."""
        self.scene, self.groups = scene, by_size(scene, views)
        self._leaves = gaussians.detach().requires_grad_()
        pairs = [render_photos(scene, self._leaves, group) for group in self.groups]
        self._renders = [renders for renders, _ in pairs]
        self._targets = [targets for _, targets in pairs]
        self._weights = [_residual_weights(scene, group, targets) for group, targets in zip(self.groups, self._targets)]
        self.residuals = self._joined([(renders.detach() - targets) for renders, targets in pairs])
        self._flat = gaussians.detach().flatten()
        self._units = torch.ones_like(self._flat)
        self._units[:, COLUMNS["means"]] = gaussians.log_scales.detach().amax(1, keepdim=True).exp()
        self._units[:, COLUMNS["quats"]] = gaussians.quats.detach().norm(dim=1, keepdim=True).clamp_min(1e-6)

    def views(self) -> tuple[RenderedViews, ...]:
        parts = zip(self._renders, self._targets, self.groups)
        return tuple(RenderedViews(renders.detach(), photos, self.scene.viewmats[group], self.scene.Ks[group]) for renders, photos, group in parts)

    def jvp(self, direction: Tensor) -> Tensor:
        largest = float((direction.abs() / self._units).max()) if direction.numel() else 0.0
        if largest == 0:
            return torch.zeros_like(self.residuals)
        step = DIFFERENCE_STEP / largest
        ahead, behind = (self._rendered(Gaussians.unflatten(self._flat + side * step * direction)) for side in (1, -1))
        return self._joined([(a - b) / (2 * step) for a, b in zip(ahead, behind)])

    def vjp(self, cotangent: Tensor) -> Tensor:
        parts = cotangent.split([renders.numel() for renders in self._renders])
        seeds = [weight * part.view_as(renders) for weight, part, renders in zip(self._weights, parts, self._renders)]
        grads = torch.autograd.grad(self._renders, list(self._leaves.tensors().values()), seeds, retain_graph=True)
        return torch.cat([grad.reshape(len(grad), -1) for grad in grads], dim=1).view(-1, NUM_PARAMS)

    def cost(self, gaussians: Gaussians) -> float:
        residuals = self._joined([renders - targets for renders, targets in zip(self._rendered(gaussians), self._targets)])
        return 0.5 * float(residuals.double().square().sum())

    @torch.no_grad()
    def _rendered(self, gaussians: Gaussians) -> list[Tensor]:
        return [render_photos(self.scene, gaussians, group)[0] for group in self.groups]

    def _joined(self, images: list[Tensor]) -> Tensor:
        return torch.cat([(weight * image).reshape(-1) for weight, image in zip(self._weights, images)])


def _residual_weights(scene: Scene, group: Sequence[int], targets: Tensor) -> Tensor | float:
    """What differences (V, H, W, 3) of photos of one size are multiplied with."""
    pixels = pixel_weights(scene, group, targets)
    if pixels is None:
        return targets[0].numel() ** -0.5
    return (pixels / (targets.shape[3] * pixels.sum(dim=(1, 2), keepdim=True))).sqrt().unsqueeze(3)

"""The inner loop of gsplat's `simple_trainer`, on a CPU: its dictionary of parameters, our `rasterize` and loss, any of its strategies."""

from __future__ import annotations

import torch

from learn2splat.gaussians import Gaussians
from learn2splat.losses import photometric_loss
from learn2splat.render import rasterize
from learn2splat.scenes import Scene

NAMES = {"means": "means", "scales": "log_scales", "quats": "quats", "opacities": "logit_opacities", "sh0": "sh0", "shN": "shN"}  # gsplat's: ours


def splats_of(gaussians: Gaussians) -> torch.nn.ParameterDict:
    return torch.nn.ParameterDict({name: torch.nn.Parameter(getattr(gaussians, ours).clone()) for name, ours in NAMES.items()})


def gaussians_of(splats: torch.nn.ParameterDict) -> Gaussians:
    return Gaussians(**{ours: splats[name].detach() for name, ours in NAMES.items()})


def render(splats, scene: Scene, views: list[int], **options):
    width, height = scene.size(views[0])
    colors = torch.cat([splats["sh0"], splats["shN"]], 1)
    return rasterize(splats["means"], splats["quats"], splats["scales"].exp(), splats["opacities"].sigmoid(), colors, scene.viewmats[views],
                     scene.Ks[views], width, height, sh_degree=3, **options)  # fmt: skip


def train(splats, optimizers, scene: Scene, steps: int, strategy=None, state=None, *, lr: float | None = None, **options) -> list[int]:
    """Views one after the other. Returns how many Gaussians there were after each step."""
    counts, train_views = [], list(scene.train_idx)
    for step in range(steps):
        view = [train_views[step % len(train_views)]]
        image, _, info = render(splats, scene, view, **options)
        if strategy is not None:
            strategy.step_pre_backward(splats, optimizers, state, step, info)
        photometric_loss(image, torch.stack([scene.image(i) for i in view])).backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if strategy is not None and lr is None:
            strategy.step_post_backward(splats, optimizers, state, step, info, packed=False)
        elif strategy is not None:
            strategy.step_post_backward(splats, optimizers, state, step, info, lr=lr)
        counts.append(len(splats["means"]))
    return counts

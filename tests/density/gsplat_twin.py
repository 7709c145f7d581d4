"""The same Gaussians in gsplat's hands: its dictionaries of parameters and of `torch.optim.Adam`, and back again."""

from __future__ import annotations

from dataclasses import replace

import torch

from learn2splat.density import Splat, Surroundings
from learn2splat.gaussians import Gaussians
from learn2splat.optimizers import Task, UpdateRule, make_optimizer

NAMES = {"means": "means", "quats": "quats", "scales": "log_scales", "opacities": "logit_opacities", "sh0": "sh0", "shN": "shN"}  # gsplat's: ours


class GsplatTwin:
    """`params` and `optimizers` as gsplat's strategies change them. The optimizers have made one step, so that there are moments."""

    def __init__(self, gaussians: Gaussians, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.params = {name: torch.nn.Parameter(getattr(gaussians, ours).clone()) for name, ours in NAMES.items()}
        self.optimizers = {name: torch.optim.Adam([parameter], lr=0.0) for name, parameter in self.params.items()}
        for name, parameter in self.params.items():
            parameter.grad = torch.randn(parameter.shape, generator=g, dtype=parameter.dtype)
            self.optimizers[name].step()

    def gaussians(self) -> Gaussians:
        return Gaussians(**{ours: self.params[name].detach() for name, ours in NAMES.items()})

    def moments(self, key: str) -> torch.Tensor:
        """`exp_avg` or `exp_avg_sq` as (N, 59), in the order of `Gaussians.flatten`."""
        parts = {ours: self.optimizers[name].state[self.params[name]][key] for name, ours in NAMES.items()}
        return Gaussians(**parts).flatten()


def surroundings(rule: UpdateRule | None = None, seed: int = 0) -> Surroundings:
    """No scene: what is tested here does not look at one."""
    return Surroundings(scene=None, rule=rule or make_optimizer("adam"), generator=torch.Generator().manual_seed(seed))


def splat_of(gaussians: Gaussians, rule: UpdateRule, control, scene_scale: float = 1.0) -> Splat:
    state = rule.init(gaussians, Task(scene_scale, views_per_step=4, steps=100), torch.Generator().manual_seed(0))
    return Splat(gaussians, state, control.init_stats(gaussians))


def with_moments(splat: Splat, twin: GsplatTwin) -> Splat:
    """With the twin's moments as those of `adam`."""
    tensors = {"m": twin.moments("exp_avg").clone(), "v": twin.moments("exp_avg_sq").clone()}
    return replace(splat, state=replace(splat.state, tensors=tensors))

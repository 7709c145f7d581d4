"""Random Gaussians and gradients for tests, all from one seed."""

from __future__ import annotations

import torch

from learn2splat.gaussians.record import SHAPES, Gaussians


def random_gaussians(n: int = 50, seed: int = 0, dtype: torch.dtype = torch.float32) -> Gaussians:
    """Plausible Gaussians: means of spread 1, unit quats, scales around 0.05, SH well inside the clamps."""
    g = torch.Generator().manual_seed(seed)
    normal = {name: torch.randn(n, *shape, generator=g, dtype=torch.float64) for name, shape in SHAPES.items()}
    fields = {
        "means": normal["means"],
        "quats": torch.nn.functional.normalize(normal["quats"], dim=1),
        "log_scales": -3 + 0.5 * normal["log_scales"],
        "logit_opacities": normal["logit_opacities"],
        "sh0": 0.3 * normal["sh0"],
        "shN": 0.1 * normal["shN"],
    }
    return Gaussians(**fields).to(dtype)


def random_gradients(n: int = 50, seed: int = 0, dtype: torch.dtype = torch.float32, scale: float = 1e-3) -> Gaussians:
    """Normal numbers of size `scale` in every field."""
    g = torch.Generator().manual_seed(seed)
    return Gaussians(*(scale * torch.randn(n, *shape, generator=g, dtype=torch.float64) for shape in SHAPES.values())).to(dtype)


def same_bits(a: Gaussians, b: Gaussians) -> bool:
    """Whether all fields are equal to the last bit."""
    return all(torch.equal(x, y) for x, y in zip(a.tensors().values(), b.tensors().values()))

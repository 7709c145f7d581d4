"""Random scenes for the rasterizer tests, and how two gradients are compared."""

from __future__ import annotations

import torch
from torch import Tensor

GAUSSIAN_KEYS = ("means", "quats", "scales", "opacities", "colors")
GRAD_KEYS = (*GAUSSIAN_KEYS, "backgrounds", "viewmats")


def look_at(centers: Tensor, target: Tensor) -> Tensor:
    """World-to-camera matrices (C, 4, 4), OpenCV axes, of cameras at `centers` (C, 3) that look at `target` (3,)."""
    forward = torch.nn.functional.normalize(target - centers, dim=-1)
    down = torch.tensor([0.0, 1.0, 0.0], dtype=centers.dtype).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(down, forward), dim=-1)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-2)
    viewmats = torch.eye(4, dtype=centers.dtype).repeat(len(centers), 1, 1)
    viewmats[:, :3, :3] = rotation
    viewmats[:, :3, 3] = -(rotation @ centers[..., None])[..., 0]
    return viewmats


def random_scene(seed: int, n: int, *, cameras: int = 1, width: int = 21, height: int = 17, sh_degree: int | None = None, coeffs: int | None = None,
                 size: float = 0.15, dtype=torch.float64) -> dict:  # fmt: skip
    """The arguments of `rasterize`: n anisotropic Gaussians in a box of side 2 around the origin, cameras at distance 4 that look at it.

    Some Gaussians lie off screen, most pixels see several, opacities span (0, 1).
    """
    g = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    centers = torch.tensor([0.0, 0.0, -4.0], dtype=torch.float64) + 0.7 * randn(cameras, 3)
    coeffs = coeffs if coeffs is not None or sh_degree is None else (sh_degree + 1) ** 2
    scene = {
        "means": 2 * rand(n, 3) - 1,
        "quats": randn(n, 4) * (0.5 + rand(n, 1)),  # not normalised, on purpose
        "scales": size * torch.exp(0.5 * randn(n, 3)),
        "opacities": torch.sigmoid(1.5 * randn(n)),
        "colors": rand(n, 3) if sh_degree is None else 0.4 * randn(n, coeffs, 3),
        "viewmats": look_at(centers, 0.1 * randn(3)),
        "Ks": torch.tensor([[0.9 * width, 0, 0.47 * width], [0, 1.0 * width, 0.53 * height], [0, 0, 1]], dtype=torch.float64).repeat(cameras, 1, 1),
        "backgrounds": rand(cameras, 3),
    }
    scene = {key: value.to(dtype) for key, value in scene.items()}
    return {**scene, "width": width, "height": height, "sh_degree": sh_degree}


def smooth_scene() -> dict:
    """No cut-off in reach: alphas within (0.01, 0.9) at every pixel, depths apart, all Gaussians well inside the frustum clamp."""
    n, width, height = 4, 5, 4
    g = torch.Generator().manual_seed(7)
    means = torch.rand(n, 3, generator=g, dtype=torch.float64) * torch.tensor([0.4, 0.4, 0.0]) + torch.tensor([-0.2, -0.2, 0.0])
    means[:, 2] = torch.tensor([-0.6, -0.2, 0.2, 0.6])
    return {
        "means": means,
        "quats": torch.randn(n, 4, generator=g, dtype=torch.float64),
        "scales": 1.2 + 0.4 * torch.rand(n, 3, generator=g, dtype=torch.float64),
        "opacities": torch.tensor([0.3, 0.5, 0.4, 0.6], dtype=torch.float64),
        "colors": 0.1 * torch.randn(n, 16, 3, generator=g, dtype=torch.float64),
        "viewmats": look_at(torch.tensor([[0.2, -0.1, -4.0], [-0.3, 0.2, -3.5]], dtype=torch.float64), torch.zeros(3, dtype=torch.float64)),
        "Ks": torch.tensor([[6.0, 0, 2.4], [0, 6.5, 2.1], [0, 0, 1]], dtype=torch.float64).repeat(2, 1, 1),
        "backgrounds": torch.rand(2, 3, generator=g, dtype=torch.float64),
        "width": width,
        "height": height,
        "sh_degree": 3,
    }


def with_grad(scene: dict, keys=GRAD_KEYS) -> dict:
    """A copy whose tensors `keys` are new leaves that require gradients."""
    return {k: v.detach().clone().requires_grad_() if k in keys and isinstance(v, Tensor) else v for k, v in scene.items()}


def render_with_grads(rasterize, scene: dict, *, seed: int = 0, **options):
    """Render, then back-propagate random weights of images and alphas: renders, alphas, meta, and {name: gradient}."""
    scene = with_grad(scene)
    renders, alphas, meta = rasterize(**scene, **options)
    g = torch.Generator().manual_seed(seed)
    weights = [torch.randn(t.shape, generator=g, dtype=torch.float64).to(t.dtype) for t in (renders, alphas)]
    loss = (renders * weights[0]).sum() + (alphas * weights[1]).sum()
    if loss.requires_grad:
        loss.backward()
    grads = {k: torch.zeros_like(scene[k]) if scene[k].grad is None else scene[k].grad for k in GRAD_KEYS if isinstance(scene[k], Tensor)}
    if meta["means2d"].grad is not None:
        grads["means2d"] = meta["means2d"].grad
    if hasattr(meta["means2d"], "absgrad"):
        grads["absgrad"] = meta["means2d"].absgrad
    return renders.detach(), alphas.detach(), meta, grads


def relative_error(value: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected magnitude (entries cancel, so an elementwise ratio means little)."""
    assert value.shape == expected.shape, (value.shape, expected.shape)
    if value.numel() == 0:
        return 0.0
    return ((value.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-12)).item()


def cosine(value: Tensor, expected: Tensor) -> float:
    """Cosine of two tensors as vectors."""
    return torch.nn.functional.cosine_similarity(value.double().flatten(), expected.double().flatten(), dim=0).item()


def permuted(scene: dict, order) -> dict:
    return {k: v[order] if k in GAUSSIAN_KEYS else v for k, v in scene.items()}


FORWARD_TOL = 5e-13  # float64, relative to the largest entry: 20x the worst of the scenes below
GRAD_TOL = 1e-11  # likewise: 12x the worst


def assert_same(result, expected, tol=GRAD_TOL):
    """Images, alphas, meta of the visible Gaussians, and all gradients."""
    renders, alphas, meta, grads = result
    renders_e, alphas_e, meta_e, grads_e = expected
    assert relative_error(renders, renders_e) < FORWARD_TOL
    assert relative_error(alphas, alphas_e) < FORWARD_TOL
    assert meta["radii"].shape == meta_e["radii"].shape and not meta["radii"].dtype.is_floating_point
    assert torch.equal(meta["radii"].int(), meta_e["radii"])
    visible = meta_e["radii"][..., 0] > 0
    for key in ("means2d", "depths", "conics", "opacities"):
        assert relative_error(meta[key].expand(visible.shape + meta[key].shape[2:])[visible], meta_e[key][visible]) < FORWARD_TOL, key
    assert grads.keys() == grads_e.keys()
    for key in grads:
        assert relative_error(grads[key], grads_e[key]) < tol, key

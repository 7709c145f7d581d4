"""CUDA tensors go to gsplat, whose call and conventions `rasterize` has."""

from __future__ import annotations

from ..errors import BackendError


def rasterize_cuda(means, quats, scales, opacities, colors, viewmats, Ks, width, height, **options):
    """`rasterize` on a GPU; see there."""
    try:
        from gsplat import rasterization
    except ImportError as error:
        raise BackendError("CUDA tensors are rendered by gsplat, which is not installed: pip install 'learn2splat[cuda]'") from error
    renders, alphas, meta = rasterization(means, quats, scales, opacities, colors, viewmats, Ks, width, height, packed=False, **options)
    if meta["means2d"].requires_grad:
        meta["means2d"].retain_grad()
    return renders, alphas, meta

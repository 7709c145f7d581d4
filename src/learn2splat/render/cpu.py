"""Autograd around the native CPU rasterizer: two functions, projection and blending, so that `means2d` is a node of the graph.

Density control reads the gradient of `means2d`, as with gsplat; everything else is an implementation detail of `rasterize`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import OptionError
from ..threads import num_threads

CAMERA_GRAD = 15  # per view: dL/dR (9, row-major), dL/dt (3), dL/d(camera centre) (3)


def _native(name: str, dtype: torch.dtype):
    from .. import _native as native

    return getattr(native, f"{name}_{'f32' if dtype == torch.float32 else 'f64'}")


def _array(tensor: Tensor | None):
    """A NumPy view: binding one costs a tenth of binding a torch tensor."""
    return None if tensor is None else tensor.detach().contiguous().numpy()


class _Project(torch.autograd.Function):
    """(means, quats, scales, opacities, sh, campos, viewmats) -> means2d, depths, conics, compensated opacities, colors, radii."""

    @staticmethod
    def forward(ctx, means, quats, scales, opacities, sh, campos, viewmats, Ks, width, height, near_plane, far_plane, eps2d, sh_degree, antialiased):
        C, N = len(viewmats), len(means)
        ctx.set_materialize_grads(False)
        inputs = (means, quats, scales, opacities, sh, campos, viewmats, Ks)
        options = (width, height, near_plane, far_plane, eps2d, -1 if sh is None else sh_degree)
        means2d, conics = means.new_empty(C, N, 2), means.new_empty(C, N, 3)
        depths = means.new_empty(C, N)
        radii = torch.empty(C, N, 2, dtype=torch.int32)
        compensated = means.new_empty(C, N) if antialiased else None
        colors = means.new_empty(C, N, 3) if sh is not None else None
        _native("project_forward", means.dtype)(*map(_array, inputs), *options, num_threads(), means2d.numpy(), depths.numpy(), conics.numpy(),
                                                _array(compensated), _array(colors), radii.numpy())  # fmt: skip
        ctx.options, ctx.antialiased = options, antialiased
        ctx.save_for_backward(*inputs, colors, radii)  # autograd then notices changes in place, and frees or offloads them
        ctx.mark_non_differentiable(radii)
        return means2d, depths, conics, compensated, colors, radii

    @staticmethod
    @once_differentiable
    def backward(ctx, v_means2d, v_depths, v_conics, v_compensated, v_colors, _):
        from .. import _native as native

        *inputs, colors, radii = ctx.saved_tensors
        means, quats, scales, opacities, sh, _campos, viewmats, _Ks = inputs
        v_means, v_quats, v_scales = (means.new_empty(t.shape) for t in (means, quats, scales))
        v_opacities = means.new_empty(opacities.shape) if ctx.antialiased else None
        v_sh = None if sh is None else means.new_empty(sh.shape)
        chunks = -(-len(means) // native.PROJECT_CHUNK)
        wants_cameras = ctx.needs_input_grad[5] or ctx.needs_input_grad[6]
        v_cameras = means.new_empty(chunks, len(viewmats), CAMERA_GRAD) if wants_cameras else None
        _native("project_backward", means.dtype)(*map(_array, inputs), *ctx.options, num_threads(), *map(_array, (colors, radii)),
                                                 *map(_array, (v_means2d, v_depths, v_conics, v_compensated, v_colors)),
                                                 *map(_array, (v_means, v_quats, v_scales, v_opacities, v_sh, v_cameras)))  # fmt: skip
        v_campos = v_viewmats = None
        if wants_cameras:
            total = v_cameras.sum(0)
            v_viewmats = means.new_zeros(viewmats.shape)
            v_viewmats[:, :3, :3] = total[:, :9].view(-1, 3, 3)
            v_viewmats[:, :3, 3] = total[:, 9:12]
            v_campos = None if sh is None else total[:, 12:]
        return v_means, v_quats, v_scales, v_opacities, v_sh, v_campos, v_viewmats, *(None,) * 8


class _Blend(torch.autograd.Function):
    """(means2d, conics, opacities (1 or C, N), colors (1 or C, N, 3), depths, backgrounds) -> renders (C, H, W, D), alphas (C, H, W)."""

    @staticmethod
    def forward(ctx, means2d, conics, opacities, colors, depths, backgrounds, radii, width, height, with_depth, absgrad_of):
        C, N = depths.shape
        ctx.set_materialize_grads(False)
        renders = means2d.new_empty(C, height, width, (0 if colors is None else 3) + int(with_depth))
        alphas = means2d.new_empty(C, height, width)
        try:
            ctx.state = _native("raster_forward", means2d.dtype)(*map(_array, (means2d, conics, opacities, colors, depths, radii, backgrounds)),
                                                                num_threads(), renders.numpy(), alphas.numpy())  # fmt: skip
        except OverflowError as error:
            raise OptionError(f"{N} Gaussians cannot be rendered at {width} x {height} px: {error}; prune them, or render smaller") from error
        ctx.shape, ctx.with_depth, ctx.absgrad_of = renders.shape, with_depth, absgrad_of
        ctx.shared_opacities, ctx.shared_colors = len(opacities) != C, None if colors is None else len(colors) != C
        ctx.save_for_backward(depths, backgrounds)  # `state` holds what it needs of the others
        return renders, alphas

    @staticmethod
    @once_differentiable
    def backward(ctx, v_renders, v_alphas):
        depths, backgrounds = ctx.saved_tensors
        C, N = depths.shape
        if v_renders is None:
            v_renders = depths.new_zeros(ctx.shape)
        v_means2d, v_conics, v_opacities = depths.new_empty(C, N, 2), depths.new_empty(C, N, 3), depths.new_empty(C, N)
        v_colors = None if ctx.shared_colors is None else depths.new_empty(C, N, 3)
        v_depths = depths.new_empty(C, N) if ctx.with_depth else None
        v_backgrounds = depths.new_empty(backgrounds.shape) if backgrounds is not None and ctx.needs_input_grad[5] else None
        absgrad = depths.new_empty(C, N, 2) if ctx.absgrad_of is not None else None
        _native("raster_backward", depths.dtype)(ctx.state, _array(backgrounds), num_threads(), *map(_array, (v_renders, v_alphas)),
                                                 *map(_array, (v_means2d, v_conics, v_opacities, v_colors)),
                                                 *map(_array, (v_depths, absgrad, v_backgrounds)))  # fmt: skip
        if ctx.absgrad_of is not None:
            ctx.absgrad_of.absgrad = absgrad
        if ctx.shared_opacities:
            v_opacities = v_opacities.sum(0, keepdim=True)
        if ctx.shared_colors:
            v_colors = v_colors.sum(0, keepdim=True)
        return v_means2d, v_conics, v_opacities, v_colors, v_depths, v_backgrounds, *(None,) * 5


def rasterize_cpu(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, viewmats: Tensor, Ks: Tensor, width: int, height: int, *,
    sh_degree: int | None, near_plane: float, far_plane: float, eps2d: float, backgrounds: Tensor | None, render_mode: str,
    antialiased: bool, absgrad: bool,
) -> tuple[Tensor, Tensor, dict]:  # fmt: skip
    """`rasterize` without ED's division, for CPU tensors whose shapes have been checked: renders, alphas (C, H, W), meta."""
    from .. import _native as native

    if width > native.MAX_WIDTH:
        raise OptionError(f"the CPU renders at most {native.MAX_WIDTH} px wide images, got {width}")
    sh = campos = None
    if sh_degree is not None and "RGB" in render_mode:
        sh, campos = colors, torch.linalg.inv_ex(viewmats)[0][:, :3, 3]  # no error for a singular one: nothing is seen through it
    means2d, depths, conics, compensated, view_colors, radii = _Project.apply(
        means, quats, scales, opacities, sh, campos, viewmats, Ks, width, height, near_plane, far_plane, eps2d, sh_degree, antialiased)  # fmt: skip
    if means2d.requires_grad:
        means2d.retain_grad()
    view_opacities = opacities[None] if compensated is None else compensated
    with_depth = "D" in render_mode
    if "RGB" not in render_mode:
        view_colors, backgrounds = None, None
    elif sh is None:
        view_colors = colors[None]
    if with_depth and backgrounds is not None:  # gsplat gives the depth channel a background of zero
        backgrounds = torch.cat([backgrounds, backgrounds.new_zeros(len(backgrounds), 1)], -1)
    renders, alphas = _Blend.apply(means2d, conics, view_opacities, view_colors, depths, backgrounds, radii, width, height, with_depth,
                                   means2d if absgrad and means2d.requires_grad else None)  # fmt: skip
    meta = {"means2d": means2d, "radii": radii, "depths": depths, "conics": conics, "opacities": view_opacities.expand(len(viewmats), -1)}
    return renders, alphas, meta

"""`rasterize`: gsplat's `rasterization` call for CPU and CUDA tensors alike. Checks what comes in, then picks the backend by device."""

from __future__ import annotations

import math
import operator

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import BackendError, OptionError, ShapeError
from ..gaussians import Gaussians
from .cpu import rasterize_cpu

RENDER_MODES = ("RGB", "D", "ED", "RGB+D", "RGB+ED")
RASTERIZE_MODES = ("classic", "antialiased")


def rasterize(
    means: Tensor,  # (N, 3)
    quats: Tensor,  # (N, 4)
    scales: Tensor,  # (N, 3)
    opacities: Tensor,  # (N,)
    colors: Tensor,  # (N, K, 3) or (N, D)
    viewmats: Tensor,  # (C, 4, 4)
    Ks: Tensor,  # (C, 3, 3)
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    packed: bool = False,
    tile_size: int = 16,
    backgrounds: Tensor | None = None,  # (C, 3)
    render_mode: str = "RGB",
    sparse_grad: bool = False,
    absgrad: bool = False,
    rasterize_mode: str = "classic",
) -> tuple[Tensor, Tensor, dict]:
    """Render N Gaussians into C pinhole views: 3D Gaussian Splatting (arXiv:2308.04079), with the conventions of gsplat's `rasterization`.

    Args:
        means: world units.
        quats: wxyz, any length but zero.
        scales: world units (not log).
        opacities: in [0, 1] (not logit).
        colors: with `sh_degree`, spherical harmonics of which the first (sh_degree + 1)^2 are used, K >= that; without, RGB or any other
            D numbers per Gaussian.
        viewmats: camera from world, OpenCV axes, rigid.
        Ks: px; the centre of pixel (row i, column j) is (j + 0.5, i + 0.5). Skew is ignored.
        sh_degree: 0 to 3, or None for RGB colours.
        near_plane, far_plane: world units along camera +z.
        radius_clip, packed, tile_size, sparse_grad: for calls written for gsplat. The first must be 0; the others change how it works and not what
            comes out, and are not needed here: `meta` is always that of packed=False.
        eps2d: px^2, added to the diagonal of the projected covariance.
        backgrounds: what lies behind the colours; depth has none.
        render_mode: colours, depth D = sum of weight * depth, expected depth ED = D / alpha, or colours and one of them.
        rasterize_mode: "antialiased" scales opacities by sqrt(det Sigma / det(Sigma + eps2d I)) (Mip-Splatting, arXiv:2311.16493, Eq. 9).
        absgrad: leave the sum over pixels of |d loss / d means2d| (AbsGS, arXiv:2404.10484) in `meta["means2d"].absgrad` after backward.

    Returns:
        renders (C, height, width, D), D = 3 (or the number of channels), 1 or one more, depth last; alphas (C, height, width, 1);
        meta with means2d (C, N, 2) px, radii (C, N, 2) int32 px (0: not visible), depths (C, N), conics (C, N, 3) px^-2, opacities (C, N),
        width, height, n_cameras, gaussian_ids (None: nothing is packed).

    Raises:
        ShapeError: an argument does not have the shape above, or dtypes or devices differ.
        OptionError: a mode, degree or size that does not exist.
        BackendError: CUDA tensors without gsplat.

    Gaussians with a number that is not finite, a zero quaternion, or a footprint too large for the dtype are not rendered and get zero gradients.
    Gradients reach means, quats, scales, opacities, colors, backgrounds and viewmats; `meta["means2d"]` retains its own. First derivatives only.
    On a CPU the result does not depend on the number of threads (LEARN2SPLAT_NUM_THREADS, else torch.get_num_threads()).
    In a process that was forked after torch has used threads, those are gone, and libgomp waits for them for ever, here as in torch's own operators:
    call `torch.set_num_threads(1)` there first, or start processes with `spawn`.
    """
    width, height = _whole(width, "width"), _whole(height, "height")
    if radius_clip != 0:
        raise OptionError(f"radius_clip must be 0, got {radius_clip}: nothing is left out here for being small")
    sh_degree = None if sh_degree is None else _whole(sh_degree, "sh_degree")
    channels = colors.shape[1] if isinstance(colors, Tensor) and colors.ndim == 2 else 3
    if sh_degree is None and channels not in (0, 3) and isinstance(means, Tensor) and means.device.type == "cpu" and "RGB" in render_mode:
        more = dict(near_plane=near_plane, far_plane=far_plane, eps2d=eps2d, rasterize_mode=rasterize_mode, absgrad=absgrad)
        return _of_any_width((means, quats, scales, opacities), colors, (viewmats, Ks, width, height), backgrounds, render_mode, more)
    _check(means, quats, scales, opacities, colors, viewmats, Ks, width, height, sh_degree, backgrounds, render_mode, rasterize_mode)
    if not (math.isfinite(near_plane) and far_plane > near_plane and math.isfinite(eps2d) and eps2d >= 0):
        got = f"near_plane {near_plane}, far_plane {far_plane} and eps2d {eps2d}"
        raise OptionError(f"rasterize needs a finite near_plane, a far_plane beyond it and eps2d of at least 0, got {got}")
    options = dict(
        sh_degree=sh_degree,
        near_plane=near_plane,
        far_plane=far_plane,
        eps2d=eps2d,
        backgrounds=backgrounds,
        render_mode=render_mode,
        absgrad=absgrad,
    )
    if means.device.type == "cuda":
        from .cuda import rasterize_cuda

        return rasterize_cuda(means, quats, scales, opacities, colors, viewmats, Ks, width, height, rasterize_mode=rasterize_mode, **options)
    if means.device.type != "cpu":
        raise BackendError(f"rasterize runs on cpu and cuda, got tensors on {means.device}: move them with .cpu()")
    renders, alphas, meta = rasterize_cpu(
        means, quats, scales, opacities, colors, viewmats, Ks, width, height, antialiased=rasterize_mode == "antialiased", **options
    )
    alphas = alphas[..., None]
    if render_mode.endswith("ED"):
        renders = torch.cat([renders[..., :-1], renders[..., -1:] / alphas.clamp(min=1e-10)], -1)
    return renders, alphas, {**meta, "width": width, "height": height, "n_cameras": len(viewmats), "gaussian_ids": None}


def render_views(
    gaussians: Gaussians,
    viewmats: Tensor,  # (C, 4, 4)
    Ks: Tensor,  # (C, 3, 3)
    width: int,
    height: int,
    *,
    background: Tensor | None = None,  # (3,)
    sh_degree: int = 3,
    eps2d: float = 0.3,
) -> Tensor:
    """Colours (C, height, width, 3) of stored Gaussians: activations (exp, sigmoid), then `rasterize`. Not clamped to [0, 1]."""
    backgrounds = None if background is None else background.expand(len(viewmats), 3)
    renders, _, _ = rasterize(
        gaussians.means, gaussians.quats, gaussians.log_scales.exp(), gaussians.logit_opacities.sigmoid(), gaussians.sh(), viewmats, Ks,
        width, height, sh_degree=sh_degree, backgrounds=backgrounds, eps2d=eps2d)  # fmt: skip
    return renders


def _of_any_width(
    splat: tuple, colors: Tensor, camera: tuple, backgrounds: Tensor | None, render_mode: str, more: dict
) -> tuple[Tensor, Tensor, dict]:
    """`rasterize` with colours (N, D) of any D, three at a time; depth and meta are those of the first three."""
    parts, first = [], None
    for start in range(0, colors.shape[1], 3):
        end = min(start + 3, colors.shape[1])
        behind = None if backgrounds is None else F.pad(backgrounds[:, start:end], (0, 3 - end + start))
        mode = render_mode if start == 0 else "RGB"
        result = rasterize(*splat, F.pad(colors[:, start:end], (0, 3 - end + start)), *camera, backgrounds=behind, render_mode=mode, **more)
        first = first or result
        parts.append(result[0][..., : end - start])
    return torch.cat([*parts, first[0][..., 3:]], -1), first[1], first[2]


def _whole(value: int, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise OptionError(f"{name} must be a whole number, got {value!r}") from None


def _check(means, quats, scales, opacities, colors, viewmats, Ks, width, height, sh_degree, backgrounds, render_mode, rasterize_mode) -> None:
    tensors = {"means": means, "quats": quats, "scales": scales, "opacities": opacities, "colors": colors, "viewmats": viewmats, "Ks": Ks}
    for name, tensor in {**tensors, **({} if backgrounds is None else {"backgrounds": backgrounds})}.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise ShapeError(f"{name} must be a dense torch tensor, got {type(tensor).__name__}: convert it with torch.as_tensor or .to_dense()")
    if means.ndim != 2 or means.shape[1] != 3:
        raise ShapeError(f"means must have shape (N, 3), got {tuple(means.shape)}")
    if viewmats.ndim != 3 or viewmats.shape[1:] != (4, 4):
        raise ShapeError(f"viewmats must have shape (C, 4, 4), got {tuple(viewmats.shape)}")
    N, C = len(means), len(viewmats)
    for name, tensor, shape in (("quats", quats, (N, 4)), ("scales", scales, (N, 3)), ("opacities", opacities, (N,)), ("Ks", Ks, (C, 3, 3))):
        if tensor.shape != shape:
            raise ShapeError(f"{name} must have shape {shape} (N = {N} from means, C = {C} from viewmats), got {tuple(tensor.shape)}")
    if backgrounds is not None and backgrounds.shape != (C, 3):
        raise ShapeError(f"backgrounds must have shape {(C, 3)} (C from viewmats), got {tuple(backgrounds.shape)}")
    if render_mode not in RENDER_MODES:
        raise OptionError(f"render_mode must be one of {', '.join(RENDER_MODES)}, got {render_mode!r}")
    if rasterize_mode not in RASTERIZE_MODES:
        raise OptionError(f"rasterize_mode must be one of {', '.join(RASTERIZE_MODES)}, got {rasterize_mode!r}")
    if width < 1 or height < 1:
        raise OptionError(f"width and height must be at least 1 px, got {width} x {height}")
    if sh_degree is None:
        if colors.shape != (N, 3):
            raise ShapeError(
                f"colors must have shape {(N, 3)} without sh_degree, got {tuple(colors.shape)}: pass sh_degree for spherical harmonics (N, K, 3)"
            )
    elif not 0 <= sh_degree <= 3:
        raise OptionError(f"sh_degree must be 0, 1, 2, 3 or None, got {sh_degree}")
    elif colors.ndim != 3 or colors.shape[::2] != (N, 3) or colors.shape[1] < (sh_degree + 1) ** 2:
        raise ShapeError(
            f"colors must have shape ({N}, K, 3) with K >= {(sh_degree + 1) ** 2} for sh_degree = {sh_degree}, got {tuple(colors.shape)}"
        )
    if means.dtype not in (torch.float32, torch.float64):
        raise ShapeError(f"means must be float32 or float64, got {means.dtype}")
    others = {"quats": quats, "scales": scales, "opacities": opacities, "colors": colors, "viewmats": viewmats, "Ks": Ks, "backgrounds": backgrounds}
    for name, tensor in others.items():
        if tensor is not None and (tensor.dtype != means.dtype or tensor.device != means.device):
            raise ShapeError(f"{name} must be {means.dtype} on {means.device} like means, got {tensor.dtype} on {tensor.device}")

"""The rasterizer in plain PyTorch: the oracle that the native core is tested against.

Written to be read, not to be fast: every pixel meets every visible Gaussian, one view at a time, and autograd gives all gradients.
Memory is height * width * (visible Gaussians) * 10 numbers, so use it for images of some ten pixels a side.

Semantics are those of gsplat 1.5 (`gsplat.rasterization`, packed=False): 3D Gaussian Splatting (arXiv:2308.04079), Eqs. 2-6, with the
opacity-aware radii of arXiv:2402.00525, the compensation of Mip-Splatting (arXiv:2311.16493, Eq. 9) and the absolute gradients of AbsGS
(arXiv:2404.10484). One difference: gsplat also clips a Gaussian to the 16x16 tiles that its box touches; here its support is
exactly the set of pixels where alpha >= ALPHA_CUTOFF.
"""

from __future__ import annotations

import torch
from torch import Tensor

ALPHA_CUTOFF = 1 / 255  # below one 8-bit step
ALPHA_MAX = 0.999  # keeps 1 - alpha away from 0
TRANSMITTANCE_CUTOFF = 1e-4  # a pixel stops before the Gaussian that would take it here
MAX_EXTENT = 3.33  # standard deviations; exp(-3.33^2 / 2) is just below ALPHA_CUTOFF
FRUSTUM_MARGIN = 0.3  # of half the field of view: beyond it the Jacobian is that of the border
ALPHA_MIN_DEPTH = 1e-10  # guards the division of expected depth


def rasterize_reference(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    sh_degree: int | None = None,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
    backgrounds: Tensor | None = None,
    render_mode: str = "RGB",
    rasterize_mode: str = "classic",
    absgrad: bool = False,
) -> tuple[Tensor, Tensor, dict]:
    """Render N Gaussians into C views; see `learn2splat.rasterize` for the arguments, which are the same.

    Returns:
        renders (C, height, width, D), D = 3 colours and/or 1 depth (last); alphas (C, height, width, 1); meta with means2d (C, N, 2) px,
        radii (C, N, 2) int32 px, depths (C, N), conics (C, N, 3) px^-2, opacities (C, N), all 0 for Gaussians that are not visible.

    Gradients reach every tensor but Ks; a Gaussian that is not visible in any view gets exactly zero. `meta["means2d"]` retains its
    gradient; with `absgrad` it gets, on the backward pass, an attribute `absgrad` (C, N, 2): the sum over pixels of |d loss / d means2d|.
    Shapes are not checked: `rasterize` does that.
    """
    views = range(viewmats.shape[0])
    projected = [_project_view(means, quats, scales, opacities, colors, viewmats[c], Ks[c], width, height, sh_degree, near_plane, far_plane,
                               eps2d, render_mode, rasterize_mode == "antialiased") for c in views]  # fmt: skip
    meta = {key: torch.stack([p[key] for p in projected]) for key in ("means2d", "radii", "depths", "conics", "opacities")}
    means2d = meta["means2d"]
    if means2d.requires_grad:
        means2d.retain_grad()

    renders, alphas = [], []
    for c in views:
        features = []
        if "RGB" in render_mode:
            features.append(_view_colors(means, colors, viewmats[c], projected[c]["visible"], sh_degree))
        if "D" in render_mode:
            features.append(meta["depths"][c, projected[c]["visible"], None])
        track = _AbsGrad(means2d, c, projected[c]["visible"]) if absgrad and means2d.requires_grad else None
        render, alpha = _blend_view({k: v[c] for k, v in meta.items()}, projected[c]["visible"], torch.cat(features, -1), width, height, track)
        if backgrounds is not None and "RGB" in render_mode:  # gsplat gives the depth channel a background of zero
            render = torch.cat([render[..., :3] + (1 - alpha) * backgrounds[c], render[..., 3:]], -1)
        if render_mode.endswith("ED"):
            render = torch.cat([render[..., :-1], render[..., -1:] / alpha.clamp(min=ALPHA_MIN_DEPTH)], -1)
        renders.append(render)
        alphas.append(alpha)
    return torch.stack(renders), torch.stack(alphas), meta


def quat_to_rotmat(quats: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4), wxyz, normalised here."""
    w, x, y, z = (quats / quats.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]  # fmt: skip
    return torch.stack(rows, -1).reshape(*quats.shape[:-1], 3, 3)


def sh_basis(dirs: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics up to `degree` <= 3 in unit directions (..., 3): (..., (degree + 1)^2), the 3DGS sign convention."""
    x, y, z = dirs.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    basis = [0.28209479177387814 * torch.ones_like(x)]
    if degree >= 1:
        c1 = 0.4886025119029199
        basis += [-c1 * y, c1 * z, -c1 * x]
    if degree >= 2:
        c2 = 1.0925484305920792
        basis += [c2 * x * y, -c2 * y * z, 0.31539156525252005 * (2 * zz - xx - yy), -c2 * x * z, 0.5462742152960396 * (xx - yy)]
    if degree >= 3:
        basis += [-0.5900435899266435 * y * (3 * xx - yy), 2.890611442640554 * x * y * z, -0.4570457994644658 * y * (4 * zz - xx - yy),
                  0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy), -0.4570457994644658 * x * (4 * zz - xx - yy),
                  1.445305721320277 * z * (xx - yy), -0.5900435899266435 * x * (xx - 3 * yy)]  # fmt: skip
    return torch.stack(basis, -1)


def _project(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, viewmat: Tensor, K: Tensor, width: int, height: int,
             eps2d: float, antialiased: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """To first order: means2d (n, 2), depths (n,), covariance (n, 3) as xx, xy, yy, its determinant (n,), opacities (n,) compensated."""
    rotation, translation = viewmat[:3, :3], viewmat[:3, 3]
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    p_cam = means @ rotation.T + translation
    x, y, z = p_cam.unbind(-1)
    axes = rotation @ (quat_to_rotmat(quats) * scales[:, None, :])  # Sigma in the camera frame = axes @ axes^T

    margin_x, margin_y = FRUSTUM_MARGIN * 0.5 * width / fx, FRUSTUM_MARGIN * 0.5 * height / fy
    tan_x = torch.clamp(x / z, -cx / fx - margin_x, (width - cx) / fx + margin_x)  # tz * clamp(tx / tz), as in 3DGS
    tan_y = torch.clamp(y / z, -cy / fy - margin_y, (height - cy) / fy + margin_y)
    row_x = (fx / z)[:, None] * (axes[:, 0] - tan_x[:, None] * axes[:, 2])  # first row of J @ axes
    row_y = (fy / z)[:, None] * (axes[:, 1] - tan_y[:, None] * axes[:, 2])
    xx, xy, yy = (row_x * row_x).sum(-1), (row_x * row_y).sum(-1), (row_y * row_y).sum(-1)

    det_sharp = torch.linalg.cross(row_x, row_y).square().sum(-1)  # Lagrange's identity: no cancellation for thin Gaussians
    det = det_sharp + eps2d * (xx + yy) + eps2d**2
    xx, yy = xx + eps2d, yy + eps2d
    if antialiased:
        opacities = opacities * torch.sqrt(det_sharp / det)
    means2d = torch.stack([fx * x / z + cx, fy * y / z + cy], -1)
    return means2d, z, torch.stack([xx, xy, yy], -1), det, opacities


def _project_view(means, quats, scales, opacities, colors, viewmat, K, width, height, sh_degree, near_plane, far_plane, eps2d, render_mode,
                  antialiased) -> dict[str, Tensor]:  # fmt: skip
    """Project for one view. Culling is decided without gradients on all Gaussians, then only the rest is differentiated, so that
    no NaN can reach a gradient through a factor of zero."""
    n = means.shape[0]
    with torch.no_grad():
        used_colors = colors if sh_degree is None else colors[:, : (sh_degree + 1) ** 2]
        parts = [means, quats, scales, opacities[:, None], used_colors.flatten(1)]
        ok = torch.stack([torch.isfinite(part).all(-1) for part in parts]).all(0) & (quats.square().sum(-1) > 0)
        means2d, depths, cov, det, opac = _project(means, quats, scales, opacities, viewmat, K, width, height, eps2d, antialiased)
        ok &= (depths > near_plane) & (depths < far_plane) & torch.isfinite(means2d).all(-1) & torch.isfinite(cov).all(-1)
        ok &= torch.isfinite(det) & (det > 0) & (opac >= ALPHA_CUTOFF)
        extent = torch.sqrt(2 * torch.log(torch.where(ok, opac, 1.0) / ALPHA_CUTOFF)).clamp(max=MAX_EXTENT)
        radii = torch.ceil(extent[:, None] * torch.sqrt(torch.where(ok[:, None], cov[:, [0, 2]], 0.0)))
        size = torch.tensor([width, height], dtype=means2d.dtype, device=means2d.device)
        ok &= ((means2d + radii > 0) & (means2d - radii < size)).all(-1)
        radii = torch.where(ok[:, None], radii, 0.0).clamp(max=2**31 - 128).to(torch.int32)
        visible = ok.nonzero()[:, 0]

    means2d, depths, cov, det, opac = _project(means[visible], quats[visible], scales[visible], opacities[visible], viewmat, K, width, height,
                                               eps2d, antialiased)  # fmt: skip
    conics = torch.stack([cov[:, 2], -cov[:, 1], cov[:, 0]], -1) / det[:, None]

    def scatter(rows: Tensor) -> Tensor:
        return rows.new_zeros(n, *rows.shape[1:]).index_put((visible,), rows)

    return {"means2d": scatter(means2d), "radii": radii, "depths": scatter(depths), "conics": scatter(conics), "opacities": scatter(opac),
            "visible": visible}  # fmt: skip


def _view_colors(means: Tensor, colors: Tensor, viewmat: Tensor, visible: Tensor, sh_degree: int | None) -> Tensor:
    """Colours (n, 3) of the visible Gaussians: as given, or max(SH(direction from the camera centre) + 0.5, 0)."""
    if sh_degree is None:
        return colors[visible]
    center = torch.linalg.inv(viewmat)[:3, 3]
    dirs = means[visible] - center
    basis = sh_basis(dirs / dirs.norm(dim=-1, keepdim=True), sh_degree)
    return ((basis[..., None] * colors[visible, : basis.shape[-1]]).sum(-2) + 0.5).clamp(min=0)


class _AbsGrad:
    """Collects the sum over pixels of |d loss / d means2d| of one view into the attribute `absgrad` of means2d."""

    def __init__(self, means2d: Tensor, view: int, visible: Tensor):
        self.means2d, self.view, self.visible = means2d, view, visible
        if not hasattr(means2d, "absgrad"):
            means2d.absgrad = torch.zeros_like(means2d)

    def __call__(self, grad: Tensor) -> None:  # grad (pixels, n, 2)
        self.means2d.absgrad[self.view, self.visible] = grad.abs().sum(0)


def _blend_view(meta: dict[str, Tensor], visible: Tensor, features: Tensor, width: int, height: int, track: _AbsGrad | None):
    """Front-to-back blending of the visible Gaussians: (height, width, D) and alpha (height, width, 1)."""
    order = torch.sort(meta["depths"][visible].detach(), stable=True).indices  # ties: by index
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = (torch.stack([x, y], -1).reshape(-1, 1, 2) + 0.5).to(features)

    means2d = meta["means2d"][visible].expand(len(pixels), -1, -1)  # one copy per pixel, so that each pixel's gradient can be seen
    if track is not None:
        means2d.register_hook(track)
    dx, dy = (pixels - means2d)[:, order].unbind(-1)
    a, b, c = meta["conics"][visible][order].unbind(-1)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = (meta["opacities"][visible][order] * torch.exp(-sigma)).clamp(max=ALPHA_MAX)

    alpha = torch.where((alpha >= ALPHA_CUTOFF) & (sigma >= 0), alpha, 0.0)
    alive = torch.cumprod(1 - alpha.detach(), -1) > TRANSMITTANCE_CUTOFF  # monotone: once false, false
    alpha = torch.where(alive, alpha, 0.0)
    transmittance = torch.cat([alpha.new_ones(len(alpha), 1), torch.cumprod(1 - alpha, -1)], -1)  # before each Gaussian, and behind all
    render = (alpha * transmittance[:, :-1]) @ features[order]
    total = 1 - transmittance[:, -1]
    return render.reshape(height, width, -1), total.reshape(height, width, 1)

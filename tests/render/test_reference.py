"""The PyTorch reference against oracles that are not ours: gsplat's own functions, a literal per-pixel loop, closed forms, finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from gsplat.cuda import _torch_impl as gsplat_torch
from random_scenes import GRAD_KEYS, random_scene, relative_error, render_with_grads, smooth_scene, with_grad

from learn2splat.render.reference import quat_to_rotmat, rasterize_reference, sh_basis

MODES = ["RGB", "D", "ED", "RGB+D", "RGB+ED"]
TIGHT = 1e-11  # float64, sums of some hundred terms of order 1: round-off is about 1e-14


def rasterize_gsplat(means, quats, scales, opacities, colors, viewmats, Ks, width, height, *, sh_degree=None, near_plane=0.01, far_plane=1e10,
                     eps2d=0.3, backgrounds=None, render_mode="RGB", rasterize_mode="classic"):  # fmt: skip
    """gsplat's PyTorch functions for projection and colour; blending as one loop over Gaussians per pixel, in the words of the CUDA kernel."""
    covars, _ = gsplat_torch._quat_scale_to_covar_preci(quats, scales, compute_preci=False)
    _, means2d, depths, conics, comp = gsplat_torch._fully_fused_projection(
        means, covars, viewmats, Ks, width, height, eps2d, near_plane, far_plane, rasterize_mode == "antialiased"
    )
    opac = opacities.expand(len(viewmats), -1) * (1 if comp is None else comp)
    if means2d.requires_grad:
        means2d.retain_grad()
    renders, alphas = [], []
    for c in range(len(viewmats)):
        rgb = colors
        if sh_degree is not None:
            dirs = means - torch.inverse(viewmats[c])[:3, 3]
            rgb = torch.clamp_min(gsplat_torch._spherical_harmonics(sh_degree, dirs, colors) + 0.5, 0)
        features = torch.cat(([rgb] if "RGB" in render_mode else []) + ([depths[c][:, None]] if "D" in render_mode else []), -1)
        background = torch.zeros(features.shape[1], dtype=means.dtype)
        if backgrounds is not None and "RGB" in render_mode:
            background = torch.cat([backgrounds[c], background[3:]])
        order = sorted(range(len(means)), key=lambda i: depths[c, i].item())
        for row in range(height):
            for col in range(width):
                T, out = torch.ones((), dtype=means.dtype), torch.zeros(features.shape[1], dtype=means.dtype)
                for i in order:
                    if not near_plane < depths[c, i] < far_plane:
                        continue
                    dx, dy = means2d[c, i, 0] - (col + 0.5), means2d[c, i, 1] - (row + 0.5)
                    sigma = 0.5 * (conics[c, i, 0] * dx * dx + conics[c, i, 2] * dy * dy) + conics[c, i, 1] * dx * dy
                    alpha = torch.clamp_max(opac[c, i] * torch.exp(-sigma), 0.999)
                    if sigma < 0 or alpha < 1 / 255:
                        continue
                    if T * (1 - alpha) <= 1e-4:
                        break
                    out = out + alpha * T * features[i]
                    T = T * (1 - alpha)
                out = out + T * background
                if render_mode.endswith("ED"):
                    out = torch.cat([out[:-1], out[-1:] / (1 - T).clamp(min=1e-10)])
                renders.append(out)
                alphas.append(1 - T)
    shape = (len(viewmats), height, width, -1)
    return torch.stack(renders).reshape(shape), torch.stack(alphas).reshape(shape), {"means2d": means2d, "depths": depths, "conics": conics}


@pytest.mark.parametrize("render_mode", MODES)
@pytest.mark.parametrize(("rasterize_mode", "sh_degree"), [("classic", None), ("antialiased", 3)])
def test_equals_gsplat_with_every_gradient(render_mode, rasterize_mode, sh_degree):
    scene = random_scene(3, 12, cameras=2, width=5, height=4, sh_degree=sh_degree, coeffs=16, size=0.3)
    scene["means"][0, 2] = -8.0  # behind both cameras
    scene["opacities"][1:4] = 0.999  # some pixels stop early
    options = {"render_mode": render_mode, "rasterize_mode": rasterize_mode}
    renders, alphas, meta, grads = render_with_grads(rasterize_reference, scene, **options)
    renders_g, alphas_g, meta_g, grads_g = render_with_grads(rasterize_gsplat, scene, **options)
    assert relative_error(renders, renders_g) < TIGHT
    assert relative_error(alphas, alphas_g) < TIGHT
    visible = meta["radii"][..., 0] > 0
    assert visible.sum() >= 12
    for key in ("means2d", "depths", "conics"):
        assert relative_error(meta[key][visible], meta_g[key][visible]) < TIGHT, key
    for key in (*GRAD_KEYS, "means2d"):
        assert relative_error(grads[key], grads_g[key]) < 1e-9, key
    assert all(grads[key].abs().max() > 0 for key in GRAD_KEYS if key not in ("colors", "backgrounds") or "RGB" in render_mode)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_spherical_harmonics_equal_gsplat(degree):
    g = torch.Generator().manual_seed(degree)
    dirs = torch.nn.functional.normalize(torch.randn(50, 3, generator=g, dtype=torch.float64), dim=-1)
    assert torch.allclose(sh_basis(dirs, degree), gsplat_torch._eval_sh_bases_fast((degree + 1) ** 2, dirs), rtol=0, atol=1e-12)


def test_rotation_equals_gsplat():
    quats = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(quat_to_rotmat(quats), gsplat_torch._quat_to_rotmat(quats), rtol=0, atol=1e-14)


def test_radii_are_the_opacity_aware_box():
    scene = random_scene(5, 200, cameras=2, width=40, height=30)
    scene["means"] *= 3  # some off screen, some behind a camera
    scene["opacities"][:20] = 0.003  # below 1 / 255
    _, _, meta = rasterize_reference(**scene)
    covars, _ = gsplat_torch._quat_scale_to_covar_preci(scene["quats"], scene["scales"], compute_preci=False)
    means_c, covars_c = gsplat_torch._world_to_cam(scene["means"], covars, scene["viewmats"])
    means2d, cov2d = gsplat_torch._persp_proj(means_c, covars_c, scene["Ks"], 40, 30)
    for c in range(2):
        for i in range(200):
            opacity, cov = scene["opacities"][i].item(), cov2d[c, i] + 0.3 * torch.eye(2, dtype=torch.float64)
            box = [0, 0]
            if opacity >= 1 / 255 and means_c[c, i, 2] > 0.01:
                box = [math.ceil(min(3.33, math.sqrt(2 * math.log(255 * opacity))) * math.sqrt(cov[k, k])) for k in range(2)]
                if any(means2d[c, i, k] + box[k] <= 0 or means2d[c, i, k] - box[k] >= (40, 30)[k] for k in range(2)):
                    box = [0, 0]
            assert meta["radii"][c, i].tolist() == box
    assert 40 < (meta["radii"][..., 0] == 0).sum() < 360


def gaussian(mean, scale, opacity, color, dtype=torch.float64) -> dict:
    """One isotropic Gaussian as arguments of rasterize."""
    values = {"means": [mean], "quats": [[1, 0, 0, 0]], "scales": [[scale] * 3], "opacities": [opacity], "colors": [color]}
    return {k: torch.tensor(v, dtype=dtype) for k, v in values.items()}


def one_camera(width: int, height: int, focal: float) -> dict:
    """A camera at the origin that looks along +z."""
    K = torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]], dtype=torch.float64)
    return {"viewmats": torch.eye(4, dtype=torch.float64)[None], "Ks": K, "width": width, "height": height}


@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
def test_one_gaussian_on_the_axis_is_a_closed_form(rasterize_mode):
    width, height, focal, depth, scale, opacity = 9, 7, 20.0, 4.0, 0.3, 0.8
    color, background = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64), torch.tensor([[0.2, 0.3, 0.4]], dtype=torch.float64)
    renders, alphas, meta = rasterize_reference(**gaussian([0, 0, depth], scale, opacity, color.tolist()), **one_camera(width, height, focal),
                                                backgrounds=background, rasterize_mode=rasterize_mode, render_mode="RGB+D")  # fmt: skip
    var = (focal * scale / depth) ** 2
    if rasterize_mode == "antialiased":
        opacity *= var / (var + 0.3)  # sqrt of a ratio of determinants of multiples of the identity
    for row in range(height):
        for col in range(width):
            r2 = (col + 0.5 - width / 2) ** 2 + (row + 0.5 - height / 2) ** 2
            alpha = opacity * math.exp(-0.5 * r2 / (var + 0.3))
            alpha = alpha if alpha >= 1 / 255 else 0.0
            assert alphas[0, row, col, 0].item() == pytest.approx(alpha, abs=1e-13)
            assert torch.allclose(renders[0, row, col, :3], alpha * color + (1 - alpha) * background[0], rtol=0, atol=1e-13)
            assert renders[0, row, col, 3].item() == pytest.approx(alpha * depth, abs=1e-13)  # depth has no background
    assert meta["radii"].tolist() == [[[math.ceil(math.sqrt(2 * math.log(255 * opacity) * (var + 0.3)))] * 2]]


def test_two_gaussians_on_one_ray_blend_front_to_back():
    front, back = gaussian([0, 0, 2.0], 0.5, 0.6, [1, 0, 0]), gaussian([0, 0, 3.0], 0.5, 0.7, [0, 1, 0])
    for first, second in [(front, back), (back, front)]:  # order of the arguments does not matter
        scene = {k: torch.cat([first[k], second[k]]) for k in first}
        renders, alphas, _ = rasterize_reference(**scene, **one_camera(1, 1, 5.0), render_mode="RGB+ED")
        assert renders[0, 0, 0].tolist() == pytest.approx([0.6, 0.4 * 0.7, 0, (0.6 * 2 + 0.28 * 3) / 0.88], abs=1e-13)
        assert alphas.item() == pytest.approx(0.88, abs=1e-13)


def test_depth_ties_are_broken_by_index():
    first, second = gaussian([0, 0, 2.0], 0.5, 0.6, [1, 0, 0]), gaussian([0, 0, 2.0], 0.5, 0.7, [0, 1, 0])
    scene = {k: torch.cat([first[k], second[k]]) for k in first}
    renders, _, _ = rasterize_reference(**scene, **one_camera(1, 1, 5.0))
    assert renders[0, 0, 0].tolist() == pytest.approx([0.6, 0.28, 0], abs=1e-13)


def test_a_pixel_stops_before_the_gaussian_that_would_close_it():
    parts = [gaussian([0, 0, 2.0 + i], 1.0, 0.95, [i == 0, i == 1, i == 2]) for i in range(5)]
    scene = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
    renders, alphas, _ = rasterize_reference(**scene, **one_camera(1, 1, 5.0))
    # T = 1, 0.05, 0.0025, 1.25e-4; the fourth would leave 6.25e-6 <= 1e-4
    assert renders[0, 0, 0].tolist() == pytest.approx([0.95, 0.05 * 0.95, 0.0025 * 0.95], abs=1e-13)
    assert alphas.item() == pytest.approx(1 - 0.05**3, abs=1e-13)


def test_alpha_is_capped_and_then_has_no_gradient():
    scene = with_grad({**gaussian([0, 0, 2.0], 1.0, 1.0, [1, 1, 1]), **one_camera(1, 1, 5.0)})
    renders, alphas, _ = rasterize_reference(**scene)
    assert alphas.item() == pytest.approx(0.999, abs=1e-15)
    renders.sum().backward()
    assert scene["opacities"].grad.item() == 0
    assert scene["colors"].grad[0].tolist() == pytest.approx([0.999] * 3)


@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
def test_gradcheck(rasterize_mode):
    scene = smooth_scene()

    def f(*tensors):
        renders, alphas, _ = rasterize_reference(**{**scene, **dict(zip(GRAD_KEYS, tensors))}, render_mode="RGB+ED", rasterize_mode=rasterize_mode)
        return renders, alphas

    inputs = [scene[k].clone().requires_grad_() for k in GRAD_KEYS]
    _, alphas = f(*inputs)
    assert 0.5 < alphas.min() and alphas.max() < 0.99  # nothing is cut off
    assert torch.autograd.gradcheck(f, inputs, eps=1e-6, atol=1e-7, rtol=1e-5, fast_mode=True)


def test_absgrad_is_the_sum_of_absolute_pixel_gradients():
    scene = random_scene(11, 6, cameras=2, width=4, height=3, size=0.4)
    weights = torch.randn(2, 3, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaves = with_grad(scene)
    renders, _, meta = rasterize_reference(**leaves, absgrad=True)
    (renders * weights).sum().backward()
    expected = torch.zeros(2, 6, 2, dtype=torch.float64)
    for c, row, col in [(c, r, x) for c in range(2) for r in range(3) for x in range(4)]:
        renders, _, one = rasterize_reference(**with_grad(scene))
        (renders * weights)[c, row, col].sum().backward()  # the gradient of one pixel alone
        expected += one["means2d"].grad.abs()
    assert relative_error(meta["means2d"].absgrad, expected) < TIGHT
    assert (meta["means2d"].absgrad >= meta["means2d"].grad.abs() - 1e-12).all()

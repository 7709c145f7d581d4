"""The native rasterizer against the PyTorch reference (float64, forward and every gradient), against itself in float32, and by properties."""

from __future__ import annotations

import os

import numpy
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_scenes import GAUSSIAN_KEYS, GRAD_KEYS, cosine, random_scene, relative_error, render_with_grads, smooth_scene, with_grad

from learn2splat.errors import OptionError, ShapeError
from learn2splat.render import rasterize
from learn2splat.render.reference import rasterize_reference

MODES = ["RGB", "D", "ED", "RGB+D", "RGB+ED"]
FORWARD_TOL = 5e-13  # float64, relative to the largest entry: 20x the worst of the scenes below
GRAD_TOL = 1e-11  # likewise: 12x the worst
FEW = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


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


@pytest.mark.parametrize("sh_degree", [None, 0, 1, 2, 3])
@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
@pytest.mark.parametrize("render_mode", MODES)
def test_equals_reference(render_mode, rasterize_mode, sh_degree):
    cameras = 3 if sh_degree in (None, 2) else 1
    seed = 10 * MODES.index(render_mode) + (sh_degree or 0)
    scene = random_scene(seed, 70, cameras=cameras, width=21, height=17, sh_degree=sh_degree, coeffs=None if sh_degree == 1 else 16)
    options = {"render_mode": render_mode, "rasterize_mode": rasterize_mode, "absgrad": True}
    expected = render_with_grads(rasterize_reference, scene, **options)
    assert all(expected[3][key].abs().max() > 0 for key in GAUSSIAN_KEYS[:4])
    assert_same(render_with_grads(rasterize, scene, **options), expected)


@pytest.mark.parametrize(
    ("seed", "n", "cameras", "width", "height", "size"),
    [
        (1, 300, 1, 67, 35, 0.1),
        (2, 400, 2, 35, 41, 0.05),  # many small ones
        (3, 150, 2, 16, 64, 0.6),  # each covers many tiles; every pixel stops early
        (4, 40, 1, 1, 33, 0.2),
        (5, 40, 1, 130, 3, 0.2),
        (6, 1, 1, 16, 16, 0.3),
    ],
)
def test_equals_reference_at_odd_sizes(seed, n, cameras, width, height, size):
    scene = random_scene(seed, n, cameras=cameras, width=width, height=height, sh_degree=3, size=size)
    options = {"render_mode": "RGB+D", "absgrad": True}
    assert_same(render_with_grads(rasterize, scene, **options), render_with_grads(rasterize_reference, scene, **options))


def test_equals_reference_with_planes_blur_and_no_background():
    scene = {**random_scene(8, 100, cameras=2, width=30, height=22), "backgrounds": None}
    options = {"near_plane": 3.6, "far_plane": 4.5, "eps2d": 0.05}
    result, expected = (render_with_grads(f, scene, **options) for f in (rasterize, rasterize_reference))
    assert 20 < (expected[2]["radii"][..., 0] == 0).sum() < 180  # the planes cut
    assert_same(result, expected)


def test_equals_reference_outside_the_frustum_clamp():
    scene = random_scene(9, 80, width=24, height=18, size=0.5)
    scene["means"] *= torch.tensor([3.0, 3.0, 1.3], dtype=torch.float64)  # wide, and near the camera
    result, expected = (render_with_grads(f, scene, rasterize_mode="antialiased") for f in (rasterize, rasterize_reference))
    assert_same(result, expected)


@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
def test_gradcheck(rasterize_mode):
    scene = smooth_scene()

    def f(*tensors):
        return rasterize(**{**scene, **dict(zip(GRAD_KEYS, tensors))}, render_mode="RGB+ED", rasterize_mode=rasterize_mode)[:2]

    inputs = [scene[k].clone().requires_grad_() for k in GRAD_KEYS]
    assert torch.autograd.gradcheck(f, inputs, eps=1e-6, atol=1e-7, rtol=1e-5, fast_mode=True)


@pytest.mark.parametrize("seed", range(4))
def test_float32_is_float64_rounded(seed):
    scene = random_scene(seed, 400, cameras=2, width=48, height=40, sh_degree=3)
    options = {"render_mode": "RGB+ED", "rasterize_mode": ("classic", "antialiased")[seed % 2], "absgrad": True}
    scene32 = {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in scene.items()}
    scene64 = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in scene32.items()}  # the same rounded inputs
    renders, alphas, meta, grads = render_with_grads(rasterize, scene32, **options)
    renders64, _, _, grads64 = render_with_grads(rasterize, scene64, **options)
    assert renders.dtype == alphas.dtype == meta["means2d"].dtype == torch.float32
    error = (renders.double() - renders64).abs()
    # A (pixel, Gaussian) pair within rounding of alpha = 1/255 may flip and move a colour by 1/255, a depth by 4/255. None does in 40 seeds,
    # of which the worst largest error is 5e-5 and the worst mean 4e-7.
    assert error.max() < 5 / 255 and (error > 2e-4).double().mean() < 1e-3
    assert error.mean() < 2e-6
    for key, grad in grads.items():
        assert grad.dtype == torch.float32
        assert cosine(grad, grads64[key]) > 1 - 1e-6, key  # worst of 40 seeds: 1 - 2e-8
        assert abs(grad.double().norm() / grads64[key].norm() - 1) < 2e-4, key  # no bias in length; worst of 40 seeds: 4e-5


def test_quats_gradient_has_no_radial_part():
    scene = random_scene(12, 200, width=40, height=30)
    for dtype, tol in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        typed = {k: v.to(dtype) if isinstance(v, torch.Tensor) else v for k, v in scene.items()}
        grad = render_with_grads(rasterize, typed)[3]["quats"].double()
        assert grad.norm(dim=-1).max() > 0
        assert (grad * scene["quats"]).sum(-1).abs().max() < tol * (grad.norm(dim=-1) * scene["quats"].norm(dim=-1)).max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_do_not_depend_on_the_thread_count(dtype, monkeypatch):
    scene = random_scene(13, 600, cameras=2, width=70, height=80, sh_degree=2, dtype=dtype)
    monkeypatch.delenv("LEARN2SPLAT_NUM_THREADS", raising=False)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(render_with_grads(rasterize, scene, render_mode="RGB+D", absgrad=True))
    finally:
        torch.set_num_threads(before)
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("LEARN2SPLAT_NUM_THREADS", threads)
        results.append(render_with_grads(rasterize, scene, render_mode="RGB+D", absgrad=True))
    renders, alphas, _, grads = results[0]
    for other in results[1:]:
        assert torch.equal(renders, other[0]) and torch.equal(alphas, other[1])
        assert all(torch.equal(grads[key], other[3][key]) for key in grads)


def test_only_wanted_gradients():
    scene = random_scene(14, 30)
    renders, alphas, meta = rasterize(**scene)
    assert not (renders.requires_grad or alphas.requires_grad or meta["means2d"].requires_grad)
    _, _, _, full = render_with_grads(rasterize, scene)
    weights = [torch.randn(t.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) for t in (renders,)]
    for key in GRAD_KEYS:
        leaves = with_grad(scene, (key,))
        renders, alphas, meta = rasterize(**leaves)
        (renders * weights[0]).sum().backward()
        assert leaves[key].grad is not None
        everything = with_grad(scene)
        (rasterize(**everything)[0] * weights[0]).sum().backward()
        assert relative_error(leaves[key].grad, everything[key].grad) < 1e-13, key
    assert set(full) == {*GRAD_KEYS, "means2d"}


def test_density_control_finds_the_gradient_of_means2d():
    leaves = with_grad(random_scene(15, 30))
    renders, _, meta = rasterize(**leaves, absgrad=True)
    meta["means2d"].retain_grad()  # gsplat's strategies call it before backward
    renders.square().sum().backward()
    assert meta["means2d"].grad.shape == (1, 30, 2) and meta["means2d"].grad.abs().max() > 0
    assert (meta["means2d"].absgrad >= meta["means2d"].grad.abs() * (1 - 1e-9)).all()


@pytest.mark.parametrize("key", GAUSSIAN_KEYS)
def test_a_change_in_place_before_backward_is_noticed_or_harmless(key):
    scene = random_scene(24, 30, cameras=2)
    leaves = with_grad({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in scene.items()})
    renders = rasterize(**leaves)[0]
    with torch.no_grad():
        leaves[key] += 0.05
    if key == "colors":  # blending keeps a copy: what it computes from is what was rendered
        renders.sum().backward()
        untouched = with_grad(scene)
        rasterize(**untouched)[0].sum().backward()
        assert torch.equal(leaves["means"].grad, untouched["means"].grad)
    else:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            renders.sum().backward()


def test_a_second_backward_needs_retain_graph():
    loss = rasterize(**with_grad(random_scene(25, 10)))[0].sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


# Properties.


def permuted(scene: dict, order) -> dict:
    return {k: v[order] if k in GAUSSIAN_KEYS else v for k, v in scene.items()}


@FEW
@given(seed=st.integers(0, 1000), n=st.integers(1, 60), sh=st.sampled_from([None, 2]))
def test_order_of_gaussians_does_not_matter(seed, n, sh):
    scene = random_scene(seed, n, cameras=2, sh_degree=sh)  # random depths: no ties
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    renders, _, _, grads = render_with_grads(rasterize, scene)
    renders_p, _, _, grads_p = render_with_grads(rasterize, permuted(scene, order))
    assert relative_error(renders_p, renders) < 1e-13
    for key in GRAD_KEYS:
        assert relative_error(grads_p[key], grads[key][order] if key in GAUSSIAN_KEYS else grads[key]) < 1e-11, key


def test_ties_in_depth_go_by_index():
    scene = random_scene(16, 40, width=20, height=20, size=0.3)
    scene["means"][:, 2] = 0.0
    scene["viewmats"][:, :3, :3] = torch.eye(3)
    scene["viewmats"][:, :3, 3] = torch.tensor([0.0, 0.0, 4.0])
    assert_same(render_with_grads(rasterize, scene), render_with_grads(rasterize_reference, scene))


@FEW
@given(seed=st.integers(0, 1000), n=st.integers(1, 40))
def test_opacity_zero_is_absence(seed, n):
    scene = random_scene(seed, n + 5)
    scene["opacities"][2:7] = 0
    keep = [i for i in range(n + 5) if not 2 <= i < 7]
    renders, alphas, meta, grads = render_with_grads(rasterize, scene)
    renders_k, alphas_k, _, grads_k = render_with_grads(rasterize, permuted(scene, keep))
    assert relative_error(renders, renders_k) < 1e-14 and relative_error(alphas, alphas_k) < 1e-14
    assert (meta["radii"][:, 2:7] == 0).all()
    for key in GAUSSIAN_KEYS:
        assert relative_error(grads[key][keep], grads_k[key]) < 1e-12, key
        assert (grads[key][2:7] == 0).all(), key


@FEW
@given(seed=st.integers(0, 1000), n=st.integers(1, 40))
def test_moving_world_and_cameras_together_changes_nothing(seed, n):
    scene = random_scene(seed, n, cameras=2)  # colours, not SH: those would have to be rotated too
    g = torch.Generator().manual_seed(seed)
    motion = torch.eye(4, dtype=torch.float64)
    q = torch.nn.functional.normalize(torch.randn(4, generator=g, dtype=torch.float64), dim=0)
    w, x, y, z = q.tolist()
    left = torch.tensor([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]], dtype=torch.float64)  # quaternion product q * .
    vec, skew = q[1:], torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)  # rotation by q: Rodrigues
    motion[:3, :3] = (w * w - vec @ vec) * torch.eye(3, dtype=torch.float64) + 2 * torch.outer(vec, vec) + 2 * w * skew
    motion[:3, 3] = torch.randn(3, generator=g, dtype=torch.float64)
    moved = {**scene, "means": scene["means"] @ motion[:3, :3].T + motion[:3, 3], "quats": scene["quats"] @ left.T,
             "viewmats": scene["viewmats"] @ torch.linalg.inv(motion)}  # fmt: skip
    renders, alphas, _, grads = render_with_grads(rasterize, scene)
    renders_m, alphas_m, _, grads_m = render_with_grads(rasterize, moved)
    assert relative_error(renders_m, renders) < 1e-11 and relative_error(alphas_m, alphas) < 1e-11
    for key in ("scales", "opacities", "colors", "backgrounds"):
        assert relative_error(grads_m[key], grads[key]) < 1e-9, key
    assert relative_error(grads_m["means"] @ motion[:3, :3], grads["means"]) < 1e-9
    assert relative_error(grads_m["quats"] @ left, grads["quats"]) < 1e-9


@FEW
@given(seed=st.integers(0, 1000), left=st.integers(0, 15), right=st.integers(0, 15), top=st.integers(0, 12), bottom=st.integers(0, 12))
def test_shifting_the_intrinsics_crops_the_image(seed, left, right, top, bottom):
    scene = random_scene(seed, 40, width=45, height=40)
    scene["means"] *= 0.02  # all project near the centre, which every crop holds: no Jacobian is clamped
    scene["scales"] *= 2
    scene["Ks"][:, 0, 2], scene["Ks"][:, 1, 2] = 22.5, 20.0
    crop = {**scene, "width": 45 - left - right, "height": 40 - top - bottom, "Ks": scene["Ks"].clone()}
    crop["Ks"][:, 0, 2] -= left
    crop["Ks"][:, 1, 2] -= top
    whole = rasterize(**scene)
    part = rasterize(**crop)
    box = (slice(None), slice(top, 40 - bottom), slice(left, 45 - right))
    assert relative_error(part[0], whole[0][box]) < 1e-12 and relative_error(part[1], whole[1][box]) < 1e-12
    assert whole[1][box].max() > 0.5


# Fuzz: a finite image and finite gradients, whatever the Gaussians are.

NAN, INF = float("nan"), float("inf")


def assert_finite(result):
    renders, alphas, _, grads = result
    assert torch.isfinite(renders).all() and torch.isfinite(alphas).all()
    assert ((alphas >= 0) & (alphas <= 1)).all()
    assert all(torch.isfinite(grad).all() for grad in grads.values()), [k for k, g in grads.items() if not torch.isfinite(g).all()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("key", "column", "value"),
    [(k, c, v) for k in GAUSSIAN_KEYS for c in (0, -1) for v in (NAN, INF, -INF)] + [("quats", slice(None), 0.0)],
)
def test_a_broken_gaussian_is_absent(key, column, value, dtype):
    scene = random_scene(20, 30, cameras=2, sh_degree=3, dtype=dtype)
    bad = 7
    scene[key].view(30, -1)[bad, column] = value
    keep = [i for i in range(30) if i != bad]
    result = render_with_grads(rasterize, scene, absgrad=True)
    expected = render_with_grads(rasterize, permuted(scene, keep), absgrad=True)
    assert_finite(result)
    assert torch.allclose(result[0], expected[0], rtol=0, atol=1e-6)
    assert (result[2]["radii"][:, bad] == 0).all()
    for name in GAUSSIAN_KEYS:
        assert (result[3][name][bad] == 0).all(), name
        assert relative_error(result[3][name][keep], expected[3][name]) < (1e-4 if dtype == torch.float32 else 1e-12), name


CORNERS = {
    "zero scales": {"scales": 0.0},
    "one zero scale": {"scales": [0.1, 0.0, 0.1]},
    "tiny scales": {"scales": 1e-30},
    "huge scales": {"scales": 1e10},
    "overflowing scales": {"scales": 1e30},
    "negative scales": {"scales": -0.1},
    "needle": {"scales": [1e-6, 1e-6, 1e3]},
    "tiny quaternion": {"quats": 1e-30},
    "huge quaternion": {"quats": 1e30},
    "far away": {"means": [0.0, 0.0, 1e20]},
    "beside the camera": {"means": [5.0, 0.0, -4.0]},
    "just before the near plane": {"means": [0.0, 0.0, -3.98], "scales": 5.0},
    "just behind the near plane": {"means": [1.0, 1.0, -3.9999], "scales": 5.0},
    "behind the camera": {"means": [0.0, 0.0, -9.0]},
    "at the camera": {"means": [0.0, 0.0, -4.0], "scales": 10.0},
    "opacity above one": {"opacities": 7.0},
    "opacity below zero": {"opacities": -1.0},
    "huge colours": {"colors": 1e8},
}


@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("corner", CORNERS)
def test_corner_cases_stay_finite(corner, dtype, rasterize_mode):
    scene = random_scene(21, 20, width=25, height=18, dtype=dtype)
    scene["viewmats"][0] = torch.eye(4)
    scene["viewmats"][0, 2, 3] = 4.0
    for key, value in CORNERS[corner].items():
        scene[key][3:6] = torch.tensor(value, dtype=dtype)
    result = render_with_grads(rasterize, scene, render_mode="RGB+ED", rasterize_mode=rasterize_mode, absgrad=True)
    assert_finite(result)
    if dtype == torch.float64:  # and right, as far as the reference itself is finite
        expected = render_with_grads(rasterize_reference, scene, render_mode="RGB+ED", rasterize_mode=rasterize_mode, absgrad=True)
        assert relative_error(result[0], expected[0]) < 1e-9


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float64]), antialiased=st.booleans())
def test_any_numbers_give_a_finite_image(data, dtype, antialiased):
    number = st.one_of(st.floats(-3, 3), st.sampled_from([0.0, 1.0, 1e-30, 1e-8, 1e5, 1e10, 1e19, 1e38, -1e19, NAN, INF, -INF]))
    n = data.draw(st.integers(0, 4))
    scene = random_scene(0, n, width=9, height=7, dtype=dtype)
    for key in ("means", "quats", "scales", "opacities"):
        flat = scene[key].view(-1)
        for i in data.draw(st.lists(st.integers(0, max(0, len(flat) - 1)), max_size=6)) if n else []:
            flat[i] = data.draw(number)
    mode = "antialiased" if antialiased else "classic"
    assert_finite(render_with_grads(rasterize, scene, render_mode="RGB+D" if data.draw(st.booleans()) else "ED", rasterize_mode=mode, absgrad=True))


@pytest.mark.parametrize("sh_degree", [None, 3])
def test_no_gaussians_show_the_background(sh_degree):
    scene = random_scene(0, 0, cameras=2, width=5, height=4, sh_degree=sh_degree)
    renders, alphas, meta, grads = render_with_grads(rasterize, scene, render_mode="RGB+ED", absgrad=True)
    assert torch.equal(renders[..., :3], scene["backgrounds"][:, None, None].expand(2, 4, 5, 3)) and (renders[..., 3] == 0).all()
    assert (alphas == 0).all() and meta["radii"].shape == (2, 0, 2) and grads["means"].shape == (0, 3)
    assert grads["backgrounds"].abs().min() > 0


def test_one_pixel():
    assert_same(*(render_with_grads(f, random_scene(22, 50, width=1, height=1, size=1.0)) for f in (rasterize, rasterize_reference)))


def test_strided_arguments():
    scene = random_scene(23, 30, cameras=2, sh_degree=2)
    strided = {k: v.transpose(0, -1).contiguous().transpose(0, -1) if isinstance(v, torch.Tensor) and v.ndim > 1 else v for k, v in scene.items()}
    assert not strided["means"].is_contiguous()
    result, expected = render_with_grads(rasterize, strided), render_with_grads(rasterize, scene)
    assert torch.equal(result[0], expected[0])
    assert all(torch.equal(result[3][key], expected[3][key]) for key in GRAD_KEYS)


BAD_SHAPES = {
    "means": torch.zeros(10, 2),
    "quats": torch.zeros(9, 4),
    "scales": torch.zeros(10),
    "opacities": torch.zeros(10, 1),
    "colors": torch.zeros(9, 3),
    "viewmats": torch.eye(4),
    "Ks": torch.eye(3)[None].repeat(3, 1, 1),
    "backgrounds": torch.zeros(3),
}


@pytest.mark.parametrize("key", BAD_SHAPES)
def test_wrong_shapes_name_the_argument(key):
    scene = random_scene(0, 10, cameras=2, dtype=torch.float32)
    with pytest.raises(ShapeError, match=rf"{key}.*{tuple(BAD_SHAPES[key].shape)}".replace("(", r"\(").replace(")", r"\)")):
        rasterize(**{**scene, key: BAD_SHAPES[key]})


def test_mixed_dtypes_and_bad_options_are_refused():
    scene = random_scene(0, 10, dtype=torch.float32)
    with pytest.raises(ShapeError, match=r"quats.*float32.*float64"):
        rasterize(**{**scene, "quats": scene["quats"].double()})
    with pytest.raises(ShapeError, match=r"means.*float16"):
        rasterize(**{k: v.half() if isinstance(v, torch.Tensor) else v for k, v in scene.items()})
    with pytest.raises(ShapeError, match="colors"):
        rasterize(**{**scene, "sh_degree": 2})  # (N, 3) colours are no SH
    with pytest.raises((OptionError, ShapeError), match=r"sh_degree|colors"):
        rasterize(**{**random_scene(0, 10, sh_degree=1), "sh_degree": 3})  # 4 coefficients are too few
    with pytest.raises(OptionError, match=r"render_mode.*RGBA"):
        rasterize(**scene, render_mode="RGBA")
    with pytest.raises(OptionError, match=r"rasterize_mode.*smooth"):
        rasterize(**scene, rasterize_mode="smooth")
    with pytest.raises((OptionError, ShapeError), match="width"):
        rasterize(**{**scene, "width": 0})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"width": 32.0}, "width"), ({"height": "8"}, "height"), ({"width": None}, "width"), ({"sh_degree": "3"}, "sh_degree"),
        ({"near_plane": float("nan")}, "near_plane"), ({"far_plane": float("nan")}, "far_plane"), ({"far_plane": 0.001}, "far_plane"),
        ({"eps2d": -0.1}, "eps2d"), ({"eps2d": float("inf")}, "eps2d"),
    ],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused(change, word):
    with pytest.raises(OptionError, match=word):
        rasterize(**{**random_scene(0, 10, dtype=torch.float32), **change})


def test_what_is_no_dense_tensor_is_refused():
    scene = random_scene(0, 10, dtype=torch.float32)
    for name, value in (("means", scene["means"].numpy()), ("opacities", scene["opacities"].to_sparse()), ("Ks", [[1.0]])):
        with pytest.raises(ShapeError, match=rf"{name} must be a dense torch tensor"):
            rasterize(**{**scene, name: value})


def test_nothing_is_seen_through_a_singular_camera():
    """With spherical harmonics its centre would be needed, which it does not have."""
    scene = random_scene(0, 10, dtype=torch.float32)
    scene["viewmats"] = torch.zeros_like(scene["viewmats"])
    scene.update(colors=torch.rand(len(scene["means"]), 16, 3), sh_degree=3)
    assert not rasterize(**scene)[1].any()


def test_whole_numbers_of_numpy_are_sizes():
    scene = random_scene(0, 10, dtype=torch.float32)
    assert torch.equal(rasterize(**{**scene, "width": numpy.int64(scene["width"])})[0], rasterize(**scene)[0])


def test_lists_that_do_not_fit_are_refused():
    """2^32 (block, Gaussian) pairs in one strip: their count must not wrap, and nothing of that size may be allocated first."""
    n, width = 2**17, 262_144
    scene = {**random_scene(0, 1, dtype=torch.float32), "width": width, "height": 1, "backgrounds": None}
    Ks = torch.tensor([[[float(width), 0.0, width / 2], [0.0, float(width), 0.5], [0.0, 0.0, 1.0]]])
    everywhere = {"means": torch.tensor([[0.0, 0.0, 2.0]]), "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]), "scales": torch.full((1, 3), 3.0),
                  "opacities": torch.full((1,), 0.9), "colors": torch.ones(1, 3)}  # fmt: skip
    scene |= {"viewmats": torch.eye(4)[None], "Ks": Ks, **{key: value.expand(n, *value.shape[1:]) for key, value in everywhere.items()}}
    with pytest.raises(OptionError, match=rf"{n} Gaussians .* {width} x 1 px"):
        rasterize(**scene)
    with pytest.raises(OptionError, match="wide"):
        rasterize(**{**scene, "width": 2**20})


def test_the_last_column_of_the_widest_image_is_rendered():
    width = 65_535 * 8
    scene = {**random_scene(0, 1, dtype=torch.float32), "width": width, "height": 1, "backgrounds": None}
    Ks = torch.tensor([[[float(width), 0.0, width / 2], [0.0, float(width), 0.5], [0.0, 0.0, 1.0]]])
    scene |= {"means": torch.tensor([[0.0, 0.0, 2.0]]), "scales": torch.full((1, 3), 3.0), "opacities": torch.full((1,), 0.9)}
    scene |= {"viewmats": torch.eye(4)[None], "Ks": Ks}
    assert (rasterize(**scene)[1] > 0.8).all()


def test_thread_variable_is_checked(monkeypatch):
    monkeypatch.setitem(os.environ, "LEARN2SPLAT_NUM_THREADS", "0")
    with pytest.raises(OptionError, match="LEARN2SPLAT_NUM_THREADS"):
        rasterize(**random_scene(0, 10))


def test_calls_written_for_gsplat_run():
    """Its positional planes, its tuning arguments, and colours of any number of channels, three at a time."""
    scene = random_scene(30, 40, cameras=2, sh_degree=3)
    splat = [scene[key] for key in ("means", "quats", "scales", "opacities")]
    camera = [scene[key] for key in ("viewmats", "Ks", "width", "height")]
    plain = rasterize(*splat, scene["colors"], *camera, sh_degree=3)[0]
    assert torch.equal(rasterize(*splat, scene["colors"], *camera, 0.01, 1e10, 0.0, 0.3, 3, True, 8, sparse_grad=True)[0], plain)
    with pytest.raises(OptionError, match="radius_clip"):
        rasterize(*splat, scene["colors"], *camera, radius_clip=1.0, sh_degree=3)
    channels = torch.rand(40, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    behind = torch.rand(2, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    render, alpha, _ = rasterize(*splat, channels, *camera, backgrounds=behind, render_mode="RGB+D")
    assert render.shape[-1] == 8
    for columns in ([0, 1, 2], [2, 3, 4], [6, 6, 6]):
        three, background = channels[:, columns].contiguous(), behind[:, columns].contiguous()
        expected, same, _ = rasterize(*splat, three, *camera, backgrounds=background, render_mode="RGB+D")
        torch.testing.assert_close(render[..., columns], expected[..., :3], rtol=0, atol=1e-12)
        assert torch.equal(alpha, same) and torch.equal(render[..., -1], expected[..., -1])

"""The native rasterizer against the PyTorch reference (float64, forward and every gradient), and against itself in float32."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, settings
from random_scenes import (
    GAUSSIAN_KEYS,
    GRAD_KEYS,
    assert_same,
    cosine,
    random_scene,
    relative_error,
    render_with_grads,
    smooth_scene,
    with_grad,
)

from learn2splat.render import rasterize
from learn2splat.render.reference import rasterize_reference

MODES = ["RGB", "D", "ED", "RGB+D", "RGB+ED"]
FEW = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


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

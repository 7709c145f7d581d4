"""The fused loss against torchmetrics, against autograd of a plain (not separable) torch formula, and against finite differences."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from learn2splat.errors import OptionError, ShapeError
from learn2splat.losses import photometric_loss, psnr, ssim
from learn2splat.losses.photometric import view_losses_torch

# Smallest image; one window row or column; odd sizes; rows that are no multiple of a vector; several bands; two strips of columns (> 384 px).
SHAPES = [(1, 11, 11), (2, 11, 40), (1, 40, 11), (3, 37, 53), (1, 131, 29), (1, 13, 401)]


def image_pair(shape, dtype=torch.float64, seed=0):
    """A smooth photo-like target (V, H, W, 3) and a render that resembles it, so that SSIM is far from both 0 and 1."""
    v, h, w = shape
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(v, 3, 4, 5, generator=g, dtype=torch.float64)
    targets = torch.nn.functional.interpolate(coarse, size=(h, w), mode="bilinear").permute(0, 2, 3, 1)
    targets = (targets + 0.1 * torch.randn(targets.shape, generator=g, dtype=torch.float64)).clamp(0, 1)
    renders = targets + 0.15 * torch.randn(targets.shape, generator=g, dtype=torch.float64)
    return renders.to(dtype).contiguous(), targets.to(dtype).contiguous()


def plain_losses(renders, targets, ssim_weight):
    """Per-view losses by a full 11x11 window and the textbook formula, float64, differentiable."""
    k = torch.exp(-(((torch.arange(11, dtype=torch.float64) - 5) / 1.5) ** 2) / 2)
    window = (k[:, None] * k[None]) / k.sum() ** 2
    x, y = renders.permute(0, 3, 1, 2), targets.permute(0, 3, 1, 2)

    def mean(t):
        return torch.nn.functional.conv2d(t, window.expand(3, 1, 11, 11), groups=3)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    similarity = ((2 * mx * my + 1e-4) * (2 * cov + 9e-4)) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    return (1 - ssim_weight) * (x - y).abs().mean((1, 2, 3)) + ssim_weight * (1 - similarity.mean((1, 2, 3)))


def value_and_grad(f, renders):
    renders = renders.detach().clone().requires_grad_()
    value = f(renders)
    value.backward()
    return value.detach(), renders.grad


@pytest.mark.parametrize("shape", SHAPES)
def test_ssim_equals_torchmetrics(shape):
    renders, targets = image_pair(shape)
    x, y = renders.permute(0, 3, 1, 2), targets.permute(0, 3, 1, 2)
    # torchmetrics pads by reflection and crops the border of 5 px away again: what is left are the valid windows.
    _, full = structural_similarity_index_measure(x, y, sigma=1.5, kernel_size=11, data_range=1.0, return_full_image=True)
    expected = full[..., 5:-5, 5:-5].mean((1, 2, 3))
    assert 0.02 < expected.min() and expected.max() < 0.98
    assert torch.allclose(ssim(renders, targets), expected, rtol=0, atol=1e-12)
    assert torch.allclose(ssim(renders.float(), targets.float()).double(), expected, rtol=0, atol=2e-6)  # float32 variances: 1e-7 against C2 = 9e-4


@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradient_equal_plain_autograd(shape):
    renders, targets = image_pair(shape)
    value, grad = value_and_grad(lambda r: photometric_loss(r, targets), renders)
    value_p, grad_p = value_and_grad(lambda r: plain_losses(r, targets, 0.2).sum(), renders)
    assert torch.allclose(value, value_p, rtol=1e-12)
    assert torch.allclose(grad, grad_p, rtol=0, atol=1e-12 * grad_p.abs().max().item())

    value32, grad32 = value_and_grad(lambda r: photometric_loss(r, targets.float()), renders.float())
    assert value32.dtype == grad32.dtype == torch.float32
    assert torch.allclose(value32.double(), value_p, rtol=1e-6)
    # An L1 term whose sign flips on rounding the inputs would show as 2 * 0.8 / (H W 3): noise of 0.15 makes that improbable. Measured 2e-6.
    assert (grad32 - grad_p).abs().max() < 1e-5 * grad_p.abs().max()


def test_gradient_equals_finite_differences():
    renders, targets = image_pair((2, 12, 13), seed=3)
    assert (renders - targets).abs().min() > 1e-5  # no kink of L1 within reach of the differences
    leaf = renders.requires_grad_()
    for f in (lambda r: photometric_loss(r, targets, ssim_weight=0.6), lambda r: ssim(r, targets)):
        assert torch.autograd.gradcheck(f, (leaf,), eps=1e-6, atol=1e-8, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_upstream_gradient_and_no_gradient(dtype):
    renders, targets = image_pair((3, 20, 30), dtype)
    weights = torch.tensor([0.5, -2.0, 0.0], dtype=dtype)
    _, grad = value_and_grad(lambda r: (ssim(r, targets) * weights).sum(), renders)
    _, grad_one = value_and_grad(lambda r: ssim(r, targets).sum(), renders)
    assert torch.allclose(grad, grad_one * weights[:, None, None, None], rtol=1e-6, atol=0)
    assert (grad[2] == 0).all()
    with torch.no_grad():
        quiet = photometric_loss(renders, targets)
    assert torch.equal(quiet, photometric_loss(renders.clone().requires_grad_(), targets).detach())


def test_equal_values_have_no_l1_gradient():
    renders, targets = image_pair((1, 15, 16))
    renders[0, 3:7] = targets[0, 3:7]
    value, grad = value_and_grad(lambda r: photometric_loss(r, targets, ssim_weight=0.0), renders)
    assert (grad[0, 3:7] == 0).all()
    assert torch.allclose(grad, (renders - targets).sign() / (15 * 16 * 3), rtol=1e-12, atol=0)
    assert value.item() == pytest.approx((renders - targets).abs().mean().item(), rel=1e-12)


def test_equal_images_are_a_stationary_point():
    _, targets = image_pair((2, 20, 20))
    value, grad = value_and_grad(lambda r: photometric_loss(r, targets), targets)
    assert abs(value.item()) < 1e-12 and grad.abs().max() < 1e-12
    assert torch.allclose(ssim(targets, targets), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_do_not_depend_on_the_thread_count(dtype, monkeypatch):
    renders, targets = image_pair((2, 150, 80), dtype)  # enough pixels for five threads
    results = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("LEARN2SPLAT_NUM_THREADS", threads)
        results.append(value_and_grad(lambda r: photometric_loss(r, targets), renders))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))


def test_a_view_does_not_depend_on_its_neighbours():
    renders, targets = image_pair((3, 40, 24))
    assert torch.allclose(ssim(renders, targets)[1:2], ssim(renders[1:2], targets[1:2]), rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES)
def test_torch_path_is_the_same_loss(shape):
    renders, targets = image_pair(shape)
    value, grad = value_and_grad(lambda r: view_losses_torch(r, targets, 0.3).sum(), renders)
    value_n, grad_n = value_and_grad(lambda r: photometric_loss(r, targets, ssim_weight=0.3), renders)
    assert torch.allclose(value, value_n, rtol=1e-12)
    assert torch.allclose(grad, grad_n, rtol=0, atol=1e-12 * grad.abs().max().item())


def test_strided_images_and_no_views():
    renders, targets = image_pair((2, 16, 18))
    wide = torch.rand(2, 16, 36, 3, dtype=torch.float64)
    wide[:, :, ::2] = renders
    assert photometric_loss(wide[:, :, ::2], targets) == photometric_loss(renders, targets)
    assert photometric_loss(renders[:0], targets[:0]) == 0 and ssim(renders[:0], targets[:0]).shape == (0,)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_pixels_stay_visible(bad):
    renders, targets = image_pair((2, 30, 30), torch.float32)
    renders[1, 29, 0, 2] = bad  # a corner, which only one window sees
    losses = torch.stack([photometric_loss(renders[v : v + 1], targets[v : v + 1]) for v in range(2)])
    assert torch.isfinite(losses[0]) and not torch.isfinite(losses[1])
    assert not torch.isfinite(photometric_loss(renders, targets))
    assert torch.isnan(ssim(renders, targets)).tolist() == [False, True]


def test_psnr_equals_torchmetrics():
    renders, targets = image_pair((3, 9, 7))  # metrics without a window have no smallest size
    expected = [peak_signal_noise_ratio(r, t, data_range=1.0) for r, t in zip(renders, targets)]
    assert torch.allclose(psnr(renders, targets), torch.stack(expected), rtol=1e-6)  # torchmetrics takes its logarithm of 10 in float32
    assert torch.isposinf(psnr(targets, targets)).all()


def test_errors_say_expected_got_and_what_to_do():
    images = torch.rand(2, 12, 14, 3)
    cases = [
        (images[0], images, r"renders must have shape \(V, H, W, 3\), got \(12, 14, 3\)"),
        (images, images[:1], r"targets must have the shape of renders, \(2, 12, 14, 3\), got \(1, 12, 14, 3\)"),
        (images[:, :10], images[:, :10], r"at least 11x11 px, got 14x10"),
        (images, images.double(), r"targets must be torch.float32 on cpu .* use targets.to\(renders\)"),
        ((images * 255).byte(), images, r"float32 or float64 .* divide photos of uint8 by 255"),
    ]
    for renders, targets, message in cases:
        with pytest.raises(ShapeError, match=message):
            photometric_loss(renders, targets)
    with pytest.raises(OptionError, match=r"ssim_weight must be within \[0, 1\], got 1.5"):
        photometric_loss(images, images, ssim_weight=1.5)
    with pytest.raises(OptionError, match=r"targets.detach\(\)"):
        photometric_loss(images, images.clone().requires_grad_())


def test_thread_variable_is_checked(monkeypatch):
    monkeypatch.setenv("LEARN2SPLAT_NUM_THREADS", "many")
    with pytest.raises(OptionError, match="LEARN2SPLAT_NUM_THREADS must be a positive integer, got 'many'"):
        ssim(torch.rand(1, 11, 11, 3), torch.rand(1, 11, 11, 3))


def test_the_gradient_may_be_changed_in_place_and_taken_again():
    """As with torch's own losses: what autograd hands out is not what the graph keeps."""
    renders, targets = torch.rand(2, 12, 13, 3, requires_grad=True), torch.rand(2, 12, 13, 3)
    loss = photometric_loss(renders, targets)
    (first,) = torch.autograd.grad(loss, renders, retain_graph=True)
    kept = first.clone()
    first.zero_()
    (second,) = torch.autograd.grad(loss, renders)
    assert torch.equal(second, kept)


def plain_weighted_losses(renders, targets, weights, ssim_weight):
    """As `plain_losses`, window by window in loops: each window's moments are those of its weighted pixels."""
    k = torch.exp(-(((torch.arange(11, dtype=torch.float64) - 5) / 1.5) ** 2) / 2)
    window = (k[:, None] * k[None]) / k.sum() ** 2
    losses = []
    for x, y, m in zip(renders, targets, weights):
        total, similarities = 0.0, 0.0
        for i in range(x.shape[0] - 10):
            for j in range(x.shape[1] - 10):
                g = window * m[i : i + 11, j : j + 11]
                if g.sum() == 0:
                    continue
                p, q = (g / g.sum())[..., None], (slice(i, i + 11), slice(j, j + 11))
                mx, my = (p * x[q]).sum((0, 1)), (p * y[q]).sum((0, 1))
                vx, vy = (p * (x[q] - mx) ** 2).sum((0, 1)), (p * (y[q] - my) ** 2).sum((0, 1))
                cov = (p * (x[q] - mx) * (y[q] - my)).sum((0, 1))
                s = ((2 * mx * my + 1e-4) * (2 * cov + 9e-4)) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
                total, similarities = total + g.sum(), similarities + g.sum() * s.mean()
        l1 = ((x - y).abs().mean(2) * m).sum() / m.sum()
        losses.append((1 - ssim_weight) * l1 + ssim_weight * (1 - similarities / total))
    return torch.stack(losses)


def mask_of(shape, seed=0):
    """(V, H, W) zeros, ones and a few numbers between, with an area that is hidden whole."""
    g = torch.Generator().manual_seed(seed)
    weights = torch.rand(shape, generator=g, dtype=torch.float64)
    weights = torch.where(weights < 0.3, 0.0, torch.where(weights > 0.4, 1.0, weights))
    weights[:, :, shape[2] // 2 :] = 0
    return weights


@pytest.mark.parametrize("shape", [(1, 11, 14), (2, 17, 30), (1, 40, 13)])
def test_weighted_loss_and_gradient_equal_a_loop_over_windows(shape):
    renders, targets = image_pair(shape, seed=1)
    weights = mask_of(shape)
    value, grad = value_and_grad(lambda r: photometric_loss(r, targets, weights=weights), renders)
    value_p, grad_p = value_and_grad(lambda r: plain_weighted_losses(r, targets, weights, 0.2).sum(), renders)
    assert torch.allclose(value, value_p, rtol=1e-12)
    assert torch.allclose(grad, grad_p, rtol=0, atol=1e-12 * grad_p.abs().max().item())
    value_t, grad_t = value_and_grad(lambda r: view_losses_torch(r, targets, 0.2, weights).sum(), renders)
    assert torch.allclose(value_t, value_p, rtol=1e-12) and torch.allclose(grad_t, grad_p, rtol=0, atol=1e-12)
    assert torch.allclose(ssim(renders, targets, weights), 1 - plain_weighted_losses(renders, targets, weights, 1.0), rtol=1e-12)
    value32, grad32 = value_and_grad(lambda r: photometric_loss(r, targets.float(), weights=weights.float()), renders.float())
    # A window with a share of 1e-6 of its weight left has moments of fewer digits; measured 3e-6 and 2e-5.
    assert torch.allclose(value32.double(), value_p, rtol=2e-5)
    assert (grad32 - grad_p).abs().max() < 1e-4 * grad_p.abs().max()


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_of_one_are_no_weights_and_hidden_pixels_do_not_matter(shape):
    renders, targets = image_pair(shape)
    value, grad = value_and_grad(lambda r: photometric_loss(r, targets), renders)
    value_1, grad_1 = value_and_grad(lambda r: photometric_loss(r, targets, weights=torch.ones(shape, dtype=torch.float64)), renders)
    assert torch.allclose(value, value_1, rtol=1e-12) and torch.allclose(grad, grad_1, rtol=0, atol=1e-12 * grad.abs().max().item())
    weights = mask_of(shape)
    hidden = weights == 0
    value, grad = value_and_grad(lambda r: photometric_loss(r, targets, weights=weights), renders)
    other = renders.clone()
    other[hidden] += 3.0
    value_other, grad_other = value_and_grad(lambda r: photometric_loss(r, targets, weights=weights), other)
    assert torch.equal(value, value_other) and torch.equal(grad, grad_other) and (grad[hidden] == 0).all()
    assert torch.allclose(psnr(renders, targets, weights), psnr(other, targets, weights), rtol=1e-12)
    seen = weights.unsqueeze(3).expand(renders.shape)
    expected = -10 * torch.log10(torch.stack([(((r - t) ** 2) * w).sum() / w.sum() for r, t, w in zip(renders, targets, seen)]))
    assert torch.allclose(psnr(renders, targets, weights), expected, rtol=1e-12)


def test_weighted_gradient_equals_finite_differences():
    renders, targets = image_pair((2, 12, 13), seed=3)
    weights = mask_of((2, 12, 13))
    leaf = renders.requires_grad_()
    assert torch.autograd.gradcheck(lambda r: photometric_loss(r, targets, weights=weights), leaf, eps=1e-7, atol=1e-7, rtol=1e-5)


def test_a_view_without_any_weight_counts_nothing():
    renders, targets = image_pair((2, 20, 20))
    weights = torch.ones(2, 20, 20, dtype=torch.float64)
    weights[1] = 0
    value, grad = value_and_grad(lambda r: photometric_loss(r, targets, weights=weights), renders)
    assert torch.allclose(value, photometric_loss(renders[:1], targets[:1]), rtol=1e-12) and (grad[1] == 0).all()
    assert torch.allclose(view_losses_torch(renders, targets, 0.2, weights).sum(), value, rtol=1e-12)


@pytest.mark.parametrize("weights", [torch.ones(1, 20, 20, 3), torch.ones(1, 20, 19), torch.ones(1, 20, 20, dtype=torch.bool)])
def test_weights_that_do_not_fit(weights):
    renders, targets = image_pair((1, 20, 20), torch.float32)
    with pytest.raises(ShapeError, match=r"weights must have shape \(V, H, W\)"):
        photometric_loss(renders, targets, weights=weights)

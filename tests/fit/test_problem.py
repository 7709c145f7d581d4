"""The least-squares problem of some views: its products with the Jacobian against autograd through the reference rasterizer, and `lm` on it."""

from __future__ import annotations

import importlib

import pytest
import torch
from tiny_scenes import blobs, tiny_scene

from learn2splat import fit
from learn2splat.fitting.problem import ViewsProblem
from learn2splat.gaussians import Gaussians, init_from_points
from learn2splat.render.reference import rasterize_reference

problem_module = importlib.import_module("learn2splat.fitting.problem")
VIEWS = [1, 2, 5]  # of two sizes


def start(count: int = 40) -> Gaussians:
    truth = blobs(seed=0)
    return init_from_points(truth.means, torch.full((40, 3), 128, dtype=torch.uint8), max_points=count, generator=torch.Generator().manual_seed(0))


def reference_residuals(scene, flat: torch.Tensor) -> torch.Tensor:
    """From the definition: the torch rasterizer in float64, photo after photo, in the order of sizes."""
    g = Gaussians.unflatten(flat)
    out = []
    for i in (1, 5, 2):
        width, height = scene.size(i)
        views = scene.viewmats[[i]].double(), scene.Ks[[i]].double()
        activated = g.means, g.quats, g.log_scales.exp(), g.logit_opacities.sigmoid(), g.sh()
        renders, _, _ = rasterize_reference(*activated, *views, width, height, sh_degree=3)
        out.append((renders[0] - scene.images[i].double() / 255).reshape(-1) / (3 * width * height) ** 0.5)
    return torch.cat(out)


@pytest.fixture(scope="module")
def scene():
    return tiny_scene(two_sizes=True)


def directions(flat: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    return torch.randn(flat.shape, generator=g, dtype=torch.float64), torch.randn(rows, generator=g, dtype=torch.float64)


def test_products_with_the_jacobian_in_double_precision(scene, monkeypatch):
    monkeypatch.setattr(problem_module, "DIFFERENCE_STEP", 1e-6)  # no Gaussian crosses a cut-off on so short a way
    gaussians = start().to(torch.float64)
    flat = gaussians.flatten()
    problem = ViewsProblem(scene, gaussians, VIEWS)
    residuals = reference_residuals(scene, flat)
    torch.testing.assert_close(problem.residuals, residuals, rtol=0, atol=1e-7)  # photos are divided by 255 in float32
    v, u = directions(flat, len(residuals))
    _, jv = torch.autograd.functional.jvp(lambda x: reference_residuals(scene, x), flat, v)
    _, jtu = torch.autograd.functional.vjp(lambda x: reference_residuals(scene, x), flat, u)
    scale = float(jv.abs().max())
    torch.testing.assert_close(problem.jvp(v), jv, rtol=1e-5, atol=1e-6 * scale)
    torch.testing.assert_close(problem.vjp(u), jtu, rtol=1e-7, atol=1e-9)
    assert float(problem.jvp(v) @ u) == pytest.approx(float((v * problem.vjp(u)).sum()), rel=1e-6)
    assert problem.cost(gaussians) == pytest.approx(0.5 * float(residuals.square().sum()), rel=1e-6)
    assert (problem.jvp(torch.zeros_like(flat)) == 0).all()


def test_products_in_single_precision_are_good_enough_for_conjugate_gradients(scene):
    gaussians = start()
    problem = ViewsProblem(scene, gaussians, VIEWS)
    v = problem.vjp(problem.residuals)  # what CG starts with
    _, jv = torch.autograd.functional.jvp(lambda x: reference_residuals(scene, x), gaussians.flatten().double(), v.double())
    # Gaussians that cross their cut-off on the way add steps of 1/255; measured 0.03.
    assert float((problem.jvp(v) - jv).norm() / jv.norm()) < 0.15


def test_lm_goes_further_in_a_few_steps_than_adam_and_counts_its_renders_as_its_own(scene):
    options = {"steps": 6, "eval_at": [0]}
    by_lm, by_adam = (fit(scene, start(), name, **options) for name in ("lm", "adam"))
    first, last = by_lm.curve[0].psnr, by_lm.psnr
    assert not by_lm.diverged and last - first > 3 * (by_adam.psnr - first) > 0


def test_lm_resumes_to_the_same_bits(scene, tmp_path):
    through = fit(scene, start(20), "lm", steps=3, eval_at=[])
    stops = iter([False, False, True])
    fit(scene, start(20), "lm", steps=3, eval_at=[], checkpoint=tmp_path, should_stop=lambda: next(stops))
    resumed = fit(scene, start(20), "lm", steps=3, eval_at=[], checkpoint=tmp_path, resume=True)
    assert resumed.steps == 3 and torch.equal(resumed.gaussians.flatten(), through.gaussians.flatten())

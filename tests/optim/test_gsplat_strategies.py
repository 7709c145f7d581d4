"""gsplat's unmodified strategies densify under the learned optimizer, on a CPU."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from gsplat import DefaultStrategy, MCMCStrategy
from gsplat.cuda import _torch_impl
from gsplat.strategy import ops
from gsplat_trainer import gaussians_of, render, splats_of, train
from tiny_scenes import tiny_scene

from learn2splat import gsplat_optimizers
from learn2splat.density.mcmc import shared_opacity
from learn2splat.gaussians import init_from_points
from learn2splat.losses import psnr


def quality(splats, scene) -> float:
    """PSNR (dB) of the photos, mean."""
    views = list(range(len(scene)))
    with torch.no_grad():
        return float(psnr(render(splats, scene, views)[0], torch.stack([scene.image(i) for i in views])).mean())


@pytest.mark.parametrize(("absgrad", "steps"), [(False, 500), (True, 150)])
def test_the_default_strategy(absgrad, steps):
    scene = tiny_scene(8)
    splats = splats_of(init_from_points(scene.points, scene.colors)[::2])
    before, start = quality(splats, scene), len(splats["means"])
    optimizers = gsplat_optimizers(splats, scene_scale=scene.scene_scale, num_views=len(scene.train_idx))
    strategy = DefaultStrategy(refine_start_iter=40, refine_every=40, reset_every=240, refine_stop_iter=400, absgrad=absgrad, verbose=False)
    strategy.check_sanity(splats, optimizers)
    state = strategy.initialize_state(scene_scale=scene.scene_scale)
    counts = train(splats, optimizers, scene, steps, strategy, state, absgrad=absgrad)
    changes = sum(a != b for a, b in pairwise(counts))
    assert changes >= 2 and max(counts) > 1.3 * start  # it has grown, several times
    assert gaussians_of(splats).is_finite()
    assert quality(splats, scene) > before + 8
    assert int(optimizers["means"].state[splats["means"]]["step"]) == steps


def test_the_mcmc_strategy(monkeypatch):
    """Its two functions that exist for CUDA only are replaced: gsplat's own torch twin, and our Eq. 9."""

    def relocation(opacities, scales, ratios, binoms):
        new, factor = shared_opacity(opacities.double(), ratios.clamp(1, 51))
        return new.float(), scales * factor.float()[:, None]

    monkeypatch.setattr(ops, "compute_relocation", relocation)
    monkeypatch.setattr(ops, "quat_scale_to_covar_preci", _torch_impl._quat_scale_to_covar_preci)
    scene = tiny_scene(8)
    start = init_from_points(scene.points, scene.colors)[::2]
    start.logit_opacities[:3] = -7  # dead ones
    splats = splats_of(start)
    before = quality(splats, scene)
    optimizers = gsplat_optimizers(splats, scene_scale=scene.scene_scale, num_views=len(scene.train_idx))
    strategy = MCMCStrategy(cap_max=35, refine_start_iter=20, refine_every=20, refine_stop_iter=250)
    strategy.check_sanity(splats, optimizers)
    counts = train(splats, optimizers, scene, 300, strategy, strategy.initialize_state(), lr=optimizers["means"].param_groups[0]["lr"])
    assert counts[0] == 20 and counts[-1] == 31  # 5 % more at 40, 60, ... 240
    assert gaussians_of(splats).is_finite()
    assert quality(splats, scene) > before + 6

"""The control `default`, against gsplat's own `DefaultStrategy` and its operations on `torch.optim.Adam`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gsplat import DefaultStrategy
from gsplat.strategy.ops import reset_opa
from gsplat_twin import GsplatTwin, splat_of, surroundings, with_moments
from random_gaussians import random_gaussians
from tiny_scenes import tiny_scene

from learn2splat.density import Event, Observation, make_density
from learn2splat.gaussians import Gaussians
from learn2splat.losses import photometric_loss
from learn2splat.optimizers import make_optimizer
from learn2splat.render import rasterize

SCENE_SCALE = 1.3
MANY = 10**9


def cloud(n: int = 400, seed: int = 0) -> Gaussians:
    """Gaussians on both sides of every threshold, in any combination; none both transparent and large, of which gsplat draws needless children."""
    gaussians = random_gaussians(n, seed)
    g = torch.Generator().manual_seed(seed + 1)
    gaussians.log_scales[:] = torch.log(torch.tensor(0.004 * SCENE_SCALE)) + 1.5 * torch.randn(n, 3, generator=g)
    gaussians.logit_opacities[:] = -3.0 + 2.5 * torch.randn(n, generator=g)
    small = gaussians.log_scales.amax(1).exp() <= 0.01 * SCENE_SCALE
    gaussians.logit_opacities[~small] = gaussians.logit_opacities[~small].clamp(min=-5.2)
    return gaussians


def random_stats(n: int = 400, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed + 2)
    count = torch.randint(0, 9, (n,), generator=g, dtype=torch.int32)
    return {"grad2d": count * 4e-4 * torch.rand(n, generator=g), "count": count}


def step_of(index: int) -> int:
    """The step at which gsplat has its event `index`."""
    return 600 + 100 * index


@pytest.mark.parametrize("index", [0, 24, 25, 60])  # 24: that of step 3000, 25: the first after a reset
@pytest.mark.parametrize("seed", [0, 1])
def test_an_event_is_that_of_gsplat(index, seed):
    control, rule = make_density("default"), make_optimizer("adam")
    gaussians, stats = cloud(seed=seed), random_stats(seed=seed)
    twin, strategy = GsplatTwin(gaussians, seed), DefaultStrategy()
    splat = replace(with_moments(splat_of(gaussians, rule, control, SCENE_SCALE), twin), stats=stats)

    state = {"scene_scale": SCENE_SCALE, "grad2d": stats["grad2d"].clone(), "count": stats["count"].float()}
    torch.manual_seed(seed)
    clones, splits = strategy._grow_gs(twin.params, twin.optimizers, state, step_of(index))
    pruned = strategy._prune_gs(twin.params, twin.optimizers, state, step_of(index))
    if index == 24:
        reset_opa(twin.params, twin.optimizers, state, 2 * strategy.prune_opa)
    assert min(clones, splits, pruned) > 20  # else this test would say little

    after = control.event(splat, Event(index, 144, 0.5, MANY), surroundings(rule, seed))
    assert len(after) == len(twin.params["means"]) == 400 + clones + splits - pruned
    for name, field in after.gaussians.tensors().items():
        torch.testing.assert_close(field, getattr(twin.gaussians(), name), rtol=1e-6, atol=1e-6)
    assert torch.equal(after.state.tensors["m"], twin.moments("exp_avg")) and torch.equal(after.state.tensors["v"], twin.moments("exp_avg_sq"))
    assert not any(rows.any() for rows in after.stats.values()) and all(len(rows) == len(after) for rows in after.stats.values())


def test_resets_come_when_gsplat_means_them():
    """At steps 3000, 6000, 9000 and 12 000 of 15 000; in other plans none after which there is no time to recover."""
    control, gaussians = make_density("default"), random_gaussians(3)
    gaussians.logit_opacities[:] = 2.0
    splat = splat_of(gaussians, make_optimizer("adam"), control)

    def resets(count: int) -> list[int]:
        after = {index: control.event(splat, Event(index, count, 0.5, MANY), surroundings()) for index in range(count)}
        return [step_of(index) for index, it in after.items() if (torch.sigmoid(it.gaussians.logit_opacities) <= 0.0100001).all()]

    assert resets(144) == [3000, 6000, 9000, 12000]
    assert resets(60) == [3000] and resets(53) == [] and resets(12) == []


@pytest.mark.parametrize("target", [0, 350, 400, 420, 500, MANY])
def test_the_target_is_never_exceeded_and_the_largest_gradients_come_first(target):
    control, rule = make_density("default"), make_optimizer("sgd")
    gaussians, stats = cloud(), random_stats()
    splat = replace(splat_of(gaussians, rule, control, SCENE_SCALE), stats=stats)
    kept = int((torch.sigmoid(gaussians.logit_opacities) >= 0.005).sum())
    clones, splits = control._to_grow(splat, target)
    after = control.event(splat, Event(0, 12, 0.1, target), surroundings(rule))
    assert len(after) <= max(target, kept)
    grads = stats["grad2d"] / stats["count"].clamp_min(1)
    chosen = torch.cat([clones, splits])
    eligible = (grads > 2e-4) & (torch.sigmoid(gaussians.logit_opacities) >= 0.005)
    assert len(chosen) == min(int(eligible.sum()), max(0, target - kept)) and len(after) == kept + len(chosen)
    eligible[chosen] = False
    if len(chosen) and bool(eligible.any()):
        assert grads[chosen].min() >= grads[eligible].max()


@pytest.mark.parametrize("name", ["default", "default-abs"])
def test_observing_adds_up_what_gsplat_adds_up(name):
    """gsplat's loss is the mean over the views of a batch, ours their sum: the statistics are the same."""
    control, scene = make_density(name), tiny_scene(6)
    gaussians = random_gaussians(40, 3)
    gaussians.means[:] *= 0.4
    views, (width, height) = [1, 2, 4], scene.size(1)
    targets = torch.stack([scene.image(i) for i in views])

    def rendered(over: float):
        leaves = gaussians.detach().requires_grad_()
        activated = leaves.quats, leaves.log_scales.exp(), leaves.logit_opacities.sigmoid()
        renders, _, meta = rasterize(leaves.means, *activated, leaves.sh(), scene.viewmats[views], scene.Ks[views], width, height,
                                     sh_degree=3, absgrad=True)  # fmt: skip
        (photometric_loss(renders, targets) / over).backward()
        return meta

    ours, theirs = rendered(1), rendered(len(views))
    strategy = DefaultStrategy(absgrad=name == "default-abs")
    state, params = strategy.initialize_state(), {"means": gaussians.means}
    info = {**theirs, "width": width, "height": height, "n_cameras": len(views), "gaussian_ids": None}
    stats = control.init_stats(gaussians)
    grads = ours["means2d"].absgrad if control.observes == "absgrad" else ours["means2d"].grad
    for _ in range(2):
        strategy._update_state(params, state, info)
        parts = [Observation(grads[part], ours["radii"][part], width, height, 3) for part in (slice(0, 1), slice(1, 3))]
        stats = control.observe(stats, parts)
    assert 0 < int((stats["count"] > 0).sum()) and (stats["count"] < 6).any() and stats["count"].dtype == torch.int32
    assert torch.equal(stats["count"].float(), state["count"])
    torch.testing.assert_close(stats["grad2d"], state["grad2d"], rtol=1e-5, atol=1e-9)


def test_thresholds_are_those_of_gsplat():
    ours, theirs = make_density("default").config, DefaultStrategy()
    for name in ("grow_grad2d", "grow_scale3d", "prune_opa", "prune_scale3d", "absgrad"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert make_density("default-abs").config.grow_grad2d == 0.0008


def test_nothing_is_changed_in_place_and_types_stay():
    control, rule = make_density("default"), make_optimizer("adam")
    gaussians = cloud().to(torch.float64)
    splat = replace(splat_of(gaussians, rule, control, SCENE_SCALE), stats={key: rows.clone() for key, rows in random_stats().items()})
    splat.stats["grad2d"] = splat.stats["grad2d"].double()
    before = gaussians.flatten(), splat.stats["grad2d"].clone()
    after = control.event(splat, Event(24, 144, 0.5, MANY), surroundings(rule))
    assert torch.equal(gaussians.flatten(), before[0]) and torch.equal(splat.stats["grad2d"], before[1])
    assert after.gaussians.means.dtype == torch.float64 and after.stats["grad2d"].dtype == torch.float64
    assert after.stats["count"].dtype == torch.int32 and after.state.tensors["m"].dtype == torch.float64


def test_a_run_in_which_all_are_transparent_keeps_them():
    control, gaussians = make_density("default"), random_gaussians(5)
    gaussians.logit_opacities[:] = -9.0
    assert len(control.event(splat_of(gaussians, make_optimizer("adam"), control), Event(0, 9, 0.1, MANY), surroundings())) == 5

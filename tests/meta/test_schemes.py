"""The objectives, against closed forms: a rule with one weight, whose derivative is known by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from learn2splat.fit.evaluate import render_photos
from learn2splat.fit.gradients import loss_and_gradients
from learn2splat.gaussians import Gaussians
from learn2splat.meta import schemes, with_scheme
from learn2splat.meta.schemes import compressed, delta_loss, l1_per_view, meta_loss, nominal_of, roll_out, unroll
from learn2splat.meta.tasks import Dice
from learn2splat.optimizers import OptState, make_optimizer


class OneWeight:
    """flat <- flat - w * step, where `step` is the gradient scaled to a small length; remembers its inputs."""

    config = None

    def __init__(self):
        self.w = torch.tensor(1.0, requires_grad=True)
        self.steps, self.outputs = [], []

    def update(self, gaussians, grads, state):
        flat = grads.flatten()
        step = 1e-3 * flat / flat.abs().amax()
        new = Gaussians.unflatten(gaussians.flatten() - self.w * step)
        self.steps.append(step)
        self.outputs.append(new.detach())
        return new, replace(state, step=state.step + 1)


@pytest.fixture
def episode(tiny, pool):
    return pool.start(tiny, make_optimizer("anchored", width=8), Dice(2))


def slope(scene, gaussians, views, step, config):
    """-(step . dL/dflat) at `gaussians`: the derivative of the meta-loss when w moves everything by -step."""
    leaves = gaussians.clone().requires_grad_()
    grads = torch.autograd.grad(meta_loss(scene, leaves, views, config), list(leaves.tensors().values()))
    return -float((step * Gaussians(*grads).flatten()).sum())


def test_meta_loss_against_torchmetrics(tiny, pool, episode):
    """L1 + SSIM, and 0.04 ln(MSE / 1e-4) = 0.04 (40 - PSNR) ln(10) / 10, means over views of any sizes."""
    scene, views = pool.scene_of(episode), list(episode.targets)
    plain, both = (float(meta_loss(scene, episode.gaussians, views, replace(tiny, psnr_weight=weight))) for weight in (0.0, 0.04))
    pairs = [render_photos(scene, episode.gaussians, [view]) for view in views]
    psnr = sum(float(peak_signal_noise_ratio(render, photo, data_range=1.0)) for render, photo in pairs) / len(pairs)
    assert both - plain == pytest.approx(0.04 * (40 - psnr) * math.log(10) / 10, rel=1e-4)
    l1 = sum(float((render - photo).abs().mean()) for render, photo in pairs) / len(pairs)
    assert float(meta_loss(scene, episode.gaussians, views, replace(tiny, psnr_weight=0.0, ssim_weight=0.0))) == pytest.approx(l1, rel=1e-4)


def test_horizon_judges_every_step_by_the_end(tiny, pool, episode):
    config = replace(tiny, advantage=False, intermediate=0.0, unroll=(3, 3), max_graph=10_000)
    scene, rule, dice = pool.scene_of(episode), OneWeight(), Dice(4)
    unrolled = unroll(rule, episode, scene, config, 0, dice)
    (gradient,) = torch.autograd.grad(unrolled.loss, rule.w)
    dice = Dice(4)
    dice.integer(3, 3), schemes.draw_views(episode, scene, 3, dice)
    judged = dice.sample(episode.targets, config.target_views) + dice.sample(episode.context, config.context_views)
    start = float(meta_loss(scene, episode.gaussians, judged, config))
    end = float(meta_loss(scene, rule.outputs[-1], judged, config))
    unit = abs(start - end) + config.advantage_floor * start  # a constant
    expected = slope(scene, rule.outputs[-1], judged, sum(rule.steps), config) / unit
    assert float(gradient) == pytest.approx(expected, rel=1e-4) and abs(expected) > 1e-5
    assert float(unrolled.loss.detach()) == pytest.approx((end - start) / unit, rel=1e-3) and unrolled.ratio == pytest.approx(end / start)
    assert unrolled.episode.age == 3 and not unrolled.episode.gaussians.means.requires_grad


def test_greedy_judges_every_step_by_itself(tiny, pool, episode):
    config = replace(with_scheme(tiny, "greedy"), unroll=(3, 3), delta_weight=0.0, stability_weight=0.0)
    scene, rule, dice = pool.scene_of(episode), OneWeight(), Dice(4)
    unrolled = unroll(rule, episode, scene, config, 0, dice)
    (gradient,) = torch.autograd.grad(unrolled.loss, rule.w)
    dice = Dice(4)
    dice.integer(3, 3), schemes.draw_views(episode, scene, 3, dice)
    judged = dice.sample(episode.targets, config.target_views) + dice.sample(episode.context, config.context_views)
    expected = sum(0.9 ** (2 - i) * slope(scene, rule.outputs[i], judged, rule.steps[i], config) for i in range(3))
    assert float(gradient) == pytest.approx(expected, rel=1e-4) and abs(expected) > 1e-5


def test_stability_loss_is_the_rise_of_l1(tiny, pool, episode):
    """A rule that climbs: the loss exceeds the plain one by the sum of rises, view by view."""
    config = replace(with_scheme(tiny, "greedy"), unroll=(2, 2), delta_weight=0.0)
    scene = pool.scene_of(episode)
    losses, rules = [], []
    for weight in (1.0, 0.0):
        rules.append(OneWeight())
        rules[-1].w = torch.tensor(-30.0, requires_grad=True)
        losses.append(float(unroll(rules[-1], episode, scene, replace(config, stability_weight=weight), 0, Dice(4)).loss))
    dice = Dice(4)
    dice.integer(2, 2), schemes.draw_views(episode, scene, 2, dice)
    judged = dice.sample(episode.targets, config.target_views) + dice.sample(episode.context, config.context_views)
    l1 = [l1_per_view(scene, gaussians, judged) for gaussians in (episode.gaussians, *rules[0].outputs)]
    rises = float((l1[1] - l1[0]).relu().sum() + (l1[2] - l1[1]).relu().sum())
    assert rises > 1e-3 and losses[0] - losses[1] == pytest.approx(rises, rel=1e-3)


def test_delta_loss_counts_idle_and_uphill_entries():
    def record(value):
        return Gaussians.unflatten(torch.full((1, 59), value))

    old, new, grads, m = (record(0.0).flatten() for _ in range(4))
    new[0, :4] = torch.tensor([0.5, -0.25, 0.125, 3.0])
    grads[0] = 1.0
    grads[0, 0] = 1e-9  # no gradient: counts, 0.5
    m[0] = 1.0
    m[0, 1] = -1.0  # moves along the sign of the gradient: counts, 0.25
    m[0, 2] = -1.0  # downhill: does not count, nor does ...
    m[0, 3] = -2.0
    to_record = Gaussians.unflatten
    state = OptState({"m": m})
    assert float(delta_loss(to_record(old), to_record(new), to_record(grads), state)) == pytest.approx((0.5 + 0.25) / 2)


def test_compressed_is_continuous_with_its_slope():
    x = torch.tensor([-math.e, -1.0, -0.3, 0.0, 0.999, 1.001, math.e**3], dtype=torch.float64, requires_grad=True)
    y = compressed(x)
    torch.testing.assert_close(y, torch.tensor([-2.0, -1.0, -0.3, 0.0, 0.999, 1.001, 4.0], dtype=torch.float64), atol=1e-6, rtol=0)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, (1 / x.detach().abs()).clamp_max(1.0))


@pytest.mark.parametrize("architecture", ["anchored", "paper"])
def test_the_reference_goes_on_from_the_middle_of_an_episode(tiny, pool, architecture):
    """The untrained anchored rule is nominal: advantage 0 and ratio 1, also in the middle of an episode. The paper's moves nothing: ratio above 1."""
    rule = make_optimizer(architecture, width=8)
    episode = pool.start(tiny, rule, Dice(2))
    scene = pool.scene_of(episode)
    aged = roll_out(rule, episode, scene, 23, Dice(1))
    assert aged.age == 23
    unrolled = unroll(rule, aged, scene, replace(tiny, unroll=(4, 4), advantage=True), 0, Dice(3))
    if architecture == "anchored":
        # Not to the bit: the reference takes native steps, the unrolled piece those of torch, which round differently.
        assert float(unrolled.loss) == pytest.approx(0, abs=1e-5) and unrolled.ratio == pytest.approx(1, abs=1e-6)
        nominal, state = nominal_of(rule, aged)
        assert torch.equal(state.tensors["spacing"], aged.state.tensors["spacing"]) and nominal.config == rule.config.nominal
    else:
        assert unrolled.ratio > 1 and float(unrolled.loss) > 0
    gradients = torch.autograd.grad(unrolled.loss, list(rule.network.parameters()), allow_unused=True)
    assert sum(float(gradient.abs().sum()) for gradient in gradients if gradient is not None) > 0


def test_broken_episodes_are_noticed(tiny, pool, episode):
    rule, scene = make_optimizer("anchored", width=8), pool.scene_of(episode)
    nan_scene = replace(scene, background=torch.full((3,), torch.nan))
    for scheme in ("greedy", "horizon"):
        config = replace(with_scheme(tiny, scheme), unroll=(2, 2))
        assert unroll(rule, episode, nan_scene, config, 0, Dice(1)) is None
    assert roll_out(rule, episode, nan_scene, 2, Dice(1)) is None


@pytest.mark.parametrize("architecture, expected", [("anchored", 0.0), ("paper", 1.0)])
def test_imitation_is_the_relative_error_of_the_update(tiny, pool, architecture, expected):
    """The untrained anchored rule is nominal: 0. The paper's stands still: all of nominal's step is missing, 1. Nominal leads either way."""
    rule = make_optimizer(architecture, width=8)
    episode = pool.start(tiny, rule, Dice(2))
    scene, config = pool.scene_of(episode), replace(tiny, unroll=(5, 5), imitation=1)
    unrolled = unroll(rule, episode, scene, config, 0, Dice(3))
    assert float(unrolled.loss) == pytest.approx(expected, abs=1e-3) and unrolled.steps == unrolled.episode.age == 5
    dice, gaussians = Dice(3), episode.gaussians
    dice.integer(5, 5)
    nominal, state = nominal_of(rule, episode)
    for views in schemes.draw_views(episode, scene, 5, dice):
        gaussians, state = nominal.step(gaussians, loss_and_gradients(scene, gaussians, views)[1], state)
    torch.testing.assert_close(unrolled.episode.gaussians.flatten(), gaussians.flatten())
    assert unroll(rule, episode, scene, config, 1, Dice(3)).loss != unrolled.loss  # from there on: the scheme's own loss
    assert unroll(rule, episode, replace(scene, background=torch.full((3,), torch.nan)), config, 0, Dice(1)) is None

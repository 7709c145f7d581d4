"""The objectives, against closed forms: a rule with one weight, whose derivative is known by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from learn2splat.fitting.evaluate import render_photos
from learn2splat.fitting.gradients import loss_and_gradients
from learn2splat.gaussians import Gaussians
from learn2splat.gaussians.record import COLUMNS
from learn2splat.meta import greedy, schemes, with_scheme
from learn2splat.meta.greedy import delta_loss, l1_per_view, predicted, stacked_views
from learn2splat.meta.losses import meta_loss
from learn2splat.meta.schemes import compressed, nominal_of, roll_out, unroll
from learn2splat.meta.tasks import Dice
from learn2splat.optimizers import make_optimizer


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
    dice.integer(3, 3), schemes.draw_views(episode, scene, 3, config, dice)
    judged = dice.sample(episode.targets, config.target_views) + dice.sample(episode.context, config.context_views)
    start = float(meta_loss(scene, episode.gaussians, judged, config))
    end = float(meta_loss(scene, rule.outputs[-1], judged, config))
    unit = abs(start - end) + config.advantage_floor * start  # a constant
    expected = slope(scene, rule.outputs[-1], judged, sum(rule.steps), config) / unit
    assert float(gradient) == pytest.approx(expected, rel=1e-4) and abs(expected) > 1e-5
    assert float(unrolled.loss.detach()) == pytest.approx((end - start) / unit, rel=1e-3) and unrolled.ratio == pytest.approx(end / start)
    assert unrolled.episode.age == 3 and not unrolled.episode.gaussians.means.requires_grad


def test_greedy_judges_every_step_by_itself(tiny, pool, episode):
    """By two means added: over the first targets, the same in every step, and over some of the photos that the step has rendered."""
    config = replace(with_scheme(tiny, "greedy"), unroll=(3, 3), delta_weight=0.0, stability_weight=0.0, target_views=1, context_views=1)
    scene, rule, dice = pool.scene_of(episode), OneWeight(), Dice(4)
    unrolled = unroll(rule, episode, scene, config, 0, dice)
    (gradient,) = torch.autograd.grad(unrolled.loss, rule.w)
    dice = Dice(4)
    dice.integer(3, 3)
    views = schemes.draw_views(episode, scene, 3, config, dice)
    expected, loss = 0.0, 0.0
    for i in range(3):
        rendered = dice.sample(views[i], 1)
        for judged in (list(episode.targets[:1]), rendered):
            expected += 0.9 ** (2 - i) * slope(scene, rule.outputs[i], judged, rule.steps[i], config)
            loss += 0.9 ** (2 - i) * float(meta_loss(scene, rule.outputs[i], judged, config))
    assert float(gradient) == pytest.approx(expected, rel=1e-4) and abs(expected) > 1e-5
    assert float(unrolled.loss.detach()) == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("sparse", [False, True])
def test_stability_loss_is_the_rise_of_l1(tiny, pool, episode, sparse):
    """A rule that climbs: the loss exceeds the plain one by the sum of rises, view by view; over the context too where a step shows all of it."""
    if sparse:
        task = replace(episode.state.task, views_per_step=len(episode.context))
        episode = replace(episode, state=replace(episode.state, task=task))
    config = replace(with_scheme(tiny, "greedy"), unroll=(2, 2), delta_weight=0.0)
    scene = pool.scene_of(episode)
    losses, rules = [], []
    for weight in (1.0, 0.0):
        rules.append(OneWeight())
        rules[-1].w = torch.tensor(-30.0, requires_grad=True)
        losses.append(float(unroll(rules[-1], episode, scene, replace(config, stability_weight=weight), 0, Dice(4)).loss.detach()))
    watched = [*episode.targets[: config.target_views], *(episode.context if sparse else ())]
    l1 = [l1_per_view(scene, gaussians, watched) for gaussians in (episode.gaussians, *rules[0].outputs)]
    rises = float((l1[1] - l1[0]).relu().sum() + (l1[2] - l1[1]).relu().sum())
    assert rises > 1e-3 and losses[0] - losses[1] == pytest.approx(rises, rel=1e-3)


def test_delta_loss_counts_idle_and_uphill_entries_of_the_seen():
    change, grads, m = (torch.zeros(2, 59) for _ in range(3))
    change[0, :4] = torch.tensor([0.5, -0.25, 0.125, 3.0])
    change[1] = 7.0  # unseen: it does not take part
    grads[0] = 1.0
    grads[0, 0] = 1e-9  # no gradient: counts, 0.5
    m[0] = 1.0
    m[0, 1] = -1.0  # moves along the sign of the gradient: counts, 0.25
    m[0, 2] = -1.0  # downhill: does not count, nor does ...
    m[0, 3] = -2.0
    assert float(delta_loss(change, grads, m)) == pytest.approx((0.5 + 0.25) / 2)


def test_delta_is_taken_before_clamps(tiny, pool, episode):
    rule = make_optimizer("paper", width=8, blocks=1)
    gaussians = replace(episode.gaussians, logit_opacities=torch.full_like(episode.gaussians.logit_opacities, 6.9))
    torch.nn.init.ones_(rule.network.delta_head[2].bias)
    state = rule.init(gaussians, episode.state.task, torch.Generator().manual_seed(0))
    grads = gaussians.map(torch.ones_like)
    new, after, change = predicted(rule, gaussians, grads, state)
    stepped, state = rule.step(gaussians, grads, state)
    assert torch.equal(new.flatten(), stepped.flatten()) and torch.equal(after.tensors["latent"], state.tensors["latent"])
    assert bool((change.norm(dim=1) - 1).abs().max() < 1e-4)  # the head says length 1, in a direction of 59 equal numbers
    moved, sh = gaussians.flatten() + change, COLUMNS["sh0"].start
    torch.testing.assert_close(new.flatten(), torch.cat([moved[:, :sh], moved[:, sh:].clamp(-2, 2)], dim=1))


def test_views_come_from_a_shuffled_stack():
    """Each photo once before any comes again, and never twice in a step."""
    views = stacked_views((3, 5, 7, 9, 11), 2, 10, Dice(0))
    flat = [view for step in views for view in step]
    assert all(len(set(step)) == 2 for step in views) and len(flat) == 20
    assert sorted(flat[:5]) == [3, 5, 7, 9, 11]
    assert max(flat.count(view) for view in set(flat)) - min(flat.count(view) for view in set(flat)) <= 1
    assert flat != [view for step in stacked_views((3, 5, 7, 9, 11), 2, 10, Dice(1)) for view in step]
    assert [sorted(step) for step in stacked_views((1, 2), 4, 3, Dice(0))] == [[1, 2]] * 3


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
    aged = roll_out(rule, episode, scene, 23, tiny, Dice(1))
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
    assert roll_out(rule, episode, nan_scene, 2, tiny, Dice(1)) is None


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
    for views in schemes.draw_views(episode, scene, 5, tiny, dice):
        gaussians, state = nominal.step(gaussians, loss_and_gradients(scene, gaussians, views)[1], state)
    torch.testing.assert_close(unrolled.episode.gaussians.flatten(), gaussians.flatten())
    assert unroll(rule, episode, scene, config, 1, Dice(3)).loss != unrolled.loss  # from there on: the scheme's own loss
    assert unroll(rule, episode, replace(scene, background=torch.full((3,), torch.nan)), config, 0, Dice(1)) is None


def test_low_precision_is_for_the_network_alone(tiny, pool, monkeypatch):
    """bf16 as on a GPU: the network's sums are rounded, parameters and state stay float32."""
    rule = make_optimizer("paper", width=8, blocks=1)
    with torch.no_grad():
        rule.network.delta_head[2].weight.copy_(torch.randn(60, 8, generator=torch.Generator().manual_seed(1)))
        rule.network.delta_head[2].bias[59] = 9.0  # a length above 0
    episode = pool.start(tiny, rule, Dice(2))
    grads = episode.gaussians.map(torch.ones_like)
    exact, _ = rule.step(episode.gaussians, grads, episode.state)
    assert greedy.low_precision(replace(tiny, bf16=True), episode.gaussians).__class__.__name__ == "nullcontext"  # not on a CPU
    with torch.autocast("cpu", torch.bfloat16):
        rounded, state = rule.step(episode.gaussians, grads, episode.state)
    assert {tensor.dtype for tensor in (*rounded.tensors().values(), state.tensors["latent"])} == {torch.float32}
    moved, difference = ((one.flatten() - episode.gaussians.flatten()).norm() for one in (exact, rounded))
    assert 0 < float((rounded.flatten() - exact.flatten()).norm()) < 0.1 * float(moved) and float(difference) > 0

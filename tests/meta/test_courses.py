"""Episodes that follow a plan: the graph through events, the plan against `fit`, and the same bits after a stop."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_config import TINY

from learn2splat import errors
from learn2splat.cli.train import Train
from learn2splat.density import Splat, make_density
from learn2splat.fitting import FitRun
from learn2splat.fitting.checkpoint import load_checkpoint
from learn2splat.fitting.plan import Growth, Plan, Stage
from learn2splat.gaussians import Gaussians
from learn2splat.meta import PRESETS, MetaConfig, courses, schemes, train
from learn2splat.meta import resume as saved
from learn2splat.meta.buffer import Buffer
from learn2splat.meta.courses import Course, grown, progress_of, rollout_steps, with_graph
from learn2splat.meta.schemes import roll_out, unroll
from learn2splat.meta.tasks import Dice
from learn2splat.meta.trainer import begin_with
from learn2splat.optimizers import OptState, UpdateRule, make_optimizer
from learn2splat.optimizers.weights import packaged_weights

GROW = {
    **TINY,
    "plan_share": 1.0,
    "plan_steps": (7, 9),
    "plan_gaussians": (60, 90),
    "sparse_share": 0.0,
    "dense_views": (6, 8),
    "resume_probability": 0.9,
}


class TwoWeights(UpdateRule):
    """flat <- flat - 0.01 (w0 + l) gradient, with a latent l <- tanh(l + w1 g), g the gradient of the first number."""

    name = "two"
    config = None

    def __init__(self, w):
        self.w = w

    def init(self, gaussians, task, generator):
        return OptState({"latent": gaussians.means.new_zeros(len(gaussians), 1)}, task=task)

    def update(self, gaussians, grads, state):
        flat = grads.flatten()
        latent = torch.tanh(state.tensors["latent"] + self.w[1] * flat[:, :1])
        new = Gaussians.unflatten(gaussians.flatten() - 0.01 * (self.w[0] + latent) * flat)
        return new, replace(state, tensors={"latent": latent}, step=state.step + 1)

    def step(self, gaussians, grads, state):
        with torch.no_grad():
            return self.update(gaussians, grads, state)


class Rearranged:
    """A control that at each event drops a row, turns the others round, copies the first with its state, and adds a constant one."""

    observes = None

    def penalty(self, gaussians, num_views):
        return None

    def perturb(self, gaussians, *arguments):
        return gaussians.map(lambda field: field + 1e-3)

    @torch.no_grad()
    def event(self, splat: Splat, event, around) -> Splat:
        splat = splat.select(torch.arange(len(splat) - 2, -1, -1))
        child = splat.gaussians[:1].map(lambda field: field + 0.02)
        splat = splat.grow(child, torch.tensor([0]), around.rule, around.generator)
        return splat.grow(child.map(torch.zeros_like), torch.tensor([-1]), around.rule, around.generator)


def with_plan(episode, plan, rule):
    """The episode at the start of another plan."""
    state = rule.init(episode.gaussians, episode.state.task, torch.Generator())
    return replace(episode, state=state, course=Course(plan, make_density(plan.density).init_stats(episode.gaussians)))


@pytest.fixture(scope="module")
def growing() -> MetaConfig:
    return MetaConfig(**GROW)


@pytest.mark.parametrize("average_from", [1.0, 0.6])
def test_the_gradient_through_events_is_that_of_finite_differences(growing, pool, monkeypatch, average_from):
    """In float64, over two events, a change of size and an average; the gradients that the rule reads are constants, as the scheme has them."""
    rule = TwoWeights(torch.tensor([0.7, 0.3], dtype=torch.float64, requires_grad=True))
    plan = Plan((Stage(0.5, 16, 2), Stage(1.0, 32, 2)), growth=(Growth(0.2, 99), Growth(0.5, 99)), steps=8, average_from=average_from)
    episode = pool.start(growing, make_optimizer("anchored", width=8), Dice(2))
    episode = with_plan(replace(episode, gaussians=episode.gaussians.map(torch.Tensor.double)), plan, rule)
    scene, grounds = pool.scene_of(episode), pool.grounds_of(episode)
    config = replace(growing, unroll=(7, 7), intermediate=0.0)
    seen, losses, real = [], [], schemes.meta_loss

    def frozen(scene, gaussians, views):
        seen.append((len(gaussians), max(scene.size(0))))
        return 1.0, Gaussians.unflatten(torch.randn(len(gaussians), 59, generator=torch.Generator().manual_seed(len(seen) % 7), dtype=torch.float64))

    def recorded(*arguments):
        losses.append(real(*arguments))
        return losses[-1]

    monkeypatch.setattr(courses, "make_density", lambda name: Rearranged())
    monkeypatch.setattr(courses, "loss_and_gradients", frozen)
    monkeypatch.setattr(schemes, "meta_loss", recorded)
    unrolled = unroll(rule, episode, scene, config, 0, Dice(4), grounds)
    (gradient,) = torch.autograd.grad(unrolled.loss, rule.w)
    n = len(episode.gaussians)
    assert seen == [(n, 16)] * 2 + [(n + 1, 16)] * 2 + [(n + 2, 32)] * 3 and unrolled.episode.course.events == 2
    assert (unrolled.episode.course.averaged == 2) == (average_from == 0.6) and not unrolled.episode.gaussians.means.requires_grad
    start, end = (float(loss.detach()) for loss in losses)
    unit = abs(start - end) + config.advantage_floor * start

    def end_at(w):
        unroll(TwoWeights(w), episode, scene, config, 0, Dice(4), grounds)
        return float(losses[-1].detach())

    for k in range(2):
        h = 1e-6 * torch.eye(2, dtype=torch.float64)[k]
        expected = (end_at(rule.w.detach() + h) - end_at(rule.w.detach() - h)) / 2e-6 / unit
        assert float(gradient[k]) == pytest.approx(expected, rel=1e-5) and abs(expected) > 1e-4


@pytest.mark.parametrize("density", ["error", "default", "mcmc"])
def test_events_keep_their_values_and_gain_a_graph(growing, pool, density):
    """What the control itself returns, to the bit; every row that has one before the event depends on it alone."""
    rule = make_optimizer("anchored", width=8)
    plan = Plan((Stage(1.0, 32, 2),), density, (Growth(0.3, 70),), steps=10)
    episode = with_plan(pool.start(growing, rule, Dice(3)), plan, rule)
    episode = roll_out(rule, episode, pool.scene_of(episode), 3, growing, Dice(1), pool.grounds_of(episode))
    logits = episode.gaussians.logit_opacities.clone()
    logits[::5] = -8.0  # transparent: `error` and `default` prune them, `mcmc` moves them
    episode = replace(episode, gaussians=replace(episode.gaussians, logit_opacities=logits).requires_grad_())
    latent = torch.randn_like(episode.state.tensors["latent"]).requires_grad_()
    episode = replace(episode, state=replace(episode.state, tensors={**episode.state.tensors, "latent": latent}))
    assert progress_of(episode) == 0.3 and episode.course.events == 0
    grounds = pool.grounds_of(episode)
    after, plain = (grown(e, rule, grounds, torch.Generator().manual_seed(5)) for e in (episode, schemes._ended(episode)))
    assert after.course.events == 1
    assert torch.equal(after.gaussians.flatten(), plain.gaussians.flatten()) and set(after.state.tensors) == set(episode.state.tensors)
    assert all(torch.equal(after.state.tensors[name].nan_to_num(), tensor.nan_to_num()) for name, tensor in plain.state.tensors.items())
    by_row = torch.autograd.grad(after.gaussians.sh0.sum(), episode.gaussians.sh0, retain_graph=True)[0][:, 0, 0]
    memory = torch.autograd.grad(after.state.tensors["latent"].sum(), latent)[0][:, 0]
    assert torch.equal(by_row, memory)
    colour, old = after.gaussians.sh0.detach().flatten(1), episode.gaussians.sh0.detach().flatten(1)
    copies = (colour.unsqueeze(0) == old.unsqueeze(1)).all(-1).sum(1)  # an event changes no colour that it keeps or copies
    assert torch.equal(by_row, copies.to(by_row)) and int(copies[::5].sum()) == 0


def test_brand_new_rows_are_constants():
    before = torch.tensor([1.0, 2.0], requires_grad=True)
    now = with_graph(torch.tensor([2.5, 7.0, 2.0]), before, torch.tensor([1, -1, 1]))
    assert now.tolist() == [2.5, 7.0, 2.0] and torch.autograd.grad(now.sum(), before)[0].tolist() == [0.0, 2.0]


def test_an_episode_follows_its_plan_as_fit_does(growing, pool):
    """Sizes and numbers of Gaussians change at the same steps, and the plan's end is the end."""
    rule = make_optimizer("nominal")
    plan = Plan((Stage(0.4, 16, 2), Stage(1.0, 32, 2)), "error", (Growth(0.2, 50), Growth(0.55, 80)), steps=11, average_from=0.9)
    episode = with_plan(pool.start(growing, rule, Dice(5)), plan, rule)
    run = FitRun(replace(pool.scene_of(episode), train_idx=episode.context), episode.gaussians, rule, plan)
    changes, now = [], None
    for step in range(11):
        run.advance()
        grounds = pool.grounds_of(episode)
        long_side = max(courses.photos(episode, grounds.scenes[-1], grounds).size(0))
        episode = roll_out(rule, episode, grounds.scenes[-1], 1, growing, Dice(step), grounds)
        if now != (now := (len(episode.gaussians), long_side)):
            changes.append((step, *now))
    assert changes == [(change.step, change.num_gaussians, change.long_side) for change in run.result().changes] and len(changes) == 4
    assert run.finished and courses.steps_left(episode) == 0 and episode.course.averaged == 1
    assert torch.equal(courses.shown(episode).means, episode.course.average.means)


def test_starts_draw_plans_within_their_ranges(growing, pool, monkeypatch):
    monkeypatch.setattr(courses, "COARSEST", 8)
    config, rule, dice = replace(growing, plan_steps=(60, 600), plan_share=0.8), make_optimizer("anchored", width=8), Dice(1)
    episodes = [pool.start(config, rule, dice, meta_step=3) for _ in range(100)]
    plans = [episode.course.plan for episode in episodes if episode.course is not None]
    assert 65 <= len(plans) <= 95  # 4 standard deviations
    kinds = [plan.density for plan in plans]
    assert 0.35 <= kinds.count("error") / len(kinds) <= 0.85 and set(kinds) == {"error", "default", "mcmc"}
    assert all(60 <= plan.steps <= 600 and plan.max_gaussians == 75 for plan in plans)  # half way from 60 to 90
    assert {len(plan.stages) for plan in plans} == {2, 3} and all(max(g.target for g in plan.growth) <= 75 for plan in plans if plan.growth)
    grown_to = next(episode for episode in episodes if episode.course and episode.course.plan.growth)
    last = grown_to.course.plan.growth[-1]
    before, after = (round(last.at * grown_to.course.plan.steps) + late for late in (-40, 40))
    assert courses.most_gaussians(replace(grown_to, state=replace(grown_to.state, step=max(0, before))), 80) == last.target or after > 600
    drawn = [rollout_steps(grown_to, 48, dice) for _ in range(200)]
    assert min(drawn) >= 1 and max(drawn) <= 48


def test_pieces_begin_before_changes_as_often_as_anywhere(growing, pool):
    rule = make_optimizer("anchored", width=8)
    plan = Plan((Stage(1.0, 32, 2),), "error", (Growth(0.3, 50),), steps=100)
    episode, dice = with_plan(pool.start(growing, rule, Dice(5)), plan, rule), Dice(0)
    drawn = [rollout_steps(episode, 48, dice) for _ in range(1000)]
    assert sum(26 <= steps <= 29 for steps in drawn) / 1000 == pytest.approx(0.5 + 0.5 * 4 / 48, abs=0.06)
    assert max(drawn) == 48 and 0.2 < sum(steps > 30 for steps in drawn) / 500 < 0.6


def test_episodes_with_a_plan_stay_until_it_ends(growing):
    buffer, dice = Buffer(growing), Dice(0)
    state = dice.generator.get_state()
    assert buffer.wants(10, 99, True, dice, 100) and not buffer.wants(10, 100, True, dice, 100)
    assert torch.equal(dice.generator.get_state(), state) and not Buffer(replace(growing, buffer=0)).wants(1, 2, True, dice, 100)


def test_a_stopped_run_resumes_through_events_to_the_same_bits(growing, photos, tmp_path, monkeypatch):
    """With stats, averages and depth maps in the buffer or made anew."""
    monkeypatch.setattr(courses, "COARSEST", 15)
    config = replace(growing, meta_steps=9)
    train(config, tmp_path / "whole", data=[photos])
    steps = []
    for resume in (False, *[True] * 8):  # stopped after every meta-step
        steps.append(train(config, tmp_path / "parts", data=[photos], resume=resume, should_stop=lambda: True).step)
    assert steps == list(range(1, 10))
    logs = [[{**json.loads(line), "seconds": 0} for line in (tmp_path / name / "log.jsonl").read_text().splitlines()] for name in ("whole", "parts")]
    assert logs[0] == logs[1] and max(max(line["gaussians"]) for line in logs[0]) > 41  # a start has 40 at most
    assert {0.0} < {place for line in logs[0] for place in line["plans"]}
    for name in ("theta.safetensors", *(f"resume/9/{part}/state.safetensors" for part in ("theta", "slot0", "slot1"))):
        a, b = load_file(tmp_path / "whole" / name), load_file(tmp_path / "parts" / name)
        assert a.keys() == b.keys() and all(torch.equal(a[key].nan_to_num(), b[key].nan_to_num()) for key in a), name


@pytest.mark.parametrize("name", ["anchored", "procedural", "paper"])
def test_saves_from_before_there_were_plans_resume(name):
    """Those of the repository: what their configuration does not say is the default."""
    out = Path(__file__).parents[2] / "training" / name
    step = saved.latest_step(out)
    _, info = load_checkpoint(out / "resume" / str(step) / "theta")
    known = {key: tuple(value) if isinstance(value, list) else value for key, value in info["config"].items() if key in asdict(MetaConfig())}
    assert "plan_share" not in known
    groups, counts = saved.load_theta(out, step, MetaConfig(**known), info.get("data", {}))
    assert groups["weights"] and counts.seconds > 0
    with pytest.raises(errors.CheckpointError, match=r"plan_share = 0.0, not 0.5"):
        saved.load_theta(out, step, replace(MetaConfig(**{**known, "scheme": "horizon", "imitation": 0}), plan_share=0.5), {})


def test_a_training_begins_with_given_weights(growing, tmp_path):
    from learn2splat.meta.trainer import make_rule

    rule = make_rule(PRESETS["grow"])
    begin_with(rule, packaged_weights())
    packaged = make_optimizer("learned").network.state_dict()
    assert all(torch.equal(tensor, packaged[name]) for name, tensor in rule.network.state_dict().items())
    with pytest.raises(errors.OptionError, match="another network"):
        begin_with(make_rule(growing), packaged_weights())
    command = Train(out=tmp_path / "a", preset="grow", init_weights=Path("default"), meta_steps=5)
    assert command.config() == replace(PRESETS["grow"], meta_steps=5)
    with pytest.raises(errors.OptionError, match="scheme horizon"):
        replace(command, scheme="greedy").config()

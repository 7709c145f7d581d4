"""The fit loop: it improves, it is reproducible, it resumes to the same bits, and it never returns something broken."""

import json
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from tiny_scenes import blobs, tiny_scene

from learn2splat.errors import CheckpointError, OptionError, SceneError
from learn2splat.fitting import checkpoint, fit, flat_plan, gradients, loop, make_plan, mean_score, run, score
from learn2splat.fitting.checkpoint import load_checkpoint
from learn2splat.gaussians import Gaussians, init_from_points
from learn2splat.losses import photometric_loss
from learn2splat.optimizers import OptState, UpdateRule, make_optimizer
from learn2splat.render import render_views

SCENE = tiny_scene()


def start(scene=SCENE) -> Gaussians:
    return init_from_points(scene.points, scene.colors, generator=torch.Generator().manual_seed(0))


def assert_same_bits(a: Gaussians, b: Gaussians) -> None:
    for name, tensor in a.tensors().items():
        assert torch.equal(tensor, b.tensors()[name]), name


@pytest.mark.parametrize("name", ["adam", "nominal"])
def test_fit_improves_held_out_photos(name):
    result = fit(SCENE, start(), name, steps=60, eval_at=(0,))
    assert result.psnr > result.curve[0].psnr + 3
    assert (result.optimizer, result.steps, result.diverged, result.interrupted) == (name, 60, False, False)
    assert not any(tensor.requires_grad for tensor in result.gaussians.tensors().values())
    assert mean_score(score(SCENE, result.gaussians)) == (result.psnr, result.ssim)


def test_the_start_is_not_changed():
    gaussians = start()
    before = gaussians.clone()
    fit(SCENE, gaussians, "adam", steps=3, eval_at=())
    assert_same_bits(gaussians, before)


def test_inner_loss_is_the_sum_over_views_of_any_size():
    """Against one autograd pass per view, photo by photo."""
    scene = tiny_scene(two_sizes=True)
    gaussians, views = blobs(seed=1), [1, 2, 3, 6]
    total, grads = gradients.loss_and_gradients(scene, gaussians, views)
    leaves = gaussians.detach().requires_grad_()
    expected = 0.0
    for i in views:
        width, height = scene.size(i)
        render = render_views(leaves, torch.linalg.inv(scene.camtoworlds[i])[None], scene.Ks[i][None], width, height)
        loss = photometric_loss(render, scene.image(i)[None])
        loss.backward()
        expected += float(loss.detach())
    assert total == pytest.approx(expected, rel=1e-5)
    for name, grad in grads.tensors().items():
        reference = getattr(leaves, name).grad
        assert torch.allclose(grad, reference, rtol=1e-3, atol=1e-5 * float(reference.abs().max())), name


def test_held_out_photos_are_not_fitted(monkeypatch):
    seen = set()
    real = run.loss_and_gradients
    monkeypatch.setattr(run, "loss_and_gradients", lambda scene, g, views: (seen.update(views), real(scene, g, views))[1])
    fit(SCENE, start(), "adam", steps=4, views_per_step=3, eval_at=())
    assert seen == set(SCENE.train_idx)


def test_default_curve():
    wanted = [0, 10, 30, 100, 300, 1000, 2000, 4000, 6000, 8000]
    assert [step for step in range(9000) if loop.default_eval_steps(step)] == wanted
    result = fit(SCENE, start(), "adam", steps=12)
    assert [point.step for point in result.curve] == [0, 10, 12]
    assert result.curve[0].seconds == 0
    assert result.curve[1].seconds < result.curve[2].seconds == result.seconds
    assert result.best_psnr == max(point.psnr for point in result.curve)


def test_same_seed_same_bits_and_another_seed_other_bits():
    a, b, c = (fit(SCENE, start(), "nominal", steps=8, views_per_step=3, seed=seed, eval_at=()) for seed in (1, 1, 2))
    assert_same_bits(a.gaussians, b.gaussians)
    assert not torch.equal(a.gaussians.means, c.gaussians.means)


def test_global_random_state_is_neither_used_nor_changed():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(SCENE, start(), "learned", steps=2, eval_at=())
    assert torch.equal(torch.rand(3), expected)


def small_plan(**options):
    """Two sizes, three events of growth and an average at the end, in 14 steps."""
    plan = make_plan([SCENE.size(i) for i in SCENE.train_idx], len(SCENE.points), num_downscales=1, views_per_step=3, **{"steps": 14, **options})
    growth = tuple(replace(plan.growth[0], at=at, target=target) for at, target in ((0.1, 45), (0.3, 55), (0.5, 60)))
    return replace(plan, growth=growth if plan.density != "none" else (), average_from=0.7)


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "plan"])
@pytest.mark.parametrize("name", ["adam", "nominal", "learned"])
@pytest.mark.parametrize("stop", [2, 6, 12])
def test_stopping_and_resuming_gives_the_same_bits(tmp_path, name, flat, stop):
    plan = flat_plan(32, steps=14, seconds=None, views_per_step=3) if flat else small_plan()
    options = {"plan": plan, "eval_at": (0, 4, 10)}
    whole = fit(SCENE, start(), name, **options)
    asked = iter(range(100))
    first = fit(SCENE, start(), name, **options, checkpoint=tmp_path, should_stop=lambda: next(asked) == stop)
    assert first.interrupted and first.steps == stop
    rest = fit(SCENE, start(), name, **options, checkpoint=tmp_path, resume=True)
    assert_same_bits(rest.gaussians, whole.gaussians)
    assert len(whole.gaussians) == (40 if flat else 60)
    assert [(p.step, p.psnr, p.ssim) for p in rest.curve] == [(p.step, p.psnr, p.ssim) for p in whole.curve]
    assert rest.seconds > first.seconds
    assert [(c.step, c.num_gaussians, c.long_side) for c in rest.changes] == [(c.step, c.num_gaussians, c.long_side) for c in whole.changes]
    again = fit(SCENE, start(), name, **options, checkpoint=tmp_path, resume=True)  # of a finished run: nothing is left to do
    assert_same_bits(again.gaussians, whole.gaussians)
    assert again.curve == rest.curve


def test_resume_with_more_steps_goes_on(tmp_path):
    fit(SCENE, start(), "nominal", steps=4, eval_at=(), checkpoint=tmp_path)
    longer = fit(SCENE, start(), "nominal", steps=9, eval_at=(), checkpoint=tmp_path, resume=True)
    assert longer.steps == 9
    assert [point.step for point in longer.curve] == [4, 9]
    assert_same_bits(longer.gaussians, fit(SCENE, start(), "nominal", steps=9, eval_at=()).gaussians)


def test_resume_with_more_time_goes_on_from_the_iterates(tmp_path):
    """Whatever a machine's speed makes of the plan; and what is shown is no longer the average of the shorter run."""
    fast, slow = (replace(small_plan(steps=None, seconds=seconds, step_seconds=0.01), num_downscales=None) for seconds in (0.05, 60.0))
    fast = replace(fast, stages=fast.stages[-1:], average_from=0.0)
    short = fit(SCENE, start(), "adam", plan=fast, eval_at=(), checkpoint=tmp_path)
    asked = iter(range(100))
    longer = fit(SCENE, start(), "adam", plan=slow, eval_at=(), checkpoint=tmp_path, resume=True, should_stop=lambda: next(asked) == 3)
    assert longer.steps == short.steps + 3 and longer.plan.seconds == 60 and len(longer.plan.stages) == 1


def test_an_average_is_dropped_where_a_larger_budget_moves_its_start(tmp_path):
    plan = replace(flat_plan(32, steps=4, seconds=None, views_per_step=8), average_from=0.5)
    fit(SCENE, start(), "adam", plan=plan, eval_at=(), checkpoint=tmp_path)
    asked = iter(range(100))
    longer = replace(plan, steps=40)
    resumed = fit(SCENE, start(), "adam", plan=longer, eval_at=(), checkpoint=tmp_path, resume=True, should_stop=lambda: next(asked) == 1)
    saved = load_checkpoint(tmp_path)[0]
    assert resumed.steps == 5 and torch.equal(resumed.gaussians.means, saved["gaussians.means"])
    assert not any("average" in name for name in saved)


def test_resume_without_a_checkpoint_starts(tmp_path):
    assert fit(SCENE, start(), "adam", steps=2, eval_at=(), checkpoint=tmp_path / "none", resume=True).steps == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"optimizer": "nominal"}, "optimizer is adam there and nominal here"),
        ({"optimizer": make_optimizer("adam", sh0=0.1)}, "the constants of the optimizer are not the same"),
        ({"views_per_step": 4}, "views_per_step is 8 there and 4 here"),
        ({"steps": None, "plan": small_plan(steps=2)}, "density control is none there and error here"),
        ({"gaussians": start()[:20]}, "number of Gaussians is 40 there and 20 here"),
        ({"scene": tiny_scene(seed=3)}, "the photos or cameras are not the same"),
    ],
)
def test_resume_of_another_run_is_refused(tmp_path, change, message):
    options = {"scene": SCENE, "gaussians": start(), "optimizer": "adam", "steps": 2, "eval_at": (), "checkpoint": tmp_path}
    fit(**options)
    before = (tmp_path / "state.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=message):
        fit(**{**options, **change}, resume=True)
    assert (tmp_path / "state.safetensors").read_bytes() == before


def test_checkpoints_are_saved_on_the_way(tmp_path):
    steps_on_disk = set()

    def look(progress):
        if (tmp_path / "state.safetensors").exists():
            steps_on_disk.add(load_checkpoint(tmp_path)[1]["step"])

    fit(SCENE, start(), "adam", steps=4, eval_at=(), checkpoint=tmp_path, save_every=1e-9, on_step=look)
    assert {0, 1, 2, 3} <= steps_on_disk


class Broken(UpdateRule):
    """An update rule that is `adam` until step `at`, and then makes a NaN."""

    def __init__(self, at: int) -> None:
        self.rule, self.at, self.name = make_optimizer("adam"), at, "broken"

    def init(self, gaussians, task, generator):
        return self.rule.init(gaussians, task, generator)

    def step(self, gaussians, grads, state: OptState):
        new, new_state = self.rule.step(gaussians, grads, state)
        if state.step >= self.at:
            new = replace(new, means=new.means.clone().index_fill_(0, torch.tensor([3]), float("nan")))
        return new, new_state


def test_a_run_that_diverges_ends_with_its_last_finite_state(tmp_path):
    result = fit(SCENE, start(), Broken(at=5), steps=20, eval_at=(0,), checkpoint=tmp_path)
    assert result.diverged and result.steps == 5 and result.gaussians.is_finite()
    asked = iter(range(100))
    sound = fit(SCENE, start(), "adam", steps=20, eval_at=(), should_stop=lambda: next(asked) == 5)
    assert_same_bits(result.gaussians, sound.gaussians)
    assert [point.step for point in result.curve] == [0, 5]
    resumed = fit(SCENE, start(), Broken(at=5), steps=20, eval_at=(0,), checkpoint=tmp_path, resume=True)
    assert resumed.diverged and resumed.steps == 5


def test_a_loss_that_is_not_finite_takes_back_the_step_before(monkeypatch):
    real, calls = run.loss_and_gradients, iter(range(100))
    monkeypatch.setattr(run, "loss_and_gradients", lambda *a: (float("inf"), None) if next(calls) == 4 else real(*a))
    result = fit(SCENE, start(), "adam", steps=20, eval_at=(0, 4))
    assert result.diverged and result.steps == 3
    assert [point.step for point in result.curve] == [0, 3]


@pytest.mark.parametrize("name", ["nominal", "learned"])
def test_a_splat_does_not_get_worse_on_the_way(name):
    """Left alone, the first steps of an Adam-like rule cost a fitted splat more than a dB, because they are as long as steps ever are."""
    splat = fit(SCENE, start(), "learned", steps=60).gaussians
    plan = flat_plan(32, steps=40, seconds=None, views_per_step=3)
    curves = []
    for one in (replace(plan, warm=True), plan):
        result = fit(SCENE, splat, name, plan=one, seed=0, eval_at=range(41))
        curves.append([point.psnr for point in result.curve])
    warm, cold = (curve[0] - min(curve) for curve in curves)
    assert cold > 1 and warm < 0.4 * cold


def test_a_splat_that_is_watched_does_not_grow():
    plan = replace(small_plan(steps=24), warm=True)
    result = fit(SCENE, start(), "nominal", plan=plan, seed=0)
    assert [change.num_gaussians for change in result.changes if change.step < 17] == [40] * sum(change.step < 17 for change in result.changes)
    assert len(result.gaussians) == 60


def test_the_average_is_that_of_the_iterates_since_its_start():
    flat = flat_plan(32, steps=6, seconds=None, views_per_step=8)
    steps = {}
    fit(SCENE, start(), "adam", plan=flat, eval_at=(), on_step=lambda progress: steps.setdefault(progress.step, progress.gaussians))
    averaged = fit(SCENE, start(), "adam", plan=replace(flat, average_from=0.5), eval_at=())
    expected = (steps[4].means + steps[5].means + steps[6].means) / 3  # the steps that were made at a progress of 0.5 and more
    assert torch.allclose(averaged.gaussians.means, expected, atol=1e-6)


def test_seconds_count_optimization_only(monkeypatch):
    real = run.score
    monkeypatch.setattr(run, "score", lambda *a: (time.sleep(0.5), real(*a))[1])
    began = time.perf_counter()
    result = fit(SCENE, start(), "adam", steps=4, eval_at=(0, 1, 2), on_step=lambda progress: time.sleep(0.05))
    assert time.perf_counter() - began > 2.2
    assert result.seconds < time.perf_counter() - began - 2.2


def test_a_result_tells_when_sizes_and_counts_changed_and_where_the_time_went():
    result = fit(SCENE, start(), "adam", plan=small_plan(), eval_at=(7,))
    plan = result.plan
    assert plan == small_plan()
    at = {plan.stage(step / 14): step for step in range(13, -1, -1)}  # of each size, the first step
    sides = [stage.long_side for stage in plan.stages]
    assert [(min(c.step for c in result.changes if c.long_side == side), side) for side in sides] == [(at[k], side) for k, side in enumerate(sides)]
    assert result.changes[0].num_gaussians == 40 and result.changes[-1].num_gaussians == len(result.gaussians) == 60
    assert all(a.step < b.step and a.seconds < b.seconds for a, b in zip(result.changes, result.changes[1:]))
    before = [c for c in result.changes if c.step < 7][-1]
    assert (result.curve[0].num_gaussians, result.curve[0].long_side) == (before.num_gaussians, sides[plan.stage(0.5)])
    assert 0 < result.update_seconds and 0 < result.growth_seconds and result.update_seconds + result.growth_seconds < result.seconds


def test_a_result_tells_why_the_run_ended(monkeypatch):
    options = {"eval_at": ()}
    assert fit(SCENE, start(), "adam", steps=2, max_seconds=100, **options).ended == "steps"
    assert fit(SCENE, start(), "adam", steps=10**6, max_seconds=0.05, **options).ended == "seconds"
    assert fit(SCENE, start(), "adam", steps=2, should_stop=lambda: True, **options).ended == "interrupted"
    assert fit(SCENE, start(), Broken(at=1), steps=3, **options).ended == "diverged"
    monkeypatch.setattr(run, "has_settled", lambda *a: True)
    plan = replace(make_plan([(32, 24)], 40, density="none"), tail_steps=3)
    assert fit(SCENE, start(), "adam", plan=plan, **options).ended == "settled"


def test_max_seconds_ends_the_run():
    result = fit(SCENE, start(), "adam", max_seconds=0.2, eval_at=())
    assert 0.2 <= result.seconds < 2 and result.steps >= 1


def test_progress_is_reported():
    reports = []
    fit(SCENE, start(), "adam", steps=3, eval_at=(0,), on_step=reports.append)
    assert [(p.step, len(p.curve)) for p in reports] == [(0, 1), (1, 1), (2, 1), (3, 1), (3, 2)]
    assert all(0 < p.loss < 2 for p in reports[1:])
    json.dumps([p.seconds for p in reports])


def test_bad_requests_have_a_sentence():
    cases = [
        ({"steps": -1}, OptionError, "steps must be 0 or more, got -1"),
        ({"max_seconds": 0}, OptionError, "max_seconds must be positive, got 0"),
        ({"views_per_step": 0}, OptionError, "views_per_step must be at least 1, got 0"),
        ({"optimizer": "adamm"}, OptionError, "unknown optimizer 'adamm'"),
        ({"gaussians": start()[:0]}, SceneError, "no Gaussians to optimize"),
        ({"gaussians": start().map(lambda t: t * float("nan"))}, OptionError, "NaN"),
        ({"scene": replace(SCENE, test_idx=())}, SceneError, "0 held-out photos"),
        ({"scene": replace(SCENE, train_idx=())}, SceneError, "0 train"),
    ]
    for change, error, message in cases:
        with pytest.raises(error, match=message):
            fit(**{"scene": SCENE, "gaussians": start(), "optimizer": "adam", "steps": 1, **change})


def test_one_train_view_is_enough():
    """Its cameras have no extent: scene_scale is 0."""
    scene = replace(SCENE, train_idx=(1,), test_idx=(0,))
    result = fit(scene, start(), "adam", steps=3, eval_at=())
    assert result.steps == 3 and result.gaussians.is_finite()


def as_list(tensors, info):
    return [1]


CHANGES = {
    "a list": as_list,
    "run is text": lambda tensors, info: info.update(run="x"),
    "step is text": lambda tensors, info: info.update(step="x"),
    "seconds are text": lambda tensors, info: info.update(seconds="x"),
    "a negative step": lambda tensors, info: info.update(step=-3),
    "a curve of something else": lambda tensors, info: info.update(curve=[1]),
    "no plan": lambda tensors, info: info.update(plan=None),
    "Gaussians that are not finite": lambda tensors, info: tensors.update({"gaussians.means": tensors["gaussians.means"] * float("nan")}),
    "fewer Gaussians than states": lambda tensors, info: tensors.update({k: v[:5].clone() for k, v in tensors.items() if k.startswith("gaussians.")}),
    "no Gaussians": lambda tensors, info: [tensors.pop(name) for name in list(tensors) if name.startswith("gaussians.")] and None,
    "no generator": lambda tensors, info: tensors.pop("density_generator") is None or None,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_sound_file_of_something_else_is_one_sentence(tmp_path, name):
    """Its checksum fits: another version or another program wrote it."""
    fit(SCENE, start(), "nominal", steps=2, eval_at=(0,), checkpoint=tmp_path)
    tensors, info = load_checkpoint(tmp_path)
    info = CHANGES[name](tensors, info) or info
    text = json.dumps(info)
    metadata = {"json": text, "crc32": checkpoint._checksum(text, tensors)}
    save_file(tensors, tmp_path / checkpoint.FILE_NAME, metadata)
    with pytest.raises(CheckpointError):
        fit(SCENE, start(), "nominal", steps=4, eval_at=(0,), checkpoint=tmp_path, resume=True)

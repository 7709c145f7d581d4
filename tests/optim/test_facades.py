"""`gsplat_optimizers` and `Learned`: the steps of `fit` to the bit, what trainers do to optimizers, and gsplat's own operations on them."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from gsplat.strategy import ops
from gsplat_trainer import NAMES, gaussians_of, splats_of
from random_gaussians import random_gaussians, random_gradients, same_bits
from tiny_scenes import tiny_scene

from learn2splat import Learned, fit, gsplat_optimizers
from learn2splat.errors import OptionError, ShapeError
from learn2splat.fitting.views import ViewSampler
from learn2splat.gaussians import COLUMNS, FIELDS, Gaussians, init_from_points
from learn2splat.losses import photometric_loss
from learn2splat.optimizers import Task, make_optimizer
from learn2splat.render import render_views

RULES = ["learned", "nominal", "adam", "paper"]
N = 60


def reference(rule, gaussians, steps, task=None, first=0):
    """`steps` steps of the rule itself with `random_gradients`."""
    task = task or Task(1.0, 1, None)
    state = rule.init(gaussians, task, torch.Generator().manual_seed(0))
    for i in range(steps):
        gaussians, state = rule.step(gaussians, random_gradients(len(gaussians), first + i), state)
    return gaussians, state


def give(splats, seed):
    for name, ours in NAMES.items():
        if name in splats and splats[name].requires_grad:
            splats[name].grad = getattr(random_gradients(len(splats["means"]), seed), ours).reshape(splats[name].shape).clone()


def steps_of(splats, optimizers, steps, first=0):
    for i in range(steps):
        give(splats, first + i)
        for optimizer in optimizers.values():  # as gsplat's trainer does it: cleared while the others still wait
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("name", RULES)
def test_the_steps_are_those_of_the_rule_to_the_bit(name):
    g = random_gaussians(N)
    expected, _ = reference(make_optimizer(name), g, 25)
    splats = splats_of(g)
    steps_of(splats, gsplat_optimizers(splats, rule=name), 25)
    assert same_bits(gaussians_of(splats), expected)
    leaves = g.clone().requires_grad_()
    optimizer = Learned(leaves, rule=name)
    for i in range(25):
        for field, grad in random_gradients(N, i).tensors().items():
            getattr(leaves, field).grad = grad
        optimizer.step()
        optimizer.zero_grad()
    assert same_bits(leaves.detach(), expected)


def test_the_steps_are_those_of_fit_to_the_bit():
    """The same views, loss and start: `Learned` in a loop of one's own ends where `fit` ends."""
    scene = tiny_scene(6)
    start = init_from_points(scene.points, scene.colors)
    fitted = fit(scene, start, "learned", steps=12, views_per_step=3, eval_at=[]).gaussians
    train = list(scene.train_idx)
    sampler = ViewSampler(scene.camtoworlds[train, :3, 3], 3, torch.Generator().manual_seed(0))
    leaves = start.clone().requires_grad_()
    optimizer = Learned(leaves, scene_scale=scene.scene_scale, num_views=len(train), view_angle=scene.view_angle(train), views_per_step=3)
    width, height = scene.size(0)
    for _ in range(12):
        views = [train[i] for i in sampler.next()]
        optimizer.zero_grad()
        renders = render_views(leaves, scene.viewmats[views], scene.Ks[views], width, height, background=scene.background)
        photometric_loss(renders, torch.stack([scene.image(i) for i in views])).backward()
        optimizer.step()
    assert same_bits(leaves.detach(), fitted)


@pytest.mark.parametrize("name", RULES)
def test_save_and_load_goes_on_to_the_same_bits(name, tmp_path):
    g = random_gaussians(N)
    splats = splats_of(g)
    optimizers = gsplat_optimizers(splats, rule=name)
    steps_of(splats, optimizers, 7)
    torch.save({key: optimizer.state_dict() for key, optimizer in optimizers.items()}, tmp_path / "a.pt")
    other = splats_of(gaussians_of(splats))
    resumed = gsplat_optimizers(other, rule=name)
    for key, state in torch.load(tmp_path / "a.pt", weights_only=True).items():
        resumed[key].load_state_dict(state)
    steps_of(splats, optimizers, 20, first=7)
    steps_of(other, resumed, 20, first=7)
    assert same_bits(gaussians_of(other), gaussians_of(splats))


def after_operation(name, operation):
    """(Gaussians and state of a rule, splats and optimizers) after 7 steps and `operation(splats, optimizers)`."""
    g = random_gaussians(N)
    rule = make_optimizer(name)
    expected, state = reference(rule, g, 7)
    splats = splats_of(g)
    optimizers = gsplat_optimizers(splats, rule=name)
    steps_of(splats, optimizers, 7)
    assert same_bits(gaussians_of(splats), expected)
    operation(splats, optimizers)
    return rule, expected, state, splats, optimizers


def go_on(rule, gaussians, state, splats, optimizers):
    for i in range(25):
        gaussians, state = rule.step(gaussians, random_gradients(len(gaussians), 7 + i), state)
    steps_of(splats, optimizers, 25, first=7)
    assert same_bits(gaussians_of(splats), gaussians)


@pytest.mark.parametrize("name", ["learned", "nominal", "adam"])
def test_gsplats_remove_selects_rows_of_the_state(name):
    mask = torch.rand(N, generator=torch.Generator().manual_seed(1)) < 0.4
    rule, g, state, splats, optimizers = after_operation(name, lambda s, o: ops.remove(s, o, {}, mask))
    go_on(rule, g[~mask], state.select(~mask), splats, optimizers)


@pytest.mark.parametrize("name", ["learned", "nominal", "adam"])
def test_gsplats_duplicate_makes_brand_new_rows(name):
    mask = torch.rand(N, generator=torch.Generator().manual_seed(1)) < 0.4
    rule, g, state, splats, optimizers = after_operation(name, lambda s, o: ops.duplicate(s, o, {}, mask))
    new = torch.nonzero(mask).squeeze(1)
    grown = rule.grow(state, torch.full_like(new, -1), torch.Generator())
    go_on(rule, Gaussians.cat([g, g[new]]), grown, splats, optimizers)


@pytest.mark.parametrize("name", ["learned", "nominal", "adam"])
def test_gsplats_split_removes_and_appends(name):
    mask = torch.rand(N, generator=torch.Generator().manual_seed(1)) < 0.4
    rule, _, state, splats, optimizers = after_operation(name, lambda s, o: ops.split(s, o, {}, mask))
    kept = state.select(~mask)
    grown = rule.grow(kept, torch.full((2 * int(mask.sum()),), -1), torch.Generator())
    go_on(rule, gaussians_of(splats).clone(), grown, splats, optimizers)  # where the halves lie is gsplat's affair


def test_gsplats_reset_of_opacities_clears_their_moments():
    def reset(splats, optimizers):
        ops.reset_opa(splats, optimizers, {}, value=0.01)

    rule, _, state, splats, optimizers = after_operation("learned", reset)
    go_on(rule, gaussians_of(splats).clone(), rule.reset_moments(state, COLUMNS["logit_opacities"]), splats, optimizers)


def test_rows_set_to_zero_are_brand_new():
    """What `relocate` does to the state of those that others move to."""
    sources = torch.tensor([3, 3, 50, 0])

    def zero(splats, optimizers):
        def rows(key, value):
            value[sources] = 0
            return value

        ops._update_param_with_optimizer(lambda name, p: torch.nn.Parameter(p), rows, splats, optimizers)

    rule, g, state, splats, optimizers = after_operation("learned", zero)
    fresh = rule.init(g, Task(1.0, 1, None), torch.Generator().manual_seed(0))
    tensors = {}
    for key, value in state.tensors.items():
        tensors[key] = value.clone()
        tensors[key][sources] = fresh.tensors[key][sources]
    go_on(rule, g, replace(state, tensors=tensors), splats, optimizers)


def test_a_scheduler_scales_the_steps():
    g = random_gaussians(N)
    splats, full = splats_of(g), splats_of(g)
    optimizers, at_full = gsplat_optimizers(splats, scene_scale=2.0), gsplat_optimizers(full, scene_scale=2.0)
    assert optimizers["means"].param_groups[0]["lr"] == pytest.approx(3.2e-4)  # what MCMCStrategy is given
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizers["means"], gamma=0.5)
    for optimizer in optimizers.values():
        optimizer.step()  # without gradients nothing happens
    scheduler.step()
    optimizers["quats"].param_groups[0]["lr"] = 0.0
    steps_of(splats, optimizers, 1)
    steps_of(full, at_full, 1)
    moved, whole = (gaussians_of(s).zip_map(torch.sub, g) for s in (splats, full))
    torch.testing.assert_close(moved.means, whole.means / 2, rtol=1e-4, atol=1e-7)
    assert (moved.quats == 0).all() and torch.equal(moved.sh0, whole.sh0)


def test_frozen_missing_and_other_tensors():
    g = random_gaussians(N)
    splats = splats_of(g)
    splats["means"].requires_grad_(False)
    del splats["shN"]
    splats["features"] = torch.nn.Parameter(torch.zeros(N, 8))
    optimizers = gsplat_optimizers(splats)
    assert set(optimizers) == {"scales", "quats", "opacities", "sh0", "features"}
    assert type(optimizers["features"]) is torch.optim.Adam
    steps_of(splats, optimizers, 3)
    assert torch.equal(splats["means"], g.means) and not torch.equal(splats["scales"], g.log_scales)
    ops.remove(splats, optimizers, {}, torch.arange(N) < 20)  # gsplat replaces the frozen tensor, too
    steps_of(splats, optimizers, 3)
    assert len(splats["means"]) == N - 20 and splats["sh0"].isfinite().all()
    with pytest.raises(OptionError, match="means among them"):
        gsplat_optimizers({"scales": splats["scales"]})
    with pytest.raises(OptionError, match="both sh0"):
        gsplat_optimizers({**splats, "colors": splats["sh0"]})
    with pytest.raises(OptionError, match="nothing to optimize"):
        Learned({"means": splats["means"]})


def test_one_that_is_never_stepped_stays_and_is_waited_for_once():
    g = random_gaussians(N)
    splats = splats_of(g)
    optimizers = gsplat_optimizers(splats)
    quats = optimizers.pop("quats")
    steps_of(splats, optimizers, 1)
    assert torch.equal(splats["means"], g.means)  # the others wait for it
    steps_of(splats, optimizers, 1, first=1)
    joint = quats._round.joint
    assert int(joint.slots["means"].state["step"]) == 2 and torch.equal(splats["quats"], g.quats)
    optimizers["quats"] = quats  # thawed: it takes part again, from the step after the next
    steps_of(splats, optimizers, 2, first=2)
    assert int(joint.slots["means"].state["step"]) == 4 and not torch.equal(splats["quats"], g.quats)


@pytest.mark.parametrize("shape", ["nerfstudio", "rgb", "inria", "low degree"])
def test_names_and_shapes_of_others(shape):
    g = random_gaussians(N)
    k = 3 if shape == "low degree" else 0 if shape == "rgb" else 15
    g.shN[:, k:] = 0
    theirs = {
        "nerfstudio": {"means": g.means, "scales": g.log_scales, "quats": g.quats, "features_dc": g.sh0[:, 0], "features_rest": g.shN,
                       "opacities": g.logit_opacities[:, None]},
        "rgb": {"means": g.means, "scales": g.log_scales, "quats": g.quats, "opacities": g.logit_opacities, "colors": g.sh0[:, 0]},
        "inria": {"xyz": g.means, "f_dc": g.sh0, "f_rest": g.shN, "opacity": g.logit_opacities[:, None], "scaling": g.log_scales,
                  "rotation": g.quats},
        "low degree": {"means": g.means, "scales": g.log_scales, "quats": g.quats, "opacities": g.logit_opacities, "sh0": g.sh0,
                       "shN": g.shN[:, :3]},
    }[shape]  # fmt: skip
    fields = dict(zip(theirs, {"inria": ["means", "sh0", "shN", "logit_opacities", "log_scales", "quats"]}.get(shape, [])))
    fields = fields or {"means": "means", "scales": "log_scales", "quats": "quats", "features_dc": "sh0", "features_rest": "shN", "opacities":
                        "logit_opacities", "colors": "sh0", "sh0": "sh0", "shN": "shN"}  # fmt: skip
    leaves = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in theirs.items()}
    as_groups = [{"params": [leaf], "name": name} for name, leaf in leaves.items()]
    optimizer = Learned(as_groups if shape == "inria" else leaves)
    rule = make_optimizer("learned")
    state = rule.init(g, Task(1.0, 1, None), torch.Generator())
    for i in range(3):
        grads = random_gradients(N, i)
        grads.shN[:, k:] = 0
        for name, leaf in leaves.items():
            grad = getattr(grads, fields[name])
            leaf.grad = (grad[:, :3] if shape == "low degree" and name == "shN" else grad).reshape(leaf.shape).clone()
        optimizer.step()
        g, state = rule.step(g, grads, state)
        g.shN[:, k:] = 0
    for name, leaf in leaves.items():
        expected = getattr(g, fields[name])
        assert torch.equal(leaf, (expected[:, :3] if shape == "low degree" and name == "shN" else expected).reshape(leaf.shape)), name


def test_invisible_rows_and_sparse_gradients():
    g = random_gaussians(N)
    rows = torch.arange(0, N, 3)
    visible = torch.zeros(N, dtype=torch.bool).index_fill_(0, rows, True)
    results = []
    for way in ("visibility", "sparse", "zeros"):
        splats = splats_of(g)
        optimizers = gsplat_optimizers(splats)
        give(splats, 0)
        for name, param in splats.items():
            if way != "visibility":
                param.grad[~visible] = 0
            if way == "sparse" and param.ndim == 2:
                param.grad = param.grad.to_sparse(1)
            optimizers[name].step(visible) if way == "visibility" else optimizers[name].step()
        results.append(gaussians_of(splats))
    assert same_bits(results[0], results[2]) and same_bits(results[1], results[2])
    assert torch.equal(results[0].means[~visible], g.means[~visible]) and not torch.equal(results[0].means[rows], g.means[rows])
    with pytest.raises(ShapeError, match="visibility"):
        give(splats, 0)
        for optimizer in optimizers.values():
            optimizer.step(visible[:3])


def test_gradients_are_taken_when_they_are_handed_in():
    """zero_grad(set_to_none=False) between the steps of two siblings, and a closure as torch's optimizers take it."""
    g = random_gaussians(N)
    results = []
    for clear in (True, False):
        splats = splats_of(g)
        optimizers = gsplat_optimizers(splats)
        give(splats, 0)
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=clear)
        results.append(gaussians_of(splats))
        assert clear or all((p.grad == 0).all() for p in splats.values())
    assert same_bits(*results) and not same_bits(results[0], g)
    leaves = g.clone().requires_grad_()

    def closure():
        loss = leaves.means.square().sum()
        loss.backward()
        return loss

    assert float(Learned(leaves).step(closure).detach()) == pytest.approx(float(g.means.square().sum()))
    assert not torch.equal(leaves.means, g.means) and torch.equal(leaves.sh0, g.sh0)


def test_the_scale_of_the_loss_and_the_unit_of_length_do_not_matter():
    g = random_gaussians(N)
    results = []
    for loss, unit in ((1.0, 1.0), (64.0, 1.0), (1.0, 50.0)):
        inside = g.clone()
        inside.means *= unit
        inside.log_scales += torch.log(torch.tensor(unit))
        leaves = inside.requires_grad_()
        optimizer = Learned(leaves, scene_scale=unit, unit=unit)
        for i in range(10):
            for field in FIELDS:
                getattr(leaves, field).grad = getattr(random_gradients(N, i), field) * loss / (unit if field == "means" else 1)
            optimizer.step()
        out = leaves.detach()
        out.means /= unit
        out.log_scales -= torch.log(torch.tensor(unit))
        results.append(out)
    for other in results[1:]:
        for a, b in zip(results[0].tensors().values(), other.tensors().values()):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert (results[0].means - g.means).abs().max() > 0.02


def test_what_cannot_be():
    g = random_gaussians(N)
    splats = splats_of(g)
    with pytest.raises(OptionError, match="fit"):
        gsplat_optimizers(splats, rule="lm")
    with pytest.raises(OptionError, match="unit"):
        gsplat_optimizers(splats, unit=0.0)
    with pytest.raises(OptionError, match="named tensors"):
        Learned([torch.zeros(3, 3, requires_grad=True)])
    with pytest.raises(OptionError, match="got means, colour"):
        Learned({"means": splats["means"], "colour": splats["sh0"]})
    optimizers = gsplat_optimizers(splats)
    steps_of(splats, optimizers, 1)
    for name, optimizer in optimizers.items():  # a density control that leaves the state as it is
        splats[name] = torch.nn.Parameter(splats[name][:10].detach())
        state = optimizer.state.pop(optimizer.param_groups[0]["params"][0])
        optimizer.param_groups[0]["params"] = [splats[name]]
        optimizer.state[splats[name]] = state
    with pytest.raises(ShapeError, match="must have a row for each of 10 Gaussians"):
        steps_of(splats, optimizers, 1)
    broken = gsplat_optimizers({"means": torch.nn.Parameter(torch.zeros(4, 2))})
    broken["means"].param_groups[0]["params"][0].grad = torch.ones(4, 2)
    with pytest.raises(ShapeError, match="means must have 3 values"):
        broken["means"].step()


def test_a_copied_trainer_goes_its_own_way():
    """Checkpointing trainers deep-copy the dictionaries of states."""
    splats = splats_of(random_gaussians(N))
    optimizers = gsplat_optimizers(splats)
    steps_of(splats, optimizers, 2)
    saved = copy.deepcopy({name: optimizer.state_dict() for name, optimizer in optimizers.items()})
    before = saved["means"]["state"][0]["latent"].clone()
    steps_of(splats, optimizers, 2, first=2)
    assert torch.equal(saved["means"]["state"][0]["latent"], before)

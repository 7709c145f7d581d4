"""What every update rule promises, tested on all of them alike."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from random_gaussians import random_gaussians, random_gradients, same_bits
from safetensors.torch import load, save

from learn2splat.errors import CheckpointError, OptionError, ShapeError
from learn2splat.gaussians import COLUMNS, FIELDS, Gaussians
from learn2splat.optimizers import OPTIMIZERS, OptState, Problem, Task, UpdateRule, make_optimizer
from learn2splat.optimizers._moments import clean_gradients

RULES = sorted(OPTIMIZERS)
LEAVES_UNSEEN_ALONE = ["anchored", "learned", "nominal", "paper"]  # adam* move them by their momentum; sgd and lm have none
TASK = Task(scene_scale=1.3, views_per_step=4, steps=60)


def rule_named(name: str) -> UpdateRule:
    # The published networks at a tenth of its width: the contract does not depend on it.
    return make_optimizer(name, width=24, blocks=1, head_dim=8) if name in ("g3r", "paper", "resplat") else make_optimizer(name)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loss_of(gaussians: Gaussians, target: Gaussians) -> torch.Tensor:
    """A quadratic bowl around `target`: mean over Gaussians, as a photometric loss is a mean over pixels."""
    return (gaussians.flatten() - target.flatten()).square().sum() / len(gaussians)


def gradients(gaussians: Gaussians, target: Gaussians) -> Gaussians:
    leaves = gaussians.detach().requires_grad_()
    return Gaussians(*torch.autograd.grad(loss_of(leaves, target), list(leaves.tensors().values())))


def start_and_target(n: int = 50) -> tuple[Gaussians, Gaussians]:
    start = random_gaussians(n)
    target = start.zip_map(lambda a, b: a + 0.3 * b, random_gradients(n, 7, scale=1.0))
    return start, target


class IdentityProblem(Problem):
    """Residuals that move one to one with the numbers of the Gaussians that are seen, and whose gradient is `grads`: for rules of second order."""

    def __init__(self, gaussians: Gaussians, grads: Gaussians) -> None:
        clean, seen = clean_gradients(grads)
        self.at, self.rows, self.residuals = gaussians.flatten(), seen.unsqueeze(1), clean.view(-1)

    def jvp(self, direction: torch.Tensor) -> torch.Tensor:
        return (direction * self.rows).view(-1)

    def vjp(self, cotangent: torch.Tensor) -> torch.Tensor:
        return cotangent.view_as(self.at) * self.rows

    def cost(self, gaussians: Gaussians) -> float:
        return 0.5 * float((self.residuals + self.jvp(gaussians.flatten() - self.at)).double().square().sum())


def one_step(rule: UpdateRule, gaussians: Gaussians, grads: Gaussians, state: OptState) -> tuple[Gaussians, OptState]:
    problem = (IdentityProblem(gaussians, grads),) if rule.needs_problem else ()
    return rule.step(gaussians, grads, state, *problem)


def run(rule: UpdateRule, gaussians: Gaussians, state: OptState, target: Gaussians, steps: int) -> tuple[Gaussians, OptState]:
    for _ in range(steps):
        gaussians, state = one_step(rule, gaussians, gradients(gaussians, target), state)
    return gaussians, state


def same_state(a: OptState, b: OptState) -> bool:
    same = a.tensors.keys() == b.tensors.keys() and a.step == b.step and a.task == b.task and a.index_tensors == b.index_tensors
    return same and all(torch.equal(a.tensors[name].nan_to_num(-9), b.tensors[name].nan_to_num(-9)) for name in a.tensors)


def with_rows(grads: Gaussians, rows: list[int], value: float, names: tuple[str, ...] = FIELDS) -> Gaussians:
    """A copy of `grads` with the given Gaussians' entries in the given fields set to `value`."""
    changed = grads.clone()
    for name in names:
        getattr(changed, name)[rows] = value
    return changed


@pytest.mark.parametrize("name", RULES)
def test_keeps_shapes_and_types_and_leaves_its_inputs_alone(name):
    rule, (start, target) = rule_named(name), start_and_target()
    state = rule.init(start, TASK, generator())
    assert rule.name in OPTIMIZERS and state.step == 0 and state.task == TASK
    for _ in range(2):  # the first step and an ordinary one
        grads = gradients(start, target)
        copies = start.clone(), grads.clone(), replace(state, tensors={key: value.clone() for key, value in state.tensors.items()})
        new, new_state = one_step(rule, start, grads, state)
        assert same_bits(start, copies[0]) and same_bits(grads, copies[1]) and same_state(state, copies[2])
        assert new_state.step == state.step + 1 and new_state.tensors.keys() == state.tensors.keys()
        for field in FIELDS:
            before, after = getattr(start, field), getattr(new, field)
            assert after.shape == before.shape and after.dtype == before.dtype and after.is_contiguous() and not after.requires_grad
            assert after.data_ptr() != before.data_ptr()
        for key, tensor in new_state.tensors.items():
            assert tensor.shape == state.tensors[key].shape and tensor.dtype == state.tensors[key].dtype and len(tensor) == 50
            assert tensor.data_ptr() != state.tensors[key].data_ptr()
        start, state = new, new_state


@pytest.mark.parametrize("name", [name for name in RULES if name not in ("g3r", "paper", "resplat")])  # untrained, these move nothing
def test_decreases_a_loss(name):
    rule, (start, target) = rule_named(name), start_and_target()
    new, _ = run(rule, start, rule.init(start, TASK, generator()), target, 30)
    for field in FIELDS:  # every group by itself goes the right way
        before = (getattr(start, field) - getattr(target, field)).square().sum()
        after = (getattr(new, field) - getattr(target, field)).square().sum()
        assert after < before, field


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("at", [7, 20])  # between two refreshes of the neighbours, and at one
def test_save_and_resume_equal_running_on(name, at):
    rule, (start, target) = rule_named(name), start_and_target(20)
    middle, state = run(rule, start, rule.init(start, TASK, generator()), target, at)
    through, through_state = run(rule, middle, state, target, 24 - at)
    tensors, info = state.state_dict()
    saved, text = save({**middle.tensors(), **{f"state.{key}": value for key, value in tensors.items()}}), json.dumps(info)

    loaded = load(saved)
    gaussians = Gaussians(**{field: loaded[field] for field in FIELDS})
    restored = OptState.from_state_dict({key[6:]: value for key, value in loaded.items() if key.startswith("state.")}, json.loads(text))
    assert same_state(restored, state)
    resumed, resumed_state = run(rule_named(name), gaussians, restored, target, 24 - at)
    assert same_bits(resumed, through) and same_state(resumed_state, through_state)


@pytest.mark.parametrize("name", RULES)
def test_same_seed_same_bits_and_no_global_randomness(name):
    start, target = start_and_target(20)
    torch.manual_seed(1)
    a, a_state = run(rule_named(name), start, rule_named(name).init(start, TASK, generator(3)), target, 3)
    before = torch.get_rng_state()
    torch.manual_seed(2)
    b, b_state = run(rule_named(name), start, rule_named(name).init(start, TASK, generator(3)), target, 3)
    assert same_bits(a, b) and same_state(a_state, b_state)
    torch.manual_seed(1)
    run(rule_named(name), start, rule_named(name).init(start, TASK, generator(3)), target, 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", RULES)
def test_the_order_of_gaussians_does_not_matter(name):
    rule, (start, target) = rule_named(name), start_and_target()
    order = torch.randperm(50, generator=generator(1))
    state = rule.init(start, TASK, generator())
    a, a_state = run(rule, start, state, target, 3)
    # Mid-run too: state.select renumbers neighbour lists between two refreshes.
    b, b_state = run(rule, start[order], state.select(order), target[order], 1)
    again = torch.randperm(50, generator=generator(2))
    b, b_state = run(rule, b[again], b_state.select(again), target[order][again], 2)
    # Not to the last bit for the networks: matrix products may sum in another order in another row, and there are Gaussians here whose neighbours'
    # directions cancel but for rounding, of which the network reads the cosine: one unit in the last place of a mean moves a logit by 2.5e-6.
    for field in FIELDS:
        torch.testing.assert_close(getattr(b, field), getattr(a[order][again], field), rtol=1e-5, atol=2e-5)
    for key, tensor in a_state.select(order).select(again).tensors.items():
        torch.testing.assert_close(b_state.tensors[key], tensor, rtol=1e-4, atol=5e-6)


@pytest.mark.parametrize("name", RULES)
def test_zero_gradients_stay_finite(name):
    rule, (start, target) = rule_named(name), start_and_target(20)
    nothing = start.map(torch.zeros_like)
    gaussians, state = start, rule.init(start, TASK, generator())
    for _ in range(3):
        gaussians, state = one_step(rule, gaussians, nothing, state)
    assert same_bits(gaussians, start)
    gaussians, state = run(rule, gaussians, state, target, 3)
    for _ in range(3):
        gaussians, state = one_step(rule, gaussians, nothing, state)
    assert gaussians.is_finite() and all(torch.isfinite(tensor).all() for tensor in state.tensors.values())


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e10])
@pytest.mark.parametrize("name", RULES)
def test_extreme_gradients_stay_finite(name, scale):
    rule, (start, _) = rule_named(name), start_and_target(20)
    gaussians, state = start, rule.init(start, TASK, generator())
    for seed in range(5):
        gaussians, state = one_step(rule, gaussians, random_gradients(20, seed, scale=scale), state)
        assert gaussians.is_finite() and all(torch.isfinite(tensor).all() for tensor in state.tensors.values())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("name", RULES)
def test_broken_gradients_count_as_unseen(name, bad):
    rule, (start, target) = rule_named(name), start_and_target()
    gaussians, state = run(rule, start, rule.init(start, TASK, generator()), target, 2)
    grads = gradients(gaussians, target)
    expected, expected_state = one_step(rule, gaussians, with_rows(grads, [3, 17], 0.0), state)
    got, got_state = one_step(rule, gaussians, with_rows(grads, [3, 17], bad, ("quats",)), state)  # one field is enough
    assert same_bits(got, expected) and same_state(got_state, expected_state)
    assert got.is_finite()


@pytest.mark.parametrize("name", LEAVES_UNSEEN_ALONE)
def test_unseen_gaussians_keep_their_bits(name):
    rule, (start, target) = rule_named(name), start_and_target()
    start.log_scales[5] = 2.0  # outside the clamps, and unseen: also left alone
    start.shN[6] = -3.0
    start.quats[6] *= 2
    gaussians, state = run(rule, start, rule.init(start, TASK, generator()), target, 0)
    unseen = [5, 6, 40]
    for _ in range(3):
        gaussians, state = one_step(rule, gaussians, with_rows(gradients(gaussians, target), unseen, 0.0), state)
    assert same_bits(gaussians[unseen], start[unseen])
    assert (state.tensors["count"][unseen] == 0).all() and (state.tensors["m"][unseen] == 0).all()
    before = state
    gaussians, state = one_step(rule, gaussians, with_rows(gradients(gaussians, target), unseen, 0.0), state)
    for key in state.tensors.keys() - {"spacing", "neighbours"}:  # these two depend on where the others are
        assert torch.equal(state.tensors[key][unseen], before.tensors[key][unseen]), key


@pytest.mark.parametrize("name", RULES)
def test_prune_then_step(name):
    rule, (start, target) = rule_named(name), start_and_target()
    gaussians, state = run(rule, start, rule.init(start, TASK, generator()), target, 3)
    keep = torch.ones(50, dtype=torch.bool)
    keep[::3] = False
    pruned = state.select(keep)
    for key, tensor in pruned.tensors.items():
        assert len(tensor) == int(keep.sum()) and tensor.dtype == state.tensors[key].dtype
        if key in state.index_tensors:
            assert tensor.min() >= 0 and tensor.max() < len(tensor)
        else:
            assert torch.equal(tensor, state.tensors[key][keep])
    assert pruned.step == 3
    new, new_state = run(rule, gaussians[keep], pruned, target[keep], 2)
    assert new.is_finite() and len(new) == int(keep.sum()) and new_state.step == 5


@pytest.mark.parametrize("name", RULES)
def test_grow_copies_parents_but_starts_moments_at_zero(name):
    rule, (start, target) = rule_named(name), start_and_target()
    gaussians, state = run(rule, start, rule.init(start, TASK, generator()), target, 3)
    parents = torch.tensor([4, 9, -1, 4, -1])
    grown = rule.grow(state, parents, generator(5))
    children = torch.tensor([50, 51, 53])
    for key, tensor in grown.tensors.items():
        assert len(tensor) == 55 and tensor.dtype == state.tensors[key].dtype and torch.equal(tensor[:50], state.tensors[key])
        if key in rule.zero_when_grown:
            assert (tensor[50:] == 0).all(), key
        elif key in rule.measured:
            assert tensor[50:].isnan().all(), key
        else:
            assert torch.equal(tensor[children], state.tensors[key][[4, 9, 4]]), key
    if "count" in grown.tensors:
        assert (grown.tensors["count"][children] == 3).all() and (grown.tensors["count"][[52, 54]] == 0).all()
    assert same_state(grown, rule.grow(state, parents, generator(5)))
    fresh = torch.tensor([4, 9, 0, 4, 1])
    more, more_target = Gaussians.cat([gaussians, gaussians[fresh]]), Gaussians.cat([target, target[fresh]])
    new, new_state = run(rule, more, grown, more_target, 2)
    assert new.is_finite() and len(new) == 55 and new_state.step == 5
    if state.tensors:
        with pytest.raises(ShapeError, match="below N = 50"):
            rule.grow(state, torch.tensor([50]), generator())
    with pytest.raises(ShapeError, match="int64"):
        rule.grow(state, torch.tensor([0.0]), generator())


@pytest.mark.parametrize("name", RULES)
def test_reset_moments_of_one_parameter(name):
    rule, (start, target) = rule_named(name), start_and_target()
    gaussians, state = run(rule, start, rule.init(start, TASK, generator()), target, 3)
    opacity, before = COLUMNS["logit_opacities"], {key: tensor.clone() for key, tensor in state.tensors.items()}
    reset = rule.reset_moments(state, opacity)
    for key, tensor in reset.tensors.items():
        assert torch.equal(state.tensors[key], before[key])
        if key in rule.zero_when_grown:
            assert (before[key][:, opacity] != 0).any() and (tensor[:, opacity] == 0).all(), key
            rest = torch.arange(tensor.shape[1]) != opacity.start
            assert torch.equal(tensor[:, rest], before[key][:, rest]), key
        else:
            assert torch.equal(tensor.nan_to_num(-9), before[key].nan_to_num(-9)), key
    new, _ = run(rule, gaussians, reset, target, 2)
    assert new.is_finite()


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("name", RULES)
def test_very_few_gaussians(name, n):
    rule, (start, target) = rule_named(name), start_and_target(n)
    new, _ = run(rule, start, rule.init(start, TASK, generator()), target, 3)
    assert new.is_finite() and len(new) == n


@pytest.mark.parametrize("name", ["adam", "adam-auto", "adam-gsplat", "adam-tuned", "lm", "nominal", "sgd"])
def test_float64_stays_float64(name):
    rule, (start, target) = rule_named(name), start_and_target(10)
    single, _ = run(rule, start, rule.init(start, TASK, generator()), target, 10)
    start, target = start.to(torch.float64), target.to(torch.float64)
    double, _ = run(rule, start, rule.init(start, TASK, generator()), target, 10)
    for a, b in zip(single.tensors().values(), double.tensors().values()):
        assert b.dtype == torch.float64
        torch.testing.assert_close(a, b.float(), rtol=1e-4, atol=1e-5)


def test_states_of_two_scenes_concatenate():
    rule = make_optimizer("anchored")
    parts = [random_gaussians(12, seed) for seed in (0, 1)]
    states = [run(rule, part, rule.init(part, TASK, generator()), start_and_target(12)[1], 2)[1] for part in parts]
    both = states[0].cat(states[1])
    assert len(both) == 24 and torch.equal(both.tensors["neighbours"][12:], states[1].tensors["neighbours"] + 12)
    assert same_state(both.select(torch.arange(12)), states[0])
    with pytest.raises(ShapeError, match="same tensors"):
        both.cat(make_optimizer("adam").init(parts[0], TASK, generator()))


def test_removed_neighbours_become_the_gaussian_itself():
    state = OptState({"neighbours": torch.tensor([[0, 1], [1, 3], [2, 3], [3, 0]])}, index_tensors=frozenset({"neighbours"}))
    kept = state.select(torch.tensor([3, 0, 2]))  # old 1 is gone; 3 -> 0, 0 -> 1, 2 -> 2
    assert kept.tensors["neighbours"].tolist() == [[0, 1], [1, 1], [2, 0]]
    twice = state.select(torch.tensor([3, 0, 2, 3, 3]))  # the list of 2 names the first of the copies of 3
    assert twice.tensors["neighbours"].tolist() == [[0, 1], [1, 1], [2, 0], [0, 1], [0, 1]]


def test_only_what_is_declared_is_renumbered():
    """An int64 counter is not a neighbour list (torch's default integer: a trap for rules of one's own)."""
    lists, counts = torch.tensor([[0, 2], [1, 0], [2, 1]]), torch.tensor([7, 8, 9])
    state = OptState({"lists": lists, "counts": counts}, index_tensors=frozenset({"lists"}))
    moved = state.select(torch.tensor([2, 0]))
    assert moved.tensors["counts"].tolist() == [9, 7] and moved.tensors["lists"].tolist() == [[0, 0], [1, 0]]
    both = state.cat(state)
    assert both.tensors["counts"].tolist() == [7, 8, 9] * 2 and torch.equal(both.tensors["lists"][3:], lists + 3)
    grown = make_optimizer("adam").grow(state, torch.tensor([1, -1]), generator())
    assert grown.tensors["counts"].tolist() == [7, 8, 9, 8, 0] and grown.tensors["lists"][3:].tolist() == [[1, 0], [4, 4]]
    assert moved.index_tensors == both.index_tensors == grown.index_tensors == {"lists"}
    with pytest.raises(ShapeError, match="'lists' is said to hold positions"):
        OptState({"counts": counts}, index_tensors=frozenset({"lists"}))
    with pytest.raises(ShapeError, match=r"expected an int64 tensor, got torch\.float32"):
        OptState({"counts": counts.float()}, index_tensors=frozenset({"counts"}))


def test_states_of_earlier_checkpoints_know_their_lists_by_type():
    start, _ = start_and_target(9)
    state = make_optimizer("anchored").init(start, TASK, generator())
    tensors, info = state.state_dict()
    assert info.pop("index_tensors") == ["neighbours"]
    old = OptState.from_state_dict(tensors, info)
    assert old.index_tensors == state.index_tensors == {"neighbours"} and same_state(old, state)


def test_unreadable_states():
    tensors, info = make_optimizer("adam").init(random_gaussians(3), TASK, generator()).state_dict()
    for broken in ({}, {**info, "task": {"unknown": 1}}, {**info, "step": "x"}, {**info, "task": {**info["task"], "views_per_step": 0}}):
        with pytest.raises(CheckpointError, match="optimizer state"):
            OptState.from_state_dict(tensors, broken)
    with pytest.raises(CheckpointError, match="first dimension"):
        OptState.from_state_dict({**tensors, "v": tensors["v"][:2]}, info)


def test_make_optimizer_names_and_options():
    with pytest.raises(OptionError, match=r"unknown optimizer 'adma': choose one of adam, .*nominal.*paper"):
        make_optimizer("adma")
    with pytest.raises(OptionError, match="adam has no option learning_rate"):
        make_optimizer("adam", learning_rate=1.0)
    with pytest.raises(OptionError, match="sh0 of Adam must be above 0, got -1"):
        make_optimizer("adam", sh0=-1)
    with pytest.raises(OptionError, match="beta1"):
        make_optimizer("nominal", beta1=1.0)
    with pytest.raises(OptionError, match="means of SGD"):
        make_optimizer("sgd", means=0)
    assert make_optimizer("nominal", means=1e-3).config.means == 1e-3
    assert all(make_optimizer(name).name in OPTIMIZERS for name in OPTIMIZERS)


@pytest.mark.parametrize(
    "broken",
    [{"scene_scale": 0.0}, {"scene_scale": float("nan")}, {"views_per_step": 0}, {"steps": -1}, {"num_views": 0}, {"view_angle": -1.0}],
)
def test_a_task_that_makes_no_sense(broken):
    with pytest.raises(OptionError, match="a task needs"):
        Task(**broken)

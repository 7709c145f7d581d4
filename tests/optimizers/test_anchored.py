"""The learned rule `anchored`: untrained it is `nominal`; trained it is bounded, scale-free, differentiable and survives what users do to a state."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from learn2splat import errors
from learn2splat.gaussians.record import COLUMNS, Gaussians
from learn2splat.optimizers import OptState, Task
from learn2splat.optimizers._features import FEATURES, scarcity, wideness
from learn2splat.optimizers._schedule import settled_age, trust
from learn2splat.optimizers.anchored import Anchored, AnchoredConfig, squash
from learn2splat.optimizers.attention import refreshed_candidates, seen_neighbours
from learn2splat.optimizers.nominal import Nominal, NominalConfig, expand_groups, group_step_sizes

SMALL = AnchoredConfig(width=12, latent=5, heads=2, head_dim=3, mlp_ratio=1)


def noise(n, seed, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return Gaussians.unflatten(torch.randn(n, 59, generator=g, dtype=torch.float64).to(dtype))


def cloud(n, seed=0, dtype=torch.float32):
    """Gaussians well inside all clamps, with a spacing of about 0.02 to 0.1."""
    g = noise(n, seed, dtype).map(lambda tensor: (0.3 * tensor).clamp(-1, 1))
    g.means.mul_(0.3)
    g.log_scales.sub_(3.0)
    g.quats.copy_(torch.nn.functional.normalize(g.quats, dim=1))
    return g


def some_unseen(grads, seed):
    mask = torch.rand(len(grads), generator=torch.Generator().manual_seed(seed)) < 0.3
    return grads.map(lambda tensor: torch.where(mask.view(-1, *[1] * (tensor.ndim - 1)), 0.0, tensor))


def trained(config=SMALL, scale=0.3, seed=0, dtype=torch.float32):
    """The rule with noise in every layer, as if trained."""
    rule = Anchored(config)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in rule.network.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=g, dtype=torch.float64))
    rule.network.to(dtype)
    return rule


def start(rule, gaussians):
    return rule.init(gaussians, Task(), torch.Generator().manual_seed(0))


def run(rule, gaussians, all_grads, state=None):
    state = start(rule, gaussians) if state is None else state
    for grads in all_grads:
        gaussians, state = rule.step(gaussians, grads, state)
    return gaussians, state


def test_untrained_takes_the_steps_of_nominal_to_the_last_bit():
    gaussians = cloud(60)
    all_grads = [some_unseen(noise(60, seed=100 + i), seed=i) if i % 3 else noise(60, seed=100 + i) for i in range(23)]  # past a refresh at 20
    mine, _ = run(Anchored(), gaussians, all_grads)
    theirs, _ = run(Nominal(), gaussians, all_grads)
    assert not torch.equal(mine.flatten(), gaussians.flatten())
    assert torch.equal(mine.flatten(), theirs.flatten())


def test_number_of_weights_is_as_documented():
    assert 40_000 <= sum(p.numel() for p in Anchored().network.parameters()) <= 100_000


@pytest.mark.parametrize("scale", [0.3, 30.0])
def test_steps_of_any_weights_are_bounded(scale):
    config = AnchoredConfig(width=12, latent=5)
    rule, gaussians = trained(config, scale), cloud(50)
    state = start(rule, gaussians)
    bound = math.exp(config.max_log_growth) * (config.nominal.max_direction + config.max_correction)
    largest = 0.0
    for i in range(30):
        grads = noise(50, seed=i).map(lambda tensor, i=i: tensor * 10.0 ** (i % 7 - 3))
        new, state = rule.step(gaussians, grads, state)
        assert new.is_finite()
        ratio = (new.flatten() - gaussians.flatten()).abs() / expand_groups(group_step_sizes(state.tensors["spacing"], config.nominal))
        ratio[:, COLUMNS["quats"]] = 0  # normalised, so not comparable
        largest = max(largest, float(ratio.max()))
        assert state.tensors["latent"].abs().max() <= 1
        gaussians = new
    assert largest <= bound * 1.0001
    assert largest > 1.5  # the weights do something: nominal's own largest step here is about 1.0


def test_squash_is_the_identity_near_zero_and_bounded():
    x = torch.linspace(-50, 50, 1001, dtype=torch.float64, requires_grad=True)
    y = squash(x, low=5.0, high=2.0)
    assert bool((y >= -5).all()) and bool((y <= 2).all())
    slope = torch.autograd.grad(y.sum(), x)[0]
    assert slope[500] == 1 and (slope >= 0).all()
    assert torch.equal(torch.exp(squash(torch.zeros(3), 5.0, 2.0)), torch.ones(3))


def test_gradients_of_three_unrolled_updates_match_finite_differences():
    """With respect to the weights, the latent state and the Gaussians; float64, central differences along random directions."""
    rule = trained(scale=0.2, dtype=torch.float64)
    first = cloud(14, dtype=torch.float64)
    gaussians, state = run(rule, first, [noise(14, seed=50, dtype=torch.float64)])  # spacing and neighbours are constants from here on
    all_grads = [some_unseen(noise(14, seed=i, dtype=torch.float64), seed=i) for i in range(3)]
    weight = torch.randn(14, 59, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theta = {name: p.detach().clone() for name, p in rule.network.named_parameters()}

    def loss(theta, latent, flat):
        g, s = Gaussians.unflatten(flat), OptState({**state.tensors, "latent": latent}, state.step, state.task)
        for grads in all_grads:
            g, s = rule.update(g, grads, s, theta)
        return (weight * g.flatten()).sum() + (g.flatten() * 10).sin().sum() + (s.tensors["latent"] ** 2).sum()

    inputs = [theta, state.tensors["latent"].clone(), gaussians.flatten()]
    leaves = [leaf.requires_grad_() for leaf in (*theta.values(), *inputs[1:])]
    grads = torch.autograd.grad(loss(*inputs), leaves)
    assert all(torch.isfinite(g).all() for g in grads)
    generator, eps, checked = torch.Generator().manual_seed(2), 1e-6, 0
    with torch.no_grad():
        for leaf, grad in zip(leaves, grads):
            direction = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
            values = []
            for sign in (1, -1):
                leaf.add_(direction, alpha=sign * eps)
                values.append(float(loss(*inputs)))
                leaf.sub_(direction, alpha=sign * eps)
            numeric, exact = (values[0] - values[1]) / (2 * eps), float((grad * direction).sum())
            assert exact == pytest.approx(numeric, rel=1e-5, abs=1e-7)
            checked += abs(exact) > 1e-4
    assert checked == len(leaves)  # every input matters, so every comparison could have failed


def test_meta_gradients_reach_an_untrained_rule():
    rule, gaussians = Anchored(SMALL), cloud(20)
    state = start(rule, gaussians)
    for i in range(2):
        gaussians, state = rule.update(gaussians, noise(20, seed=i), state)
    gaussians.flatten().square().sum().backward()
    assert rule.network.head[2].weight.grad.abs().sum() > 0 and rule.network.magnitude.weight.grad.abs().sum() > 0
    assert all(torch.isfinite(p.grad).all() for p in rule.network.parameters() if p.grad is not None)


@pytest.mark.parametrize("scale, shift, loss_unit", [(3.0, 0.0, 1.0), (1.0, 40.0, 1.0), (0.7, -5.0, 1.0), (1.0, 0.0, 1e3), (1.0, 0.0, 1e-3)])
def test_units_of_length_and_loss_and_the_origin_do_not_matter(scale, shift, loss_unit):
    config = AnchoredConfig(width=12, latent=5, nominal=NominalConfig(min_spacing_ratio=1e-6, max_spacing_ratio=1e6))
    rule, gaussians = trained(config, dtype=torch.float64), cloud(40, dtype=torch.float64)
    other = gaussians.clone()
    other.means.mul_(scale).add_(shift)
    other.log_scales.add_(math.log(scale))
    all_grads = [some_unseen(noise(40, seed=i, dtype=torch.float64), seed=i) for i in range(6)]
    other_grads = [grads.map(lambda tensor: tensor * loss_unit) for grads in all_grads]
    for grads in other_grads:
        grads.means.div_(scale)
    new, _ = run(rule, gaussians, all_grads)
    other, _ = run(rule, other, other_grads)
    new.means.mul_(scale).add_(shift)
    new.log_scales.add_(math.log(scale))
    torch.testing.assert_close(other.flatten(), new.flatten(), rtol=1e-9, atol=1e-9)


def test_no_axis_and_no_channel_is_special():
    rule, gaussians = trained(dtype=torch.float64), cloud(40, dtype=torch.float64)
    turn = torch.tensor([2, 0, 1])

    def relabel(g):
        return Gaussians(g.means[:, turn], g.quats, g.log_scales[:, turn], g.logit_opacities, g.sh0[:, :, turn], g.shN[:, :, turn])

    all_grads = [some_unseen(noise(40, seed=i, dtype=torch.float64), seed=i) for i in range(5)]
    new, _ = run(rule, gaussians, all_grads)
    other, _ = run(rule, relabel(gaussians), [relabel(g) for g in all_grads])
    torch.testing.assert_close(other.flatten(), relabel(new).flatten(), rtol=1e-10, atol=1e-12)


def test_permutation_equivariance():
    rule, gaussians = trained(dtype=torch.float64), cloud(40, dtype=torch.float64)
    all_grads = [some_unseen(noise(40, seed=i, dtype=torch.float64), seed=i) for i in range(5)]
    half, state = run(rule, gaussians, all_grads[:2])
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    new, new_state = run(rule, half, all_grads[2:], state)
    other, other_state = run(rule, half[order], [g[order] for g in all_grads[2:]], state.select(order))
    torch.testing.assert_close(other.flatten(), new.flatten()[order], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(other_state.tensors["latent"], new_state.tensors["latent"][order], rtol=1e-10, atol=1e-12)


def test_only_few_or_distant_views_are_noticed():
    """Scarcity: 1 at one view, a sixth less with every doubling, 0 from 64 on. Wideness: 0 up to 1 degree, 1 from 30 on. Unknown: 0."""
    assert [scarcity(n) for n in (1, 2, 8, 64, 1000, None)] == pytest.approx([1, 5 / 6, 1 / 2, 0, 0, 0])
    assert [wideness(angle) for angle in (0, 0.3, 1, 30**0.5, 30, 180, None)] == pytest.approx([0, 0, 0, 0.5, 1, 1, 0])
    rule, gaussians, grads = trained(), cloud(30), noise(30, seed=1)

    def step(**task):
        return rule.step(gaussians, grads, rule.init(gaussians, Task(**task), torch.Generator()))[0].flatten()

    usual = step()
    assert torch.equal(usual, step(num_views=64, view_angle=0.5)) and torch.equal(usual, step(num_views=1000))
    few, distant = step(num_views=4), step(view_angle=20.0)
    assert not torch.equal(few, usual) and not torch.equal(distant, usual)
    with torch.no_grad():
        rule.network.overall.weight[:, -2:] = 0
    assert torch.equal(step(), step(num_views=4)) and torch.equal(step(), step(view_angle=20.0))


def test_late_steps_are_those_of_nominal_where_views_are_many_and_close():
    """1 at any age up to 8 views or from 6 degrees on, 1 / (1 + (age / trust_age)^2) from 14 views and up to 2.5 degrees on; then an old Gaussian
    takes nominal's step, times trained_age / count."""
    count = torch.tensor([1.0, 100.0, 300.0])
    for task in (Task(num_views=3, view_angle=1.0), Task(num_views=8), Task(num_views=40, view_angle=6.0), Task(view_angle=90.0)):
        assert trust(count, task, 100.0).tolist() == [1, 1, 1]
    for task in (Task(num_views=14, view_angle=2.5), Task(), Task(num_views=300, view_angle=0.1)):
        assert trust(count, task, 100.0).tolist() == pytest.approx([1 / 1.0001, 1 / 2, 1 / 10])
    for task in (Task(num_views=11), Task(view_angle=4.0)):
        assert 1 / 2 < float(trust(count, task, 100.0)[1]) < 1
    rule, gaussians, grads = trained(replace(SMALL, trust_age=1e-4)), cloud(30), noise(30, seed=1)
    nominal = Nominal(rule.config.nominal).step(gaussians, grads, Nominal(rule.config.nominal).init(gaussians, Task(), torch.Generator()))[0]
    tasks = (Task(num_views=40, view_angle=angle) for angle in (1, 10))
    many, far = (rule.step(gaussians, grads, rule.init(gaussians, task, torch.Generator()))[0].flatten() for task in tasks)
    torch.testing.assert_close(many, nominal.flatten(), rtol=1e-6, atol=1e-7)
    assert float((far - nominal.flatten()).abs().max()) > 1e-3


def test_steps_shrink_sooner_where_views_are_few():
    """From few_age on with 8 views or fewer, from trained_age on with 14 or more, from their geometric mean on halfway between in the logarithm."""
    config = replace(SMALL, trained_age=1000.0, few_age=10.0)
    for task, age in ((Task(num_views=3), 10), (Task(num_views=8), 10), (Task(num_views=14), 1000), (Task(), 1000)):
        assert settled_age(task, config) == pytest.approx(age)
    assert settled_age(Task(num_views=3), replace(config, few_age=1e9)) == 1000
    assert 10 < settled_age(Task(num_views=10), config) < settled_age(Task(num_views=12), config) < 1000
    for dtype, atol in ((torch.float64, 1e-12), (torch.float32, 1e-6)):  # in torch and natively
        rule, gaussians, grads = trained(replace(SMALL, few_age=0.25), dtype=dtype), cloud(30, dtype=dtype), noise(30, seed=1, dtype=dtype)
        few = rule.step(gaussians, grads, rule.init(gaussians, Task(num_views=8), torch.Generator()))[0]
        rule.config = replace(rule.config, few_age=1e9)
        at_once = rule.step(gaussians, grads, rule.init(gaussians, Task(num_views=8), torch.Generator()))[0]
        for name in ("means", "log_scales", "sh0", "shN"):
            before, short, whole = (getattr(g, name) for g in (gaussians, few, at_once))
            torch.testing.assert_close(short - before, 0.25 * (whole - before), rtol=1e-9, atol=atol)


def test_decays_round_gaussians_and_take_view_dependence_back():
    """In closed form. Beyond trained_age the decays shrink like all steps; where views are many and close to each other there are none."""
    gaussians, grads = cloud(40, dtype=torch.float64), some_unseen(noise(40, seed=1, dtype=torch.float64), seed=2)
    seen = grads.flatten().abs().sum(1) > 0
    far, near, few, between = Task(num_views=40, view_angle=10.0), Task(), Task(num_views=8), Task(view_angle=math.sqrt(6 * 2.5))
    for task, trained_age, late in ((far, 1e9, 1.0), (far, 0.25, 0.25), (near, 1e9, 0.0), (few, 1e9, 1.0), (between, 1e9, 0.5)):
        config = replace(SMALL, trained_age=trained_age, few_age=trained_age)
        with_decay = trained(replace(config, decay_anisotropy=0.125, decay_shN=0.5), dtype=torch.float64)
        rules = (with_decay, trained(config, dtype=torch.float64))
        mine, theirs = (rule.step(gaussians, grads, rule.init(gaussians, task, torch.Generator()))[0] for rule in rules)
        rounder = gaussians.log_scales - gaussians.log_scales.mean(1, keepdim=True)
        expected = theirs.map(torch.clone)
        expected.log_scales[seen] -= late * 0.125 * rounder[seen]
        expected.shN[seen] -= late * 0.5 * gaussians.shN[seen]
        torch.testing.assert_close(mine.flatten(), expected.flatten(), rtol=0, atol=1e-12)
    with pytest.raises(errors.OptionError, match="decays"):
        AnchoredConfig(decay_shN=1.5)


def test_unseen_gaussians_and_their_memory_stay_as_they_are():
    rule, gaussians = trained(), cloud(30)
    gaussians, state = run(rule, gaussians, [noise(30, seed=1)])
    grads = some_unseen(noise(30, seed=2), seed=2)
    unseen = grads.flatten().abs().sum(1) == 0
    assert 0 < int(unseen.sum()) < 30
    new, new_state = rule.step(gaussians, grads, state)
    assert torch.equal((new.flatten() != gaussians.flatten()).any(1), ~unseen)
    for name, tensor in new_state.tensors.items():
        assert torch.equal(tensor[unseen], state.tensors[name][unseen]), name
    # Nor do their neighbours notice them: gone altogether, the others do the same but for the share of Gaussians that are seen.
    with torch.no_grad():
        rule.network.overall.weight[:, -3] = 0
    new, _ = rule.step(gaussians, grads, state)
    alone, _ = rule.step(gaussians[~unseen], grads[~unseen], state.select(~unseen))
    torch.testing.assert_close(alone.flatten(), new.flatten()[~unseen], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1e30, -1e30, 1e-30, 1e-42, 1e14, float("nan"), float("inf")])
@pytest.mark.parametrize("everywhere", [True, False])
def test_broken_gradients_leave_everything_finite(value, everywhere):
    rule, gaussians = trained(), cloud(20)
    state = start(rule, gaussians)
    for i in range(6):
        grads = noise(20, seed=i)
        if 1 <= i < 4:  # a healthy step before and after
            grads = grads.map(lambda tensor: torch.full_like(tensor, value)) if everywhere else grads
            grads.means[3] = value
            grads.shN[5, 2] = value
            grads.logit_opacities[:7] = value
        gaussians, state = rule.step(gaussians, grads, state)
        assert gaussians.is_finite()
        assert all(torch.isfinite(tensor).all() for tensor in state.tensors.values())


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_few_gaussians(n):
    gaussians, state = run(trained(), cloud(n), [noise(n, seed=i) for i in range(3)])
    assert len(gaussians) == len(state) == n and gaussians.is_finite()


def test_coinciding_gaussians_stay_finite():
    gaussians = cloud(12)
    gaussians.means.zero_()
    new, _ = run(trained(), gaussians, [noise(12, seed=i) for i in range(4)])
    assert new.is_finite()


def test_a_saved_state_goes_on_to_the_same_bits(tmp_path):
    rule, all_grads = trained(), [some_unseen(noise(30, seed=i), seed=i) for i in range(24)]
    expected, _ = run(rule, cloud(30), all_grads)
    half, state = run(rule, cloud(30), all_grads[:7])
    tensors, info = state.state_dict()
    save_file(tensors, tmp_path / "state.safetensors")
    state = OptState.from_state_dict(load_file(tmp_path / "state.safetensors"), json.loads(json.dumps(info)))
    resumed, _ = run(rule, half, all_grads[7:], state)
    assert torch.equal(resumed.flatten(), expected.flatten())


def test_pruned_grown_and_merged_states_go_on():
    rule = trained()
    gaussians, state = run(rule, cloud(30), [noise(30, seed=1)])
    keep = torch.arange(30) % 3 != 0
    gaussians, state = gaussians[keep], state.select(keep)
    parents = torch.tensor([4, 4, -1, 0])
    grown = rule.grow(state, parents, torch.Generator().manual_seed(1))
    for name, tensor in grown.tensors.items():
        assert torch.equal(tensor[:20], state.tensors[name]) and tensor.dtype == state.tensors[name].dtype
    new = {name: tensor[20:] for name, tensor in grown.tensors.items()}
    assert torch.equal(new["latent"][0], state.tensors["latent"][4]) and torch.equal(new["latent"][2], torch.zeros(5))
    assert new["count"].tolist() == [1, 1, 0, 1] and new["last_seen"].tolist() == [0, 0, -1, 0] and new["seen_rate"].tolist() == [1, 1, 1, 1]
    assert not new["m"].any() and not new["v"].any() and not new["slow"].any() and new["spacing"].isnan().all()
    more = Gaussians.cat([gaussians, gaussians[torch.tensor([4, 4, 5, 0])]])
    more.means[20:].add_(0.01)
    for i in range(3):
        more, grown = rule.step(more, noise(24, seed=i), grown)
        assert more.is_finite()
    assert torch.isfinite(grown.tensors["spacing"]).all()
    both, _ = run(rule, Gaussians.cat([more, more]), [noise(48, seed=1)], grown.cat(grown))
    assert both.is_finite()


@pytest.mark.parametrize("n, k, share", [(40, 4, 0.6), (40, 4, 1.0), (3, 4, 0.7), (40, 1, 0.5)])
def test_seen_neighbours_are_the_nearest_seen_ones(n, k, share):
    g = torch.Generator().manual_seed(n)
    means = torch.rand(n, 3, generator=g, dtype=torch.float64)
    seen = torch.rand(n, generator=g) < share
    seen[0] = True
    found, exists = seen_neighbours(refreshed_candidates(means, n), seen, k)
    for row, i in enumerate(torch.nonzero(seen).squeeze(1).tolist()):
        order = sorted(torch.nonzero(seen).squeeze(1).tolist(), key=lambda j: float((means[i] - means[j]).norm()))[:k]
        positions = {j: p for p, j in enumerate(torch.nonzero(seen).squeeze(1).tolist())}
        assert found[row][exists[row]].tolist() == [positions[j] for j in order]


@pytest.mark.parametrize("left_out", sorted(FEATURES))
def test_features_can_be_ablated(left_out):
    rule = trained(AnchoredConfig(width=8, latent=3, features=tuple(name for name in FEATURES if name != left_out)))
    new, _ = run(rule, cloud(12), [noise(12, seed=1)])
    assert new.is_finite()

"""The native ends of an unrolled step of `anchored`, and the native attention, against the torch code in float64, which defines them."""

from dataclasses import replace

import pytest
import torch
from instruction_sets import LOWER, results_of_lower
from test_anchored import cloud, noise, run, some_unseen, trained
from test_native_step import CONFIGS

from learn2splat import _native
from learn2splat.gaussians.record import COLUMNS
from learn2splat.optimizers import OptState, Task, _native_attention, _native_step
from learn2splat.optimizers.anchored import AnchoredConfig
from learn2splat.optimizers.attention import KnnAttention

CONFIGS = {name: config for name, config in CONFIGS.items() if name != "no momentum"}  # its directions cancel but for rounding; see there


def wide(state):
    return OptState({name: t.double() if t.is_floating_point() else t for name, t in state.tensors.items()}, state.step, state.task)


def unrolled(rule, gaussians, state, all_grads, native=True):
    """Values and gradients after steps whose Gaussians are cut from the graph where they are read, as meta-training has them."""
    latent = state.tensors["latent"].clone().requires_grad_()
    state, path = replace(state, tensors={**state.tensors, "latent": latent}), gaussians
    with pytest.MonkeyPatch.context() as patch:
        if not native:
            patch.setattr(_native_step, "applies", lambda *_: False)
        for grads in all_grads:
            new, state = rule.update(path.detach(), grads, state)
            path = new.zip_map(lambda now, before: now + (before - before.detach()), path)
    flat = path.flatten()
    weight = torch.randn(flat.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(flat.dtype)
    loss = (weight * flat).sum() + (10 * flat[:, COLUMNS["means"]]).sin().sum() + state.tensors["latent"].square().sum()
    names = ["latent", *(name for name, _ in rule.network.named_parameters())]
    gradients = torch.autograd.grad(loss, [latent, *rule.network.parameters()], allow_unused=True, materialize_grads=True)
    return flat.detach(), state, dict(zip(names, gradients))


def grown_old(config, n=130):
    """A rule with weights that do something, Gaussians of which some are at clamps, and a state; views are neither many nor few."""
    rule, gaussians = trained(config, scale=0.2), cloud(n)
    gaussians, state = run(rule, gaussians, [some_unseen(noise(n, seed=i), seed=i) for i in range(4)])
    gaussians.logit_opacities[:20], gaussians.log_scales[20:30], gaussians.shN[30:40] = 6.99, -7.99, 1.999
    return rule, gaussians, replace(state, task=Task(num_views=10, view_angle=4.0))


def assert_close(mine, exact, rtol, what):
    assert float((mine.double() - exact.double()).norm()) <= rtol * float(exact.double().norm()) + 1e-9, what


@pytest.mark.parametrize("name", CONFIGS)
def test_values_and_gradients_are_those_of_torch(name):
    rule, gaussians, state = grown_old(CONFIGS[name])
    steps = [noise(130, seed=9), some_unseen(noise(130, seed=10), seed=11), some_unseen(noise(130, seed=12), seed=13)]
    flat, end, gradients = unrolled(rule, gaussians, state, steps)
    rule.network.double()
    exact, exact_end, exact_gradients = unrolled(rule, gaussians.to(torch.float64), wide(state), [g.to(torch.float64) for g in steps], native=False)
    assert end.tensors.keys() == exact_end.tensors.keys() and end.step == exact_end.step
    assert_close(flat, exact, 1e-6, "new Gaussians")
    for key, tensor in exact_end.tensors.items():
        assert_close(end.tensors[key].detach(), tensor.detach(), 1e-5, key)
    for key, gradient in exact_gradients.items():
        assert_close(gradients[key], gradient, 2e-4, key)
    assert float(exact_gradients["head.2.weight"].norm()) > 1e-3


def test_some_of_them_are_at_the_clamps():
    """Else the test above would not see gradients that must stop there."""
    rule, gaussians, state = grown_old(AnchoredConfig(width=8))
    new, _ = rule.update(gaussians, noise(130, seed=9), state)
    assert bool((new.logit_opacities == 7).any()) and bool((new.log_scales == -8).any()) and bool((new.shN == 2).any())
    assert new.means.requires_grad


def test_a_quaternion_of_length_zero_has_a_finite_gradient():
    rule, gaussians, state = grown_old(AnchoredConfig(width=8))
    gaussians.quats[3] = 0
    grads = noise(130, seed=9)
    grads.quats[3] = 0
    state.tensors["m"][3, COLUMNS["quats"]] = 0
    state.tensors["slow"][3, COLUMNS["quats"]] = 0
    _, _, gradients = unrolled(rule, gaussians, state, [grads])
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients.values())


def test_inference_takes_the_same_step():
    rule, gaussians, state = grown_old(AnchoredConfig())
    new, new_state = rule.update(gaussians, noise(130, seed=9), state)
    other, other_state = rule.step(gaussians, noise(130, seed=9), state)
    torch.testing.assert_close(new.flatten().detach(), other.flatten(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(new_state.tensors["latent"].detach(), other_state.tensors["latent"], rtol=1e-4, atol=1e-5)


def test_it_is_the_native_code_that_runs(monkeypatch):
    rule, gaussians, state = grown_old(AnchoredConfig(width=8))
    monkeypatch.setattr(_native, "step_ends", None)
    with pytest.raises(TypeError):
        rule.update(gaussians, noise(130, seed=9), state)
    new, _ = rule.update(gaussians.map(lambda tensor: tensor.requires_grad_()), noise(130, seed=9), state)  # a path to them is torch's
    assert new.means.requires_grad


def test_nothing_seen_changes_nothing_but_the_step():
    rule, gaussians, state = grown_old(AnchoredConfig(width=8))
    new, new_state = rule.update(gaussians, noise(130, seed=9).map(torch.zeros_like), state)
    assert torch.equal(new.flatten(), gaussians.flatten()) and new_state.step == state.step + 1
    assert all(torch.equal(tensor, state.tensors[name]) for name, tensor in new_state.tensors.items())
    assert new_state.tensors["latent"].data_ptr() != state.tensors["latent"].data_ptr()


def test_gradients_do_not_depend_on_the_number_of_threads(monkeypatch):
    rule, gaussians, state = grown_old(AnchoredConfig(width=8), n=2000)
    results = []
    for threads in (1, 3):
        monkeypatch.setenv("LEARN2SPLAT_NUM_THREADS", str(threads))
        flat, _, gradients = unrolled(rule, gaussians, state, [noise(2000, seed=9)])
        results.append([flat, *gradients.values()])
    assert all(torch.equal(a, b) for a, b in zip(*results))


def attention_inputs(n, k, heads, head_dim, biased):
    generator = torch.Generator().manual_seed(0)
    x, bias = torch.randn(n, 24, generator=generator), torch.randn(n, k, heads, generator=generator) if biased else None
    neighbours = torch.randint(0, n, (n, k), generator=generator)
    exists = torch.rand(n, k, generator=generator) < 0.8
    neighbours[:, 0], exists[:, 0] = torch.arange(n), True
    torch.manual_seed(0)
    return KnnAttention(24, head_dim, heads), x, torch.where(exists, neighbours, neighbours[:, :1]), exists, bias


def attention_results(layer, x, neighbours, exists, bias):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (x, bias) if tensor is not None]
    out = layer(leaves[0], neighbours, exists, leaves[1] if len(leaves) > 1 else None)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(out.dtype)
    return [out.detach(), *torch.autograd.grad((weight * out).sum(), [*leaves, *layer.parameters()])]


@pytest.mark.parametrize("n, k, heads, head_dim, biased", [(1, 1, 1, 16, True), (50, 4, 1, 16, True), (700, 5, 3, 7, True), (40, 3, 2, 32, False)])
def test_attention_is_that_of_torch(n, k, heads, head_dim, biased):
    layer, *inputs = attention_inputs(n, k, heads, head_dim, biased)
    assert _native_attention.applies(inputs[0], inputs[-1])
    mine = attention_results(layer, *inputs)
    layer.double()
    exact = attention_results(layer, *(t.double() if t is not None and t.is_floating_point() else t for t in inputs))
    for i, (a, b) in enumerate(zip(mine, exact)):
        assert_close(a, b, 2e-6, i)


@pytest.mark.parametrize("row", [-1, 40])
def test_attention_to_a_row_that_is_not_there_is_refused(row):
    layer, x, neighbours, exists, bias = attention_inputs(40, 3, 1, 16, True)
    neighbours[5, 1] = row
    with pytest.raises(ValueError, match="neighbours"):
        layer(x, neighbours, exists, bias)


def unrolled_results():
    rule, gaussians, state = grown_old(AnchoredConfig(width=8), n=60)
    flat, _, gradients = unrolled(rule, gaussians, state, [noise(60, seed=9), noise(60, seed=10)])
    return {"new": flat, **gradients}


@pytest.mark.parametrize("isa", LOWER)
def test_lower_instruction_sets_agree(isa, tmp_path):
    here = unrolled_results()
    for key, value in results_of_lower(isa, "test_native_update", "unrolled_results", tmp_path).items():
        assert_close(value, here[key], 1e-3, key)  # those of `relation.weight` nearly cancel

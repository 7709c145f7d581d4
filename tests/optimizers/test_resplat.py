"""The baseline ReSplat: what its network reads, against sums by hand; that it is driven by the render alone; weights and training."""

from dataclasses import replace

import pytest
import torch
from random_gaussians import random_gaussians, random_gradients
from tiny_scenes import blobs, tiny_scene

from learn2splat.errors import OptionError
from learn2splat.fitting import fit
from learn2splat.fitting.problem import ViewsProblem
from learn2splat.optimizers import Task, make_optimizer
from learn2splat.optimizers.base import RenderedViews
from learn2splat.optimizers.resplat import CHANNELS, ERROR_WIDTH, ReSplat, ReSplatConfig
from learn2splat.optimizers.weights import load_weights, save_weights


def moving(seed=0):
    """A rule whose head is not zero."""
    rule = ReSplat(ReSplatConfig(width=16, blocks=1, head_dim=8), seed=seed)
    with torch.no_grad():
        rule.network.head[2].weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(1))
    return rule


def test_a_gaussian_reads_the_colour_error_where_it_lies_in_each_view():
    """With attention switched off the mean over the views in whose frames it lies, bilinear between pixel centres: by hand."""
    rule, g = moving(), torch.Generator().manual_seed(0)
    torch.nn.init.zeros_(rule.network.view_score.weight)
    renders, photos = torch.rand(2, 6, 8, 3, generator=g), torch.rand(2, 6, 8, 3, generator=g)
    viewmats = torch.eye(4).repeat(2, 1, 1)
    viewmats[1, 0, 3] = 1.0
    K = torch.tensor([[4.0, 0, 4], [0, 4, 3], [0, 0, 1]]).repeat(2, 1, 1)
    means = torch.tensor([[0.1, -0.2, 2.0], [-2.3, 0.3, 2.0], [0.0, 0.0, -1.0]])  # in both, in the second alone, behind
    read = rule.network.error(means, (RenderedViews(renders, photos, viewmats, K),))
    assert read.shape == (3, ERROR_WIDTH + 1) and ERROR_WIDTH == 3 + sum(CHANNELS)
    expected, seen = torch.zeros(3, 3), torch.zeros(3)
    for v in range(2):
        for i, mean in enumerate(means + viewmats[v, :3, 3]):
            x, y = 4 * mean[0] / mean[2] + 4, 4 * mean[1] / mean[2] + 3
            if mean[2] <= 0 or not (0 <= x <= 8 and 0 <= y <= 6):
                continue
            seen[i] += 1
            for row in range(6):
                for column in range(8):
                    near = max(0, 1 - abs(column + 0.5 - x)) * max(0, 1 - abs(row + 0.5 - y))
                    expected[i] += near * (photos - renders)[v, row, column]
    assert seen.tolist() == [2, 1, 0]
    assert torch.allclose(read[:, :3], expected / seen.clamp_min(1)[:, None], atol=1e-5)
    assert torch.allclose(read[:, -1], seen / 2)
    assert bool((read[2, :-1] == 0).all())


def test_without_an_error_its_features_are_zero_and_mixed_sizes_are_read():
    scene, rule = tiny_scene(4, two_sizes=True), moving()
    views = ViewsProblem(scene, blobs(), [0, 1, 2]).views()
    assert [tuple(group.photos.shape[1:3]) for group in views] == [(24, 32), (18, 32)] and not views[0].renders.requires_grad
    perfect = tuple(replace(group, renders=group.photos) for group in views)
    assert bool((rule.network.error(blobs().means, perfect)[:, :-1] == 0).all())
    assert bool((rule.network.error(blobs().means, views)[:, :-1] != 0).any())


def test_gradients_do_not_matter_and_every_gaussian_moves():
    scene, rule, start = tiny_scene(4), moving(), random_gaussians(30)
    problem = ViewsProblem(scene, start, [0, 1, 2])
    state = rule.init(start, Task(), torch.Generator())
    new, after = rule.step(start, random_gradients(30, 0), state, problem)
    other, _ = rule.step(start, random_gradients(30, 5, scale=100.0), state, problem)
    assert torch.equal(new.flatten(), other.flatten()) and bool((new.flatten() != start.flatten()).any(1).all())
    assert after.step == 1 and bool((after.tensors["latent"] != 0).any())


def test_it_learns_to_take_an_error_away():
    """Four steps from a start of the wrong brightness: training on one scene brings the loss of its photos down."""
    scene = tiny_scene(4)
    truth = blobs()
    start = replace(truth, sh0=truth.sh0 * 0.3)
    rule = ReSplat(ReSplatConfig(width=16, blocks=1, head_dim=8), seed=0)
    optimizer = torch.optim.Adam(rule.network.parameters(), lr=3e-3)

    def unrolled():
        from learn2splat.fitting.evaluate import render_photos
        from learn2splat.losses import photometric_loss

        gaussians, state = start, rule.init(start, Task(), torch.Generator())
        renders, photos = render_photos(scene, gaussians, [0, 1, 2])
        for _ in range(2):
            views = (RenderedViews(renders.detach(), photos, scene.viewmats[[0, 1, 2]], scene.Ks[[0, 1, 2]]),)
            gaussians, state = rule.update(gaussians, views, state)
            renders, photos = render_photos(scene, gaussians, [0, 1, 2])
        return photometric_loss(renders, photos)

    losses = []
    for _ in range(25):
        loss = unrolled()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_weights_and_options(tmp_path):
    rule = moving()
    save_weights(tmp_path / "mine.safetensors", rule, {"episodes": 3})
    loaded = load_weights(tmp_path / "mine.safetensors")
    assert loaded.config == rule.config
    assert all(torch.equal(a, b) for a, b in zip(rule.network.state_dict().values(), loaded.network.state_dict().values()))
    result = fit(tiny_scene(4), blobs(), loaded, steps=2)
    assert result.steps == 2 and not result.diverged
    with pytest.raises(OptionError, match="holds weights of resplat, not of g3r"):
        make_optimizer("g3r", weights=tmp_path / "mine.safetensors")


def test_the_package_has_weights_that_move_something():
    rule = make_optimizer("resplat")
    assert float(rule.network.head[2].weight.detach().abs().max()) > 0

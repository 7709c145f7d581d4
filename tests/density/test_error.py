"""The density control `error`: how it averages errors, against torch's pooling; where it puts Gaussians, against the geometry of a photo."""

import torch
from tiny_scenes import blobs, tiny_scene
from torch.nn import functional as F

from learn2splat.density import Event, Splat, Surroundings, make_density
from learn2splat.density.error import _drawn, _window_means
from learn2splat.optimizers import Task, make_optimizer


def test_window_means_are_those_of_pooling():
    error = torch.rand(13, 17, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(13, 17, generator=torch.Generator().manual_seed(1)) > 0.3
    for shown, image in ((None, error), (mask, error * mask)):
        pooled = F.avg_pool2d(F.pad(image[None, None], (2,) * 4, mode="replicate"), 5, stride=1)[0, 0]
        torch.testing.assert_close(_window_means(error, shown, 5), pooled)


def test_new_gaussians_lie_at_pixels_where_the_render_is_wrong():
    """One blob of the truth is missing: what is added lies where it was, seen from a camera."""
    scene, truth = tiny_scene(6), blobs()
    kept = truth[torch.arange(1, len(truth))]
    rule = make_optimizer("adam")
    splat = Splat(kept, rule.init(kept, Task(scene_scale=1.0, views_per_step=2, steps=10), torch.Generator().manual_seed(0)), {})
    around = Surroundings(scene, rule, torch.Generator().manual_seed(0))
    grown = make_density("error").event(splat, Event(0, 1, 0.1, len(kept) + 30), around)
    new = grown.gaussians.means[len(kept) :]
    assert len(grown) == len(grown.state) == len(kept) + 30
    view = scene.viewmats[scene.train_idx[0]]
    towards = F.normalize(truth.means[0] @ view[:3, :3].T + view[:3, 3], dim=0)
    size = float(truth.log_scales[0].exp().max() / truth.means[0].norm().clamp(min=1))
    offsets = F.normalize(new @ view[:3, :3].T + view[:3, 3], dim=1) - towards
    assert float(offsets.norm(dim=1).median()) < 4 * size


def test_pixels_are_drawn_as_by_multinomial():
    """The second of two different positions has the probability that drawing without replacement gives it; all are drawn where all are wanted."""
    weights = torch.tensor([0.0, 1.0, 2.0, 5.0, 0.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    pairs = torch.stack([_drawn(weights, 2, generator) for _ in range(4000)])
    assert (pairs[:, 0] != pairs[:, 1]).all()
    p = weights / weights.sum()
    for a in (1, 2, 3):
        for b in {1, 2, 3} - {a}:
            expected = float(p[a] * p[b] / (1 - p[a]))
            found = float(((pairs[:, 0] == a) & (pairs[:, 1] == b)).double().mean())
            assert abs(found - expected) < 4 * (expected / 4000) ** 0.5
    assert sorted(_drawn(weights, 3, generator).tolist()) == [1, 2, 3]

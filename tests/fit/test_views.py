"""Which views a step sees: complete rounds, no repeats, spread out, reproducible."""

import time
import tracemalloc

import pytest
import torch

from learn2splat.errors import CheckpointError
from learn2splat.fitting.views import ViewSampler


def sampler(count: int, views_per_step: int, seed: int = 0) -> ViewSampler:
    centres = torch.randn(count, 3, generator=torch.Generator().manual_seed(7))
    return ViewSampler(centres, views_per_step, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("count", "per_step"), [(16, 8), (17, 8), (35, 8), (5, 3), (9, 1)])
def test_every_view_is_seen_before_any_repeats(count, per_step):
    views = sampler(count, per_step)
    stream = [view for _ in range(4 * count) for view in views.next()]
    for start in range(0, len(stream) - count, count):
        # A step that spans two rounds may take its next-round views in any order, but no view comes twice within a round.
        assert sorted(stream[start : start + count]) == list(range(count))


@pytest.mark.parametrize(("count", "per_step"), [(17, 8), (10, 7), (5, 3)])
def test_no_view_comes_twice_in_a_step(count, per_step):
    views = sampler(count, per_step)
    for _ in range(50):
        step = views.next()
        assert len(step) == len(set(step)) == per_step


def test_thousands_of_views_cost_nothing():
    """Of memory (no table of distances) and of time, which would be charged to the optimizer: 3 ms a step on a quiet core for 20 000 views."""
    views = sampler(20_000, 8)
    views.next()
    tracemalloc.start()
    began = time.process_time()
    steps = [views.next() for _ in range(5)]
    assert time.process_time() - began < 1.0 and tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert len({view for step in steps for view in step}) == 40


def test_a_small_scene_uses_all_its_views_in_every_step():
    views = sampler(3, 8)
    assert views.views_per_step == 3
    assert all(sorted(views.next()) == [0, 1, 2] for _ in range(5))


def test_the_views_of_a_step_are_spread_out():
    """On a line of two distant clusters, two views per step always come from both."""
    centres = torch.cat([torch.randn(6, 3), torch.randn(6, 3) + 100])
    views = ViewSampler(centres, 2, torch.Generator().manual_seed(0))
    for _ in range(30):
        a, b = views.next()
        assert (a < 6) != (b < 6)


def test_the_first_view_is_random_and_ties_are_broken_at_random():
    """All cameras in one place (a panorama): the order must still vary, or some views would always meet the same partners."""
    first_steps = {tuple(ViewSampler(torch.zeros(8, 3), 4, torch.Generator().manual_seed(seed)).next()) for seed in range(20)}
    assert len(first_steps) > 15


def test_same_seed_same_views_and_another_seed_other_views():
    a, b, c = sampler(20, 8, seed=1), sampler(20, 8, seed=1), sampler(20, 8, seed=2)
    streams = [[s.next() for _ in range(10)] for s in (a, b, c)]
    assert streams[0] == streams[1] != streams[2]


def test_a_restored_sampler_goes_on_with_the_same_views():
    views = sampler(17, 8)
    for _ in range(4):
        views.next()
    state = {name: tensor.clone() for name, tensor in views.state_dict().items()}
    expected = [views.next() for _ in range(10)]
    other = sampler(17, 8, seed=99)
    other.load_state_dict(state)
    assert [other.next() for _ in range(10)] == expected


def test_the_state_of_a_larger_scene_is_refused():
    state = sampler(20, 4).state_dict() | {"left": torch.tensor([19])}
    with pytest.raises(CheckpointError, match="more views than the 5"):
        sampler(5, 4).load_state_dict(state)

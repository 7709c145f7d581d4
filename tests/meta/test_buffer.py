"""Which episodes are stored and resumed."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from learn2splat.meta import MetaConfig, with_scheme
from learn2splat.meta.buffer import FIRST_AGE, Buffer, rollout_bound, unroll_bounds
from learn2splat.meta.tasks import Dice


def test_the_papers_probabilities():
    config = with_scheme(MetaConfig(), "greedy")
    buffer, dice = Buffer(config), Dice(0)
    for i in range(19):
        buffer.store(SimpleNamespace(age=i))
        assert buffer.take(dice) is None  # not full yet
    buffer.store(SimpleNamespace(age=19))
    taken = 0
    for _ in range(2000):
        episode = buffer.take(dice)
        taken += episode is not None
        if episode is not None:
            assert len(buffer.episodes) == 19
            buffer.store(episode)
    assert taken / 2000 == pytest.approx(0.7, abs=0.04)  # 4 standard deviations
    assert all(buffer.wants(age, age + 6, True, dice) for age in (3, 10**6))  # resumed ones return, however old
    assert sum(buffer.wants(3, 9, False, dice) for _ in range(2000)) / 2000 == pytest.approx(0.7, abs=0.04)
    buffer.episodes.pop()
    assert all(buffer.wants(3, 9, False, dice) for _ in range(50))  # new ones always while it is not full


def test_the_oldest_entry_goes_when_the_buffer_is_full():
    buffer = Buffer(MetaConfig(buffer=3))
    for i in range(5):
        buffer.store(SimpleNamespace(age=i))
    assert [episode.age for episode in buffer.episodes] == [2, 3, 4]


def test_no_buffer_stores_nothing():
    buffer, dice = Buffer(MetaConfig(buffer=0)), Dice(0)
    assert not any(buffer.wants(0, 8, False, dice) for _ in range(50)) and buffer.take(dice) is None


def test_rollouts_grow():
    config = with_scheme(MetaConfig(), "greedy")
    assert [rollout_bound(config, 0, step) for step in (0, 5000, 10_000, 99_999)] == [1, 25, 50, 50]
    assert rollout_bound(replace(config, rollout=0), 0, 10_000) == 0


def test_late_pieces_are_longer():
    config = MetaConfig()
    assert [unroll_bounds(config, age) for age in (0, 128, 200, 256, 2000)] == [(8, 32), (8, 32), (25, 50), (32, 64), (64, 128)]
    assert unroll_bounds(with_scheme(config, "greedy"), 2000) == (1, 6)


def test_ages_come_out_log_uniform():
    """Visits of episodes that are always resumed first, counted in octaves of age + FIRST_AGE."""
    config, dice = MetaConfig(), Dice(0)
    buffer = Buffer(config)
    octaves = [0] * 7
    for _ in range(4000):
        age = 0
        while True:
            octaves[min(6, int(math.log2((age + FIRST_AGE) / FIRST_AGE)))] += 1
            new = age + dice.integer(*unroll_bounds(config, age)) + dice.integer(1, rollout_bound(config, age, 10))
            if not buffer.wants(age, new, True, dice):
                break
            age = new
    # 16 * 2^7 - 16 = 2032 steps are the last octave's end; the first one holds all the starts at age 0, so only the later are compared.
    later = octaves[2:6]
    assert max(later) / min(later) < 1.6, octaves
    assert sum(octaves[5:]) > 300

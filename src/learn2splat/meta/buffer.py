"""The checkpoint buffer: stored, partly optimized episodes, so that the rule meets early and late stages (docs/method.md section 4).

Two policies. The paper's: resume with p = 0.7, and only when the buffer is full; insert new scenes while it is not, with p = 0.7 when it is; return
resumed ones; evict the oldest; forget all after every epoch. Log-uniform ages: every visit advances an episode by `advance(age)` steps on average, so
visits per episode have density 1 / advance along its life; kept alive with a probability proportional to advance(age) / (age + `FIRST_AGE`), the ages
that are visited have density 1 / (age + FIRST_AGE): uniform in the logarithm, at no cost but the visits themselves.

An episode that follows a plan stays until the plan ends, whatever the policy: then the pieces of plans of all lengths lie evenly in them.
"""

from __future__ import annotations

from .config import MetaConfig
from .tasks import Dice, Episode

FIRST_AGE = 16  # Steps: where the logarithm of the age begins.


class Buffer:
    """Episodes of one slot, oldest first."""

    def __init__(self, config: MetaConfig) -> None:
        self.config = config
        self.episodes: list[Episode] = []

    def take(self, dice: Dice) -> Episode | None:
        """Removes and returns a stored episode, or None: start a new one."""
        ready = len(self.episodes) >= self.config.buffer if self.config.fill_first else len(self.episodes) > 0
        if self.config.buffer == 0 or not ready or not dice.chance(self.config.resume_probability):
            return None
        return self.episodes.pop(dice.integer(0, len(self.episodes) - 1))

    def wants(self, age_before: int, age_after: int, resumed: bool, dice: Dice, ends_at: int | None = None) -> bool:
        """Whether an episode is to be stored that a visit (its rollout included) brings from one age to another. `ends_at`: where its plan does."""
        config = self.config
        if ends_at is not None:
            return config.buffer > 0 and age_after < ends_at
        if config.buffer == 0 or (config.log_ages and age_after > config.max_age):
            return False
        if not config.log_ages:
            return resumed or len(self.episodes) < config.buffer or dice.chance(config.insert_probability)
        return dice.chance(min(1.0, survival(config, age_after) / survival(config, age_before)))

    def store(self, episode: Episode) -> None:
        """Puts it in; the one that was put in first goes when there are too many."""
        self.episodes.append(episode)
        if len(self.episodes) > self.config.buffer:
            self.episodes.pop(0)


def rollout_bound(config: MetaConfig, age: int, meta_step: int) -> int:
    """Frozen steps after a visit at most: grows over the meta-steps, and with log-uniform ages not beyond the age itself."""
    grown = 1 + (config.rollout - 1) * min(1.0, meta_step / config.rollout_growth) if config.rollout else 0
    return min(int(grown), max(8, age)) if config.log_ages else int(grown)


def unroll_bounds(config: MetaConfig, age: int) -> tuple[int, int]:
    """Least and most inner steps to unroll at an age."""
    low, high = config.unroll
    late = min(age // 4, config.late_unroll)
    return (late // 2, late) if late > high else (low, high)


def advance(config: MetaConfig, age: int) -> float:
    """Steps that a visit adds on average, once the rollout has grown."""
    return sum(unroll_bounds(config, age)) / 2 + rollout_bound(config, age, config.rollout_growth) / 2


def survival(config: MetaConfig, age: int) -> float:
    """Share of episodes alive at an age, up to a factor."""
    return advance(config, age) / (age + FIRST_AGE)

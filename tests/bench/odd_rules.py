"""Optimizers that do what an optimizer of someone's own may do, and a clock that is the same on every machine."""

import math
from types import SimpleNamespace

import pytest

from learn2splat import make_optimizer, register_optimizer
from learn2splat.fitting import run
from learn2splat.optimizers import UpdateRule

STEP_SECONDS = 0.125  # on the clock below, half of it the update rule; sums of it are exact
HOSTILE = "a <b>scene</b> & '\"</script>"  # a name that a page must not take for a part of itself
LABELS = ["adam", "nominal", "raises", "diverges"]  # of the benchmark of conftest.py, in the order of its tables


class Clock:
    """Stands in for `time` in the fit loop, which asks it three times per step."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        self.now += STEP_SECONDS / 2
        return self.now

    def install(self, patch: pytest.MonkeyPatch):
        patch.setattr(run, "time", SimpleNamespace(perf_counter=self.perf_counter, process_time=lambda: self.now / 2, monotonic=lambda: self.now))
        return self


class Odd(UpdateRule):
    """`nominal`, until `do(step)` does something else to the new Gaussians."""

    def __init__(self, name, do):
        self.name, self.do, self.inner = name, do, make_optimizer("nominal")

    def init(self, gaussians, task, generator):
        return self.inner.init(gaussians, task, generator)

    def step(self, gaussians, grads, state):
        new, state = self.inner.step(gaussians, grads, state)
        return self.do(state.step, new), state


def _raise(step, new):
    if step > 5:
        raise ZeroDivisionError("of a rule of one's own")
    return new


def _diverge(step, new):
    return new.map(lambda field: field * math.nan) if step > 5 else new


def register(clock: Clock):
    """The names `raises` and `diverges` (in step 6), `twin` (is nominal), `slow` (four times the seconds) and `unmade`."""

    def wait(_step, new):
        clock.now += 3 * STEP_SECONDS
        return new

    for name, do in {"raises": _raise, "diverges": _diverge, "twin": lambda _, new: new, "slow": wait}.items():
        register_optimizer(name, lambda name=name, do=do: Odd(name, do))

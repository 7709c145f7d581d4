"""A small benchmark with everything in it that a report must show."""

import pytest
from odd_rules import HOSTILE, Clock, register
from tiny_scenes import tiny_scene

from learn2splat.bench import Budget, Protocol, run_bench


@pytest.fixture(autouse=True, scope="package")
def _on_one_thread(one_thread):
    """See tests/conftest.py."""


@pytest.fixture
def clock(monkeypatch):
    """Installed, with the odd rules registered."""
    clock = Clock().install(monkeypatch)
    register(clock)
    return clock


@pytest.fixture(scope="session")
def bench_folder(tmp_path_factory):
    """Results of two scenes and two seeds; one optimizer raises, one diverges. Not to be changed."""
    patch = pytest.MonkeyPatch()
    register(Clock().install(patch))
    out = tmp_path_factory.mktemp("bench")
    scenes = [tiny_scene(6), tiny_scene(6, seed=1, name=HOSTILE)]
    protocol = Protocol(budget=Budget.parse("adam:12"), long_side=None, max_points=30, views_per_step=2)
    command = ["learn2splat", "bench", "a folder"]
    assert run_bench(scenes, ["nominal", "adam", "raises", "diverges"], protocol, out, seeds=2, command=command)
    patch.undo()
    return out

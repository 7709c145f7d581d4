"""Groups in processes and on Ray: the same results as in one process, also when a worker is killed; errors and stops come back."""

from __future__ import annotations

import os
from functools import partial

import pytest
import ray
from tiny_scenes import write_colmap

from learn2splat.bench import Budget, Protocol, read_cells, run_bench
from learn2splat.bench.executors import MAX_ATTEMPTS, SceneSource, make_tasks, run_in_processes, run_on_ray, split_cores
from learn2splat.errors import BackendError, OptionError
from learn2splat.machine import usable_cores
from learn2splat.scenes import load_scene

PROTOCOL = Protocol(budget=Budget.parse("steps:14"), long_side=None, max_points=30, views_per_step=2)
RULE = '''
import os, signal, time
from pathlib import Path
from learn2splat import make_optimizer

class Deadly(type(make_optimizer("nominal"))):
    """`nominal`, slow enough to be saved on the way; kills its process in step 12 on `second`, as often as the file says."""
    name = "deadly"
    def step(self, gaussians, grads, state):
        time.sleep(0.1)
        if state.step == 12 and len(gaussians) == 25:  # Only one process at a time looks at the file: while it is written it is empty.
            kills = Path(__file__).with_name("kills")
            left = int(kills.read_text()) if kills.exists() else 0
            if left:
                kills.write_text(str(left - 1))
                os.kill(os.getpid(), signal.SIGKILL)
        return super().step(gaussians, grads, state)
'''


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two scenes; the second has fewer points, by which the rule knows it."""
    root = tmp_path_factory.mktemp("scenes")
    for i, name in enumerate(("first", "second")):
        write_colmap(root / name, 6, seed=i)
    points = root / "second" / "sparse" / "0" / "points3D.txt"
    points.write_text("\n".join(points.read_text().splitlines()[:25]) + "\n")
    return [SceneSource(name, partial(load_scene, root / name)) for name in ("first", "second")]


@pytest.fixture(scope="module")
def rule(tmp_path_factory):
    """The deadly rule's name, and the file that says how often it shall kill."""
    folder = tmp_path_factory.mktemp("rule")
    (folder / "deadly.py").write_text(RULE)
    return f"{folder / 'deadly.py'}:Deadly", folder / "kills"


def tasks(sources, rule, out, seeds=1, protocol=PROTOCOL):
    return make_tasks(sources, seeds, optimizers=(rule, "adam"), protocol=protocol, out=out, save_every=0.5)


def curves(out):
    return {(cell.scene, cell.label, cell.seed): [(p.step, p.psnr, p.ssim) for p in cell.points if p.step in (0, 1, 2, 3, 5, 10, 14)]
            for cell in read_cells(out) if cell.status == "done"}  # fmt: skip


def rewinds(out):
    return [line for path in out.rglob("*.jsonl") for line in path.read_text().splitlines() if '"rewind"' in line]


@pytest.fixture(scope="module")
def expected(sources, rule, tmp_path_factory):
    """What one process gets."""
    rule[1].write_text("0")
    out = tmp_path_factory.mktemp("one_process")
    run_bench((source.load() for source in sources), [rule[0], "adam"], PROTOCOL, out)
    return curves(out)


@pytest.fixture(scope="module")
def cluster():
    """A local Ray cluster of two workers."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture(params=[run_in_processes, run_on_ray], ids=["local", "ray"])
def run(request):
    """Both ways to run tasks."""
    if request.param is run_on_ray:
        request.getfixturevalue("cluster")
    return request.param


def test_a_killed_worker_costs_nothing_and_changes_nothing(sources, rule, expected, tmp_path, run):
    out, ended = tmp_path / "out", []
    rule[1].write_text("1")
    assert run(tasks(sources, rule[0], out), 2, on_progress=lambda progress: ended.append((progress.scene, progress.ended)))
    assert len(expected) == 4 and curves(out) == expected
    assert rule[1].read_text() == "0" and len(rewinds(out)) >= 1  # it did kill, and a run went on from a checkpoint
    assert {("first", "Deadly"), ("second", "Deadly"), ("first", "adam")} <= set(ended)
    assert not list(out.rglob("*.checkpoint"))
    if run is run_in_processes and hasattr(os, "sched_setaffinity"):
        shares = {tuple(cell.header["machine"]["usable_cores"]) for cell in read_cells(out)}
        assert shares <= set(split_cores(usable_cores(), 2))


@pytest.mark.parametrize("workers, shares", [(1, [(0, 2, 3, 5)]), (3, [(0,), (2,), (3, 5)]), (5, [(0,), (2,), (3,), (5,), (0,)])])
def test_workers_share_the_cores(workers, shares):
    assert split_cores((0, 2, 3, 5), workers) == shares


def test_a_worker_that_is_always_killed_and_errors_end_the_call(sources, rule, tmp_path):
    rule[1].write_text("99")
    with pytest.raises(BackendError, match=f"the worker of second, seed 0 was killed {MAX_ATTEMPTS} times"):
        run_in_processes(tasks(sources[1:], rule[0], tmp_path / "out"), 1)
    gone = [SceneSource("gone", partial(load_scene, tmp_path / "gone"))]
    with pytest.raises(ValueError, match="gone"):
        run_in_processes(tasks(gone, "adam-tuned", tmp_path / "out"), 1)


def test_a_stopped_call_is_saved_and_goes_on(sources, rule, expected, tmp_path, run):
    out = tmp_path / "out"
    rule[1].write_text("0")
    assert not run(tasks(sources[:1], rule[0], out), 2, should_stop=lambda: any(cell.points for cell in read_cells(out)))
    assert len(curves(out)) < 2 and list(out.rglob("state.safetensors"))  # stopped before the first second, after which it saves by itself
    assert run(tasks(sources[:1], rule[0], out), 2)
    assert curves(out) == {key: value for key, value in expected.items() if key[0] == "first"}


def test_tasks_that_make_no_sense(sources, tmp_path):
    for seeds, which, message in ((0, sources, "at least one"), (1, [], "at least one"), (1, sources[:1] * 2, "two scenes are called first")):
        with pytest.raises(OptionError, match=message):
            tasks(which, "nominal", tmp_path, seeds)
    with pytest.raises(OptionError, match="workers"):
        run_in_processes(tasks(sources, "nominal", tmp_path), 0)

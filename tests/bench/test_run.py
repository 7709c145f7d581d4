"""Running a comparison: the same start and views for all, equal seconds, nothing lost and nothing done twice, and no optimizer can spoil the rest."""

import json
import math
from dataclasses import replace

import pytest
from odd_rules import STEP_SECONDS
from tiny_scenes import tiny_scene

from learn2splat.bench import Budget, Protocol, read_cells, run_bench, run_group
from learn2splat.errors import CheckpointError, OptionError
from learn2splat.scenes.views import choose_views

PROTOCOL = Protocol(budget=Budget.parse("steps:12"), long_side=None, max_points=30, views_per_step=2)
TIMED = replace(PROTOCOL, budget=Budget.parse("adam:12"))
MARKS = [0, 1, 2, 3, 5, 10, 12]


def bench(out, optimizers, protocol=PROTOCOL, scenes=None, **options):
    return run_bench(scenes or [tiny_scene(6)], optimizers, protocol, out, **options)


def cells(out):
    return {(cell.label, cell.seed): cell for cell in read_cells(out)}


def curve(cell):
    return [(p.step, p.psnr, p.ssim) for p in cell.points]


def test_all_start_from_the_same_and_see_the_same(tmp_path, clock):
    assert bench(tmp_path, ["nominal", "adam", "twin"], seeds=2)
    found = cells(tmp_path)
    for seed in (0, 1):
        curves = [curve(found[label, seed]) for label in ("nominal", "adam", "twin")]
        assert curves[0] == curves[2] != curves[1]  # an equal rule gets equal numbers, so starts, views and seeds are equal
        assert curves[0][0] == curves[1][0]
    assert curve(found["nominal", 0])[0] != curve(found["nominal", 1])[0]
    assert all(cell.status == "done" and cell.end["steps"] == 12 for cell in found.values())
    assert set(MARKS) <= {p.step for p in found["adam", 0].points}


def test_pictures_are_those_of_the_first_seed(tmp_path, clock):
    bench(tmp_path, ["nominal"], seeds=2)
    found = cells(tmp_path)
    assert all(found["nominal", 0].path.with_name(p.picture).stat().st_size > 100 for p in found["nominal", 0].points)
    assert all(p.picture is None for p in found["nominal", 1].points)
    assert found["nominal", 0].header["scene"]["shown_photo"] == "view_00.png"
    assert (found["nominal", 0].path.parents[1] / "photo.png").exists()


def test_everyone_gets_the_seconds_of_the_reference(tmp_path, clock):
    assert bench(tmp_path, ["slow", "nominal", "adam"], TIMED)
    found = {label: cell.end for (label, _), cell in cells(tmp_path).items()}
    assert found["adam"]["steps"] == found["nominal"]["steps"] == 12
    assert found["adam"]["seconds"] == pytest.approx(12 * STEP_SECONDS)
    assert found["slow"]["steps"] == 3 and found["slow"]["seconds"] == pytest.approx(12 * STEP_SECONDS)  # steps of 4 x the time
    assert found["slow"]["update_seconds"] == pytest.approx(3 * 3.5 * STEP_SECONDS)
    assert found["adam"]["cpu_seconds"] == pytest.approx(found["adam"]["seconds"] / 2)


def test_a_budget_of_seconds_is_exceeded_by_less_than_a_step(tmp_path, clock):
    bench(tmp_path, ["nominal", "slow"], replace(PROTOCOL, budget=Budget.parse("seconds:0.95")))
    found = {label: cell.end for (label, _), cell in cells(tmp_path).items()}
    assert 0.95 <= found["nominal"]["seconds"] < 0.95 + STEP_SECONDS and found["nominal"]["steps"] == 8
    assert 0.95 <= found["slow"]["seconds"] < 0.95 + 4 * STEP_SECONDS and found["slow"]["steps"] == 2


def test_nobody_runs_ahead_of_the_others_by_more_than_a_slice(tmp_path, clock):
    ahead = []
    protocol = replace(PROTOCOL, budget=Budget.parse("steps:40"))

    def note(progress):
        ahead.append([lane.seconds for lane in progress.lanes if lane.status != "done"])

    bench(tmp_path, ["nominal", "twin", "slow"], protocol, on_progress=note)
    gaps = [max(seconds) - min(seconds) for seconds in ahead if len(seconds) > 1]
    assert 0.9 < max(gaps) < 1.0 + 4 * STEP_SECONDS + 1e-9  # SLICE_SECONDS and a step


def test_progress_is_a_part_of_the_budget(tmp_path, clock):
    told = []
    bench(tmp_path, ["adam", "nominal", "slow"], replace(PROTOCOL, budget=Budget.parse("adam:40")), on_progress=told.append)
    assert [lane.status for lane in told[0].lanes] == ["waiting"] * 3 and [p.ended for p in told if p.ended] != []
    for progress in told:
        for lane in progress.lanes:
            assert lane.fraction == pytest.approx(min(1.0, lane.seconds / (40 * STEP_SECONDS)))  # steps of one length: known from the first on
    assert [lane.status for lane in told[-1].lanes] == ["done"] * 3


def stopping(times):
    """Asked before every step: says stop at the `times`-th."""
    count = iter(range(10**9))
    return lambda: next(count) >= times


def test_stopped_anywhere_the_same_call_goes_on_to_the_same_numbers(tmp_path, clock):
    bench(tmp_path / "whole", ["nominal", "adam"], seeds=2)
    stops = 0
    while not bench(tmp_path / "parts", ["nominal", "adam"], seeds=2, should_stop=stopping(9)):
        stops += 1
        assert stops < 40
    assert stops > 4
    whole, parts = cells(tmp_path / "whole"), cells(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    for key in whole:
        assert curve(parts[key]) == curve(whole[key])
        assert parts[key].end["seconds"] == pytest.approx(whole[key].end["seconds"])
    assert not list((tmp_path / "parts").rglob("*.checkpoint"))


class Killed(BaseException):
    """As a process that is killed: nothing gets to be saved."""


def test_killed_anywhere_the_same_call_goes_on_to_the_same_numbers(tmp_path, clock):
    protocol = replace(PROTOCOL, budget=Budget.parse("steps:60"))
    bench(tmp_path / "whole", ["nominal", "adam"], protocol)

    def kill():
        def count(progress, seen=[]):  # noqa: B006 - the count of this run
            seen.append(progress)
            if len(seen) > 9:
                raise Killed

        return count

    with pytest.raises(Killed):
        bench(tmp_path / "parts", ["nominal", "adam"], protocol, save_every=2.5, on_progress=kill())
    assert list((tmp_path / "parts").rglob("state.safetensors"))
    before = cells(tmp_path / "parts")["nominal", 0]
    assert before.status == "running" and before.points[-1].step > 0
    assert bench(tmp_path / "parts", ["nominal", "adam"], protocol)
    whole, parts = cells(tmp_path / "whole"), cells(tmp_path / "parts")
    assert [curve(parts[key]) for key in whole] == [curve(whole[key]) for key in whole]
    assert "rewind" in before.path.read_text()


def test_finished_cells_are_not_made_again_and_new_ones_join(tmp_path, clock):
    bench(tmp_path, ["nominal"])
    path = cells(tmp_path)["nominal", 0].path
    before = path.read_bytes(), path.stat().st_mtime_ns
    bench(tmp_path, ["nominal", "adam"], seeds=2)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert len(cells(tmp_path)) == 4


def test_groups_alone_are_those_of_the_whole(tmp_path, clock):
    scenes = [tiny_scene(6), tiny_scene(6, seed=1, name="other")]
    bench(tmp_path / "whole", ["nominal"], scenes=scenes, seeds=2)
    for scene, seed in ((scenes[1], 1), (scenes[0], 0), (scenes[1], 0), (scenes[0], 1)):
        assert run_group(scene, seed, ["nominal"], PROTOCOL, tmp_path / "groups")
    whole, groups = ([(c.scene, c.seed, curve(c)) for c in read_cells(tmp_path / name)] for name in ("whole", "groups"))
    assert whole == groups and len(whole) == 4


def test_an_optimizer_that_raises_is_a_row_and_is_tried_again(tmp_path, clock):
    assert bench(tmp_path, ["nominal", "raises"])
    found = cells(tmp_path)
    assert found["nominal", 0].status == "done"
    failed = found["raises", 0]
    assert failed.status == "failed" and failed.end["steps"] == 5 and "odd_rules.py" in failed.end["where"]
    assert failed.end["error"] == "ZeroDivisionError: of a rule of one's own"
    bench(tmp_path, ["nominal", "raises"])
    assert failed.path.read_text().count('"kind": "cell"') == 2
    assert found["nominal", 0].path.read_text().count('"kind": "cell"') == 1


def test_an_optimizer_that_diverges_ends_with_its_last_sound_state(tmp_path, clock):
    assert bench(tmp_path, ["nominal", "diverges"])
    nominal, diverged = cells(tmp_path)["nominal", 0], cells(tmp_path)["diverges", 0]
    assert diverged.status == "diverged" and diverged.finished and diverged.points[-1].step == diverged.end["steps"] == 5
    assert not math.isnan(diverged.points[-1].psnr)
    assert curve(diverged)[:4] == curve(nominal)[:4]


def test_a_reference_that_diverges_still_sets_the_time(tmp_path, clock):
    bench(tmp_path, ["diverges", "nominal"], replace(PROTOCOL, budget=Budget.parse("diverges:12")))
    found = cells(tmp_path)
    assert found["diverges", 0].end["seconds"] == pytest.approx(6 * STEP_SECONDS)  # the step that diverged took its time too
    assert found["nominal", 0].status == "done" and found["nominal", 0].end["seconds"] == pytest.approx(6 / 5 * 12 * STEP_SECONDS, abs=STEP_SECONDS)


def test_without_the_time_of_the_reference_nobody_runs(tmp_path, clock):
    assert bench(tmp_path, ["raises", "nominal"], replace(PROTOCOL, budget=Budget.parse("raises:12")))
    found = cells(tmp_path)
    assert found["raises", 0].status == found["nominal", 0].status == "failed"
    assert "raises failed, whose time is the budget of all" in found["nominal", 0].end["error"]


def test_results_of_other_photos_are_refused(tmp_path, clock):
    bench(tmp_path, ["nominal"])
    with pytest.raises(CheckpointError, match=r"seed0.jsonl holds a result with other values of photos or cameras"):
        bench(tmp_path, ["nominal"], scenes=[tiny_scene(6, seed=1)])


RULE = """
from learn2splat import make_optimizer
from learn2splat.optimizers import UpdateRule
class Rule(UpdateRule):
    name = "rule"
    def init(self, gaussians, task, generator):
        self.inner = make_optimizer("nominal")
        return self.inner.init(gaussians, task, generator)
    def step(self, gaussians, grads, state):
        return self.inner.step(gaussians, grads, state)
"""


def test_results_of_code_that_was_edited_are_refused(tmp_path, clock):
    file = tmp_path / "rule.py"
    file.write_text(RULE.replace("return self.inner.step", "raise ValueError  # "))
    bench(tmp_path / "out", [f"{file}:Rule"])
    assert cells(tmp_path / "out")["Rule", 0].status == "failed"
    file.write_text(RULE)  # what failed may be mended
    bench(tmp_path / "out", [f"{file}:Rule", "nominal"])
    found = cells(tmp_path / "out")
    assert found["Rule", 0].status == "done" and curve(found["Rule", 0]) == curve(found["nominal", 0])
    file.write_text(RULE.replace("gaussians, grads, state)\n", "gaussians, grads.map(lambda g: 2 * g), state)\n"))
    with pytest.raises(CheckpointError, match="other values of code of the optimizer"):
        bench(tmp_path / "out", [f"{file}:Rule"])


def test_what_makes_no_sense_is_refused(tmp_path, clock):
    with pytest.raises(OptionError, match="seeds must be at least 1"):
        bench(tmp_path, ["nominal"], seeds=0)
    with pytest.raises(OptionError, match="two scenes are called tiny"):
        bench(tmp_path, ["nominal"], scenes=[tiny_scene(6), tiny_scene(6)])


def test_sparse_views_are_chosen_once_and_written_down(tmp_path, clock):
    sparse = replace(PROTOCOL, context_views=3)
    bench(tmp_path, ["nominal"], sparse, seeds=2)
    index = tmp_path / sparse.key / "tiny" / "views.json"
    entry = json.loads(index.read_text())["tiny"]
    scene = tiny_scene(6)
    assert (tuple(entry["context"]), tuple(entry["target"])) == choose_views(scene, 3)
    assert all(cell.header["scene"]["context"] == 3 for cell in read_cells(tmp_path))

    entry["context"], entry["target"] = [1, 2], [3]  # an index file of someone else's
    other = tmp_path / "other" / sparse.key / "tiny" / "views.json"
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps({"tiny": entry}))
    bench(tmp_path / "other", ["nominal"], sparse)
    assert read_cells(tmp_path / "other")[0].header["scene"]["context"] == 2

    with pytest.raises(OptionError, match="context views must be 1 to 5"):
        bench(tmp_path / "third", ["nominal"], replace(PROTOCOL, context_views=6))


def test_every_result_says_how_it_was_made(tmp_path, clock):
    bench(tmp_path, ["nominal"], command=["learn2splat", "bench"])
    header = cells(tmp_path)["nominal", 0].header
    assert header["protocol"]["budget"] == "steps:12" and header["protocol"]["long_side"] is None and header["command"] == ["learn2splat", "bench"]
    assert {"cpu", "cores", "threads", "native_threads", "torch", "learn2splat", "python"} <= header["machine"].keys()
    assert header["scene"]["gaussians"] == 30 and header["scene"]["photo_sizes"] == [[32, 24]] and header["load"] is not None
    end = cells(tmp_path)["nominal", 0].end
    assert end["lpips_vgg"] is None and end["lpips_missing"]

"""The plan of a run: sizes, growth and the end, from what is known at the start."""

import json

import pytest

from learn2splat.errors import CheckpointError, OptionError
from learn2splat.fitting.plan import OPEN_SECONDS, Plan, flat_plan, make_plan
from learn2splat.fitting.settled import has_settled

SIZES = [(640, 480)] * 20


def test_photos_grow_from_coarse_to_fine_and_gaussians_until_well_before_the_average():
    plan = make_plan(SIZES, 5000, seconds=60, step_seconds=0.3)
    assert [stage.long_side for stage in plan.stages] == [160, 320, 640]
    assert [stage.until for stage in plan.stages] == pytest.approx([0.06, 0.36, 1.0])
    targets = [growth.target for growth in plan.growth]
    assert targets == sorted(targets) and targets[0] > 5000 and plan.growth[-1].at <= 0.6 < plan.average_from
    assert [plan.stage(p) for p in (0, 0.05, 0.06, 0.35, 0.36, 1.0)] == [0, 0, 1, 1, 2, 2]
    assert [plan.due(p) for p in (0.0, 0.6, 1.0)] == [0, len(targets), len(targets)]


def test_steps_spend_the_same_share_of_time_at_each_size_as_seconds_do():
    """A step costs as many pixels as it renders, and as 20 000 more per photo."""
    plan = make_plan(SIZES, 5000, steps=300)
    bounds = [0.0, *(stage.until for stage in plan.stages)]
    times = [(b - a) * stage.views_per_step * (0.75 * stage.long_side**2 + 20_000) for a, b, stage in zip(bounds, bounds[1:], plan.stages)]
    assert [time / sum(times) for time in times] == pytest.approx([0.06, 0.3, 0.64], rel=1e-3)


def test_more_time_is_good_for_more_gaussians_and_a_limit_is_kept():
    def final(**options):
        return make_plan(SIZES, 5000, step_seconds=0.3, **options).growth[-1].target

    assert final(seconds=30) < final(seconds=60) < final(seconds=600)
    assert final(seconds=600, max_gaussians=7000) == 7000
    assert make_plan(SIZES, 5000, seconds=60, density="none").growth == ()


def test_a_machine_too_slow_for_the_full_size_ends_at_a_smaller_one():
    fast, slow = (make_plan(SIZES, 5000, seconds=30, step_seconds=seconds) for seconds in (0.3, 3.0))
    assert fast.stages[-1].long_side == 640 and slow.stages[-1].long_side < 640
    assert make_plan(SIZES, 5000, seconds=30, step_seconds=3.0, num_downscales=1).stages[-1].long_side == 640  # asked for


def test_progress_follows_what_limits_the_run():
    assert flat_plan(640, steps=10, seconds=None, views_per_step=8).progress(5, 1e9) == 0.5
    assert flat_plan(640, steps=None, seconds=10, views_per_step=8).progress(10**9, 2.5) == 0.25
    assert flat_plan(640, steps=10, seconds=10, views_per_step=8).progress(2, 4) == 0.4
    assert flat_plan(640, steps=0, seconds=None, views_per_step=8).progress(0, 0) == 1


def test_an_open_run_waits_until_it_has_settled_and_ends_after_its_tail():
    plan = make_plan(SIZES, 5000)
    assert plan.open_ended and plan.seconds == OPEN_SECONDS
    assert plan.progress(10**6, 10.0) == pytest.approx(plan.average_from)
    assert plan.progress(5000, 10.0, settled_at=5000) == pytest.approx(plan.average_from)
    assert plan.progress(5000 + plan.tail_steps, 10.0, settled_at=5000) == 1
    assert plan.progress(100, OPEN_SECONDS) == 1  # never endless


def test_a_plan_survives_json():
    for plan in (make_plan(SIZES, 5000, seconds=60, step_seconds=0.3), make_plan(SIZES, 5000)):
        assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    with pytest.raises(CheckpointError, match="another version"):
        Plan.from_json({"stages": [{"from": 0}]})


def test_a_longer_budget_leaves_the_past_where_it_was():
    plan = make_plan(SIZES, 5000, steps=100)
    longer = plan.extended(400, None)
    assert [stage.until * 400 for stage in longer.stages[:-1]] == pytest.approx([stage.until * 100 for stage in plan.stages[:-1]])
    assert [growth.at * 400 for growth in longer.growth] == pytest.approx([growth.at * 100 for growth in plan.growth])
    assert longer.stages[-1].until == 1 and longer.steps == 400 and plan.extended(100, None) == plan


def test_a_run_has_settled_when_its_loss_falls_no_more():
    falling = [0.2 * 0.995**k for k in range(600)]
    assert not any(has_settled(falling[:n], 4, 20) for n in range(1, 600))
    flat = falling + [falling[-1]] * 600
    first = next(n for n in range(1, len(flat)) if has_settled(flat[:n], 4, 20))
    assert 650 < first < 1200
    assert not has_settled([0.1] * 60, 4, 20)  # too little to tell


@pytest.mark.parametrize("options", [{"num_downscales": 4}, {"num_downscales": -1}, {"max_gaussians": 0}])
def test_what_makes_no_sense_is_a_sentence(options):
    with pytest.raises(OptionError):
        make_plan(SIZES, 5000, steps=10, **options)


def test_a_start_grows_by_half_at_least_and_never_shrinks():
    assert make_plan(SIZES, 60_000, steps=10).growth[-1].target == 90_000
    assert make_plan(SIZES, 200_000, steps=10).growth == ()  # nothing to add


def test_a_splat_is_watched_before_it_is_moved():
    plan = make_plan(SIZES, 5000, steps=100, warm=True)
    assert [plan.share(step) for step in (0, 9, 10, 13, 17, 99)] == [0, 0, 0.125, 0.5, 1, 1]
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert make_plan(SIZES, 5000, steps=100).share(0) == 1

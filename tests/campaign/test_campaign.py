"""A small seeded share of the campaign (README of it: campaign.py). 40 s of processor time at most."""

import fuzz
import jobs
import kills
import pytest
import trouble
from corpus import FORMATS
from tiny_scenes import write_colmap

# Cases of the whole campaign that went wrong when they were first run: each a kind of its own, mended where its name says.
FOUND = {
    "transforms.json": (5,),  # scenes/_cloud.py: lists for colours
    "cells of bench": (40, 47, 144, 1046, 1107, 1116),  # bench/store.py, bench/stats.py: odd headers, points without a time, clocks without a part
    "cameras: transforms.json": (365,),  # cli/camera_files.py: numbers beyond float32
    "save of train": (661, 675),  # meta/resume.py: sealed, but of another program
}


@pytest.fixture(autouse=True)
def _threads(one_thread):
    """Children are forked."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_colmap(tmp_path_factory.mktemp("scene") / "tiny", 6)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_any_file_gives_a_result_or_a_sentence(form):
    cases = [*FOUND.get(form.name, ()), *range(10**6, 10**6 + 20)]  # numbers that the campaign does not reach
    tally = fuzz.run_cases(form, cases)
    assert not tally.failures and sum(tally.counts.values()) == len(cases)


def test_killed_at_boundaries_of_a_save(scene, tmp_path):
    trial = kills.Trial(jobs.fit_job(scene, "nominal", "error", steps=8), tmp_path)
    assert trial.boundaries > 50
    for number in (0, trial.boundaries // 3, trial.boundaries - 2):
        done, wrong = trial.at_boundary([number, number // 2])
        assert done and not wrong, (number, wrong)


def test_bench_killed_while_it_writes_what_seeds_share(tmp_path):
    """The first writes of a group: views.json and photo.png."""
    scenes = [write_colmap(tmp_path / "scenes" / "one", 6)]
    trial = kills.Trial(jobs.bench_job(scenes), tmp_path)
    for numbers in ([3], [12, 40]):
        assert trial.at_boundary(numbers) == (len(numbers), "")


def test_full_disks_and_two_processes(scene, tmp_path):
    trial = trouble.Troubled(jobs.fit_job(scene, "nominal", "none", steps=6), tmp_path)
    assert trial.two_at_once() == ""
    assert [text for number in (0, 2, 5) if (text := trial.full_disk(number))] == []

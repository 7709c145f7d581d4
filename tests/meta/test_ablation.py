"""The ablation: each variant adds what its name says, a stopped one goes on, and the table says what was measured."""

import re
from dataclasses import asdict, replace
from itertools import pairwise

import pytest

from learn2splat import errors
from learn2splat.cli import main
from learn2splat.cli.ablate import Ablate
from learn2splat.meta import ablation
from learn2splat.meta.ablation import MARKS, Outcome, ablate, table, variants
from learn2splat.scenes import load_scene


def test_each_variant_adds_one_ingredient():
    rows = [asdict(config) for config in variants(100).values()]
    changes = [{key for key in after if after[key] != before[key]} for before, after in pairwise(rows[:5])]
    assert changes == [{"buffer"}, {"rollout"}, {"magnitude"}, {"delta_weight", "stability_weight"}]
    assert {row["scheme"] for row in rows[:5]} == {"greedy"} and rows[5]["scheme"] == "horizon"
    assert len({(row["width"], row["meta_steps"], row["lr"], row["scenes_per_step"]) for row in rows}) == 1  # equal budgets


def test_a_stopped_ablation_goes_on_and_does_nothing_twice(tiny, photos, tmp_path, monkeypatch):
    two = {"one": tiny, "two": tiny}
    monkeypatch.setattr(ablation, "variants", lambda meta_steps: two)
    scene = load_scene(photos, long_side=24)
    said, calls = [], iter([False] * 8 + [True] * 100)
    options = {"data": [], "meta_steps": 6, "steps": 10, "seeds": 1, "max_points": 20, "say": said.append}
    two["one"] = two["two"] = replace(tiny, procedural_share=1.0, procedural_pool=1)
    stopped = ablate(tmp_path, [scene], should_stop=lambda: next(calls), **options)
    assert [outcome.variant for outcome in stopped] == ["nominal", "one"] and said == ["nominal, seed 0", "one, seed 0", "two, seed 0"]
    outcomes = ablate(tmp_path, [scene], **options)
    assert said[3:] == ["two, seed 0"]
    assert [outcome.variant for outcome in outcomes] == ["nominal", "one", "two"] and outcomes[:2] == stopped
    for other in ({"max_points": 10}, {"steps": 11}, {"meta_steps": 7}):
        with pytest.raises(errors.OptionError, match=f"holds an ablation with other {next(iter(other))}"):
            ablate(tmp_path, [scene], **{**options, **other})
    with pytest.raises(errors.OptionError, match="with other scenes"):
        ablate(tmp_path, [load_scene(photos, long_side=20)], **options)
    assert outcomes[1].psnr == outcomes[2].psnr != outcomes[0].psnr and len(outcomes[0].psnr) == 2  # the same configuration and seed


def test_the_table_shows_peak_end_and_divergence():
    fine = [Outcome("fine", seed, tuple(20.0 + seed + (i == 8) for i in range(len(MARKS)))) for seed in range(2)]
    lines = table([*fine, Outcome("wild", 0, (*range(10, 20), None))]).splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["fine", "20.50", "20.50", "21.50", "20.50 &plusmn; 0.71", "-1.00"]
    assert re.search(r"wild .* DIV \| DIV \|$", lines[3])


def test_scenes_of_the_training_are_refused(photos, tmp_path, capsys):
    assert main(["ablate", "--out", str(tmp_path), "--data", str(photos), "--scenes", str(photos)]) == 2
    assert "have not seen" in capsys.readouterr().err
    with pytest.raises(errors.OptionError):
        Ablate(out=tmp_path, steps=5).run()

"""The baseline G3R* is trained by the same loop: from the start of a scene, over its whole horizon, nothing stored."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tiny_config import TINY

from learn2splat.errors import OptionError
from learn2splat.meta import PRESETS, MetaConfig, train
from learn2splat.optimizers import make_optimizer

SIZES = {name: TINY[name] for name in ("width", "seed", "meta_steps", "scenes_per_step", "long_sides", "points", "views_per_step", "lr")}


def test_training_leaves_weights_with_the_horizon_in_them(photos, tmp_path):
    config = replace(PRESETS["g3r"], **SIZES, procedural_share=0.0, procedural_pool=3, unroll=(3, 3), late_unroll=3, blocks=1)
    result = train(config, tmp_path, data=[photos])
    rule = make_optimizer("g3r", weights=result.weights)
    assert rule.config.horizon == 3 and rule.config.width == 8
    assert rule.network.delta_head[2].weight.abs().max() > 0  # it was zero
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [1, 2, 3, 4, 5, 6]
    assert all(entry["ages"] == [0, 0] and entry["inner_steps"] == 6 and entry["skipped"] == 0 for entry in log)


def test_the_preset_and_what_it_excludes():
    preset = PRESETS["g3r"]
    assert preset.scheme == "greedy" and preset.unroll == (24, 24) and preset.buffer == preset.rollout == 0
    for wrong in ({"buffer": 3}, {"delta_weight": 1.0}, {"stability_weight": 1.0}, {"scheme": "horizon"}):
        with pytest.raises(OptionError, match="the baseline g3r"):
            replace(preset, **wrong)
    with pytest.raises(OptionError, match="the baseline g3r"):
        MetaConfig(architecture="g3r")

"""The ablation of docs/method.md section 6 at a small scale: what each ingredient of meta-training does to long runs.

Every variant is meta-trained from scratch with equal meta-steps and seeds, then fits scenes it has never seen for `steps` steps. Variants are
cumulative: each has the ingredients of the one before. The paper's error features are left out: they belong to another initializer.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ..errors import OptionError
from ..files import WRITTEN_BY, atomic_write, is_ours, parse_json, read_json, to_json
from ..fitting import fit
from ..fitting.checkpoint import scene_digest
from ..gaussians import init_from_points
from ..optimizers import make_optimizer
from ..scenes import Scene
from .config import PRESETS, MetaConfig, with_scheme
from .trainer import MetaStep, has_save, train

# Sizes with which 18 trainings take an hour, not days, and a rule without the fading of `anchored.trust` and of pulls: that would lead every
# variant back to `nominal` late, whatever its training did.
SMALL = {
    "long_sides": (64, 80, 96), "points": (300, 1200), "procedural_pool": 48, "max_graph": 32_000,
    "few_age": 1e9, "pull_age": 1e9, "trust_age": 1e9, "decay_anisotropy": 0.0, "decay_shN": 0.0,
}  # fmt: skip
UNTRAINED = "nominal"  # The row to compare with: the rule that `anchored` starts as.
OPTIONS, WRITER = "ablation.json", "learn2splat ablate"
MARKS = (0, 10, 30, 100, 200, 300, 500, 700, 1000, 1500, 2000)


def variants(meta_steps: int) -> dict[str, MetaConfig]:
    """Name -> configuration of each row, in the order of the table."""
    base = replace(PRESETS["cpu"], meta_steps=meta_steps, **SMALL)
    greedy = replace(with_scheme(base, "greedy"), rollout_growth=max(1, meta_steps // 2), delta_from=min(100, meta_steps // 10))
    plain = replace(greedy, buffer=0, rollout=0, magnitude=False, delta_weight=0.0, stability_weight=0.0)
    # A buffer of 20 would not fill within a short run, and the paper resumes from a full one only.
    buffer = replace(plain, buffer=4)
    rollout = replace(buffer, rollout=greedy.rollout)
    scale = replace(rollout, magnitude=True)
    losses = replace(scale, delta_weight=greedy.delta_weight, stability_weight=greedy.stability_weight)
    return {
        "greedy": plain,
        "+ checkpoint buffer": buffer,
        "+ rollout": rollout,
        "+ state scale": scale,
        "+ delta, stability losses": losses,
        "horizon": base,
    }


@dataclass(frozen=True)
class Outcome:
    """One variant and seed: held-out PSNR (dB) at `MARKS`, mean over the scenes; None where a run had diverged."""

    variant: str
    seed: int
    psnr: tuple[float | None, ...]

    @property
    def peak(self) -> float:
        return max(value for value in self.psnr if value is not None)


def ablate(
    out: Path,
    scenes: Sequence[Scene],
    *,
    data: Sequence[Path],
    meta_steps: int,
    steps: int,
    seeds: int,
    max_points: int,
    say: Callable[[str], None],
    on_step: Callable[[MetaStep], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Outcome]:
    """Train and evaluate every variant that `out` does not have yet; a stopped one goes on where it was.

    Args:
        scenes: to evaluate on; none of `data`.
        steps: of each fit.
        max_points: of each fit's start.
        say: told what begins.

    Raises:
        OptionError: `out` is the folder of something else, or of an ablation with other options (`seeds` may differ).
        What `train` raises.
    """
    same = {
        "meta_steps": meta_steps,
        "steps": steps,
        "max_points": max_points,
        "scenes": {scene.name: scene_digest(scene) for scene in scenes},
        "data": sorted(path.name for path in data),
        "variants": {name: asdict(config) for name, config in variants(meta_steps).items()},
    }
    _check_options(out, same)
    outcomes = []
    for seed in range(seeds):
        for name, config in {UNTRAINED: None, **variants(meta_steps)}.items():
            folder = out / f"{name.strip('+ ').replace(', ', '-').replace(' ', '-')}-{seed}"
            result = folder / "outcome.json"
            if not result.exists():
                say(f"{name}, seed {seed}")
                weights = None
                if config is not None:
                    resume = has_save(folder)
                    ended = train(replace(config, seed=seed), folder, data=data, resume=resume, on_step=on_step, should_stop=should_stop)
                    if not ended.finished:
                        return outcomes
                    weights = ended.weights
                psnr = evaluate(weights, scenes, steps=steps, max_points=max_points, seed=seed)
                atomic_write(result, to_json(asdict(Outcome(name, seed, psnr))))
            stored = read_json(result)
            outcomes.append(Outcome(stored["variant"], stored["seed"], tuple(stored["psnr"])))
    return outcomes


def _check_options(out: Path, options: dict) -> None:
    """Outcomes in `out` are only those of `options`; remembers them in a new folder."""
    if not is_ours(out, OPTIONS, WRITER):
        atomic_write(out / OPTIONS, to_json({WRITTEN_BY: WRITER, **options}, indent=1))
        return
    here = parse_json(to_json(options))
    saved = read_json(out / OPTIONS)
    for name, value in here.items():
        if saved.get(name) != value:
            raise OptionError(f"{out} holds an ablation with other {name}: give the options of its start, or another --out")


def evaluate(weights: Path | None, scenes: Iterable[Scene], *, steps: int, max_points: int, seed: int) -> tuple[float | None, ...]:
    """Mean over scenes of the held-out PSNR at `MARKS` up to `steps`; of the untrained rule without `weights`."""
    curves = []
    for scene in scenes:
        start = init_from_points(scene.points, scene.colors, max_points=max_points, generator=torch.Generator().manual_seed(seed))
        result = fit(scene, start, make_optimizer("learned", weights=weights) if weights else UNTRAINED, steps=steps, seed=seed, eval_at=MARKS)
        values = {point.step: point.psnr for point in result.curve}
        curves.append([None if result.diverged and mark > result.steps else values.get(mark) for mark in MARKS if mark <= steps])
    return tuple(None if None in column else statistics.mean(column) for column in zip(*curves))


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: PSNR at 10 and 100 steps, at the peak and at the end, means over seeds with the standard deviation of the last."""
    last = len(outcomes[0].psnr) - 1
    lines = [f"| variant | 10 | 100 | peak | end ({MARKS[last]}) | end - peak |", "|---|---:|---:|---:|---:|---:|"]
    for name in dict.fromkeys(outcome.variant for outcome in outcomes):
        rows = [outcome for outcome in outcomes if outcome.variant == name]

        def mean(values: list[float | None]) -> str:
            return "DIV" if None in values else f"{statistics.mean(values):.2f}"

        ends = [row.psnr[last] for row in rows]
        spread = f" &plusmn; {statistics.stdev(ends):.2f}" if len(ends) > 1 and None not in ends else ""
        drops = [None if row.psnr[last] is None else row.psnr[last] - row.peak for row in rows]
        at = [mean([row.psnr[MARKS.index(mark)] for row in rows]) if MARKS.index(mark) <= last else "" for mark in (10, 100)]
        lines.append(f"| {name} | {at[0]} | {at[1]} | {mean([row.peak for row in rows])} | {mean(ends)}{spread} | {mean(drops)} |")
    return "\n".join(lines)

"""Random search for the constants of `adam-auto` and `nominal` on training scenes.

    python benchmarks/search_rates.py run --out runs/rates.jsonl --scenes bust kermit lund entry_p10     # 60 settings, 300 steps
    python benchmarks/search_rates.py run --out runs/rates.jsonl --scenes bust kermit lund entry_p10 --steps 1000 --best 15
    python benchmarks/search_rates.py summary --out runs/rates.jsonl

A run is one rule with one setting on one scene for one number of steps, at a small size (long side 96 px, 1500 points, seed 0). Setting 0 is the rule
as it is; the others draw every constant log-uniformly from `SPACES`, setting k always the same way. Every finished run appends one line to `--out`,
and runs that are there are never done again: stop it (Ctrl-C) and start it again at will. `--best 15` runs only the 15 settings of each rule that
lead at the steps searched before: long runs are for those that have a chance.

Only scenes whose role in SOURCES.md is `train` are taken.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import re
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from learn2splat import fit, load_scene, make_optimizer
from learn2splat.gaussians import init_from_points

LONG_SIDE, MAX_POINTS, VIEWS_PER_STEP, SEED = 96, 1500, 8, 0

# (middle, lowest factor, highest factor), log-uniform between. The middles are the learning rates of docs/method.md section 5 and the constants of
# a prototype of `nominal`, written out: the settings must stay the same when the defaults of the rules change.
SPACES: dict[str, dict[str, tuple[float, float, float]]] = {
    "adam-auto": {
        "means": (1.6e-4, 3, 60),
        "quats": (1e-3, 0.5, 8),
        "log_scales": (5e-3, 1, 15),
        "logit_opacities": (5e-2, 0.25, 4),
        "sh0": (2.5e-3, 1, 12),
        "shN": (1.25e-4, 0.4, 8),
    },
    "nominal": {
        "means": (8e-4, 0.25, 4),
        "quats": (5e-3, 0.25, 4),
        "log_scales": (1.5e-2, 0.25, 4),
        "logit_opacities": (0.1, 0.25, 4),
        "sh0": (1e-2, 0.25, 4),
        "shN": (6e-4, 0.25, 4),
    },
}
BETA1, BETA2 = (0.8, 0.9, 0.95), (0.99, 0.995, 0.999)
MEANS_FINAL = (0.03, 1.0)  # Of adam-auto: half of the settings decay the means to a share drawn from here, half not at all.
SEARCHED = {rule: [*space, "beta1", "beta2", *(["means_final"] if rule == "adam-auto" else [])] for rule, space in SPACES.items()}


@dataclass(frozen=True)
class Run:
    """What one line of the file is about; equal runs are done once."""

    rule: str
    setting: int
    steps: int
    scene: str
    config: tuple[tuple[str, float], ...]  # options of `make_optimizer`


def setting(rule: str, k: int) -> dict[str, float]:
    """The options of setting k; 0: those that the rule has today."""
    if k == 0:
        current = asdict(make_optimizer(rule).config)
        return {name: current[name] for name in SEARCHED[rule]}
    rng = np.random.default_rng([k, sorted(SPACES).index(rule)])
    config = {name: middle * _log_uniform(rng, low, high) for name, (middle, low, high) in SPACES[rule].items()}
    config["beta1"], config["beta2"] = float(rng.choice(BETA1)), float(rng.choice(BETA2))
    if rule == "adam-auto":
        config["means_final"] = _log_uniform(rng, *MEANS_FINAL) if rng.random() < 0.5 else 1.0
    return {name: float(f"{value:.4g}") for name, value in config.items()}


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def train_scenes(root: Path) -> list[str]:
    """Names of the scenes whose role is `train`."""
    return re.findall(r"^\| *(\w+) *\| *train *\|", (root / "SOURCES.md").read_text(), flags=re.M)


def read_results(path: Path) -> dict[Run, dict]:
    """What `path` holds so far. A line that a killed process left unfinished is skipped: its run is done again."""
    results = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        results[Run(row["rule"], row["setting"], row["steps"], row["scene"], tuple(sorted(row["config"].items())))] = row
    return results


@lru_cache(maxsize=4)
def _start(root: Path, name: str):
    scene = load_scene(root / name, long_side=LONG_SIDE)
    points = init_from_points(scene.points, scene.colors, max_points=MAX_POINTS, generator=torch.Generator().manual_seed(SEED))
    return scene, points


def do(run: Run, root: Path) -> dict:
    """One run; in a process of its own with one thread."""
    torch.set_num_threads(1)
    scene, gaussians = _start(root, run.scene)
    rule = make_optimizer(run.rule, **dict(run.config))
    result = fit(scene, gaussians, rule, steps=run.steps, views_per_step=VIEWS_PER_STEP, seed=SEED, eval_at=())
    scores = {"psnr": round(result.psnr, 4), "ssim": round(result.curve[-1].ssim, 5), "diverged": result.diverged}
    return {**asdict(run), "config": dict(run.config), **scores, "seconds": round(result.seconds, 1)}


def gains(results: dict[Run, dict], steps: int) -> dict[Run, list[float]]:
    """Setting (a `Run` without scene) -> dB above the median run of each scene; only settings that ran on every scene. Diverged: minus 100 dB."""
    rows = {run: row["psnr"] - 100 * row["diverged"] for run, row in results.items() if run.steps == steps}
    by_scene, collected = defaultdict(list), defaultdict(list)
    for run, value in rows.items():
        by_scene[run.scene].append(value)
    for run, value in rows.items():
        collected[replace(run, scene="")].append(value - statistics.median(by_scene[run.scene]))
    return {key: values for key, values in collected.items() if len(values) == len(by_scene)}


def pending(arguments: argparse.Namespace, results: dict[Run, dict], names: list[str]) -> Iterator[Run]:
    """The runs that are asked for and not done, setting by setting, so that an unfinished search is already useful."""
    chosen = {rule: list(range(arguments.settings)) for rule in arguments.rules}
    if arguments.best is not None:
        before = max((run.steps for run in results if run.steps < arguments.steps), default=None)
        if before is None:
            raise SystemExit(f"--best needs finished runs of fewer than {arguments.steps} steps in {arguments.out}")
        ranked = gains({run: row for run, row in results.items() if run.scene in names}, before)
        for rule in arguments.rules:
            order = sorted((run for run in ranked if run.rule == rule and run.setting > 0), key=lambda run: -statistics.mean(ranked[run]))
            chosen[rule] = [0, *(run.setting for run in order[: arguments.best])]
    for position in range(max(map(len, chosen.values()))):
        for rule in arguments.rules:
            for k in chosen[rule][position : position + 1]:
                for name in names:
                    run = Run(rule, k, arguments.steps, name, tuple(sorted(setting(rule, k).items())))
                    if run not in results:
                        yield run


def search(arguments: argparse.Namespace) -> None:
    root = arguments.scenes_root
    known = train_scenes(root)
    names = arguments.scenes or known
    if not set(names) <= set(known):
        raise SystemExit(f"not train scenes of {root}: {', '.join(sorted(set(names) - set(known)))}")
    jobs = list(pending(arguments, read_results(arguments.out), names))
    print(f"{len(jobs)} runs to do on {', '.join(names)}")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    # spawn: a forked child would inherit locked thread pools. One thread each: small scenes gain nothing from a second one.
    executor = ProcessPoolExecutor(arguments.workers, mp_context=multiprocessing.get_context("spawn"))
    with open(arguments.out, "a+b") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")  # a killed process left half a line
        try:
            for done, future in enumerate(as_completed([executor.submit(do, run, root) for run in jobs]), start=1):
                row = future.result()
                file.write((json.dumps({**row, "commit": commit}) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
                left = (time.monotonic() - began) / done * (len(jobs) - done) / 60
                what = f"{row['rule']} {row['setting']} {row['scene']} {row['steps']} steps"
                print(f"{done}/{len(jobs)} {what}: {row['psnr']:.2f} dB, {left:.0f} min left", flush=True)
        finally:
            executor.shutdown(cancel_futures=True)


def summary(arguments: argparse.Namespace) -> None:
    results = read_results(arguments.out)
    for steps in sorted({run.steps for run in results}):
        names = sorted({run.scene for run in results if run.steps == steps})
        ranked = gains(results, steps)
        print(f"\n{steps} steps, {len(names)} scenes ({', '.join(names)}): dB above the median run of each scene, settings that ran on all of them")
        for rule in SPACES:
            order = sorted((run for run in ranked if run.rule == rule), key=lambda run: -statistics.mean(ranked[run]))
            print(f"  {rule}: {len(order)} settings")
            for rank, run in enumerate(order, start=1):
                if rank <= arguments.top or run.setting == 0:
                    psnr = statistics.mean(results[replace(run, scene=name)]["psnr"] for name in names)
                    numbers = f"mean {statistics.mean(ranked[run]):+.3f} worst {min(ranked[run]):+.3f} PSNR {psnr:.3f}"
                    note = " (as it was)" if run.setting == 0 else ""
                    print(f"  {rank:3d}. setting {run.setting}{note}: {numbers} {json.dumps(dict(run.config))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="do the runs that are missing")
    run.set_defaults(command=search)
    run.add_argument("--scenes-root", type=Path, default=Path(__file__).parents[2] / "shared" / "scenes")
    run.add_argument("--scenes", nargs="+", help="train scenes; default: all of them")
    run.add_argument("--rules", nargs="+", choices=sorted(SPACES), default=sorted(SPACES))
    run.add_argument("--settings", type=int, default=61, help="settings per rule, the rule as it is included")
    run.add_argument("--steps", type=int, default=300)
    run.add_argument("--best", type=int, help="only so many settings per rule, the best at the largest smaller number of steps")
    run.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    show = commands.add_parser("summary", help="print the best settings")
    show.set_defaults(command=summary)
    show.add_argument("--top", type=int, default=5)
    for command in (run, show):
        command.add_argument("--out", type=Path, default=Path("runs/rates.jsonl"))
    arguments = parser.parse_args()
    arguments.command(arguments)


if __name__ == "__main__":
    main()

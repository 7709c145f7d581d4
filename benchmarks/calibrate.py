"""Set the common schedule of trained weights by whole runs: short unrolled pieces reward steps that are too small late (docs/lab.md, 7 and 8).

    python benchmarks/calibrate.py run --weights runs/a/theta.safetensors --out runs/calibration.jsonl --scenes bust grocery_box lund_door
    python benchmarks/calibrate.py summary --out runs/calibration.jsonl
    python benchmarks/calibrate.py apply --weights runs/a/theta.safetensors --setting 5 --to theta.safetensors

A setting adds q_g log((1 + age / 16) / (1 + PIVOT / 16)) to the log-gain of parameter group g, through weights that the network has: the log age of
the magnitude path and the bias of the head. Setting 0 adds nothing; setting k draws a q for all groups and a smaller one for each, always the same
way. A run is one setting on one scene of role `train` (96 px, 1500 points, 1000 steps, seed 0); finished runs are appended to --out and never done
again.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch

from learn2splat import fit, load_scene, make_optimizer
from learn2splat.gaussians import init_from_points
from learn2splat.gaussians.record import FIELDS
from learn2splat.meta.tasks import roles
from learn2splat.optimizers._features import FEATURES, FIRST_AGE, LOG_UNIT, MAGNITUDE_FEATURES
from learn2splat.optimizers.anchored import Anchored
from learn2splat.optimizers.weights import load_weights, save_weights, weights_info

LONG_SIDE, MAX_POINTS, STEPS, SEED = 96, 1500, 1000, 0
MARKS = (10, 30, 100, 300, 600, 1000)
PIVOT = 30.0  # Age, steps, at which a setting changes nothing: what short pieces teach about the first steps is right.
COMMON, OWN = (0.0, 0.5), 0.1  # Uniform range of the common q; standard deviation of the groups' own.


def setting(k: int) -> list[float]:
    """q of each parameter group."""
    if k == 0:
        return [0.0] * len(FIELDS)
    rng = np.random.default_rng([7, k])
    return [round(float(q), 3) for q in rng.uniform(*COMMON) + OWN * rng.standard_normal(len(FIELDS))]


@torch.no_grad()
def calibrated(rule: Anchored, slopes: list[float]) -> Anchored:
    """The rule with the schedule changed, in place."""
    before = MAGNITUDE_FEATURES[: MAGNITUDE_FEATURES.index("log_age")]
    column = sum(FEATURES[name] for name in before)
    q = torch.tensor(slopes)
    rule.network.magnitude.weight[:, column] += LOG_UNIT * q
    rule.network.head[2].bias[: len(FIELDS)] -= q * math.log1p(PIVOT / FIRST_AGE)
    return rule


def do(weights: Path, k: int, path: Path) -> dict:
    torch.set_num_threads(1)
    scene = load_scene(path, long_side=LONG_SIDE)
    start = init_from_points(scene.points, scene.colors, max_points=MAX_POINTS, generator=torch.Generator().manual_seed(SEED))
    # -1 is the reference: nominal as it is
    rule = make_optimizer("nominal") if k < 0 else calibrated(load_weights(weights), setting(k))
    result = fit(scene, start, rule, steps=STEPS, seed=SEED, eval_at=MARKS)
    psnr = [round(p.psnr, 3) for p in result.curve]
    about = {"weights": weights.name, "sha256": weights_info(weights)["sha256"], "setting": k, "scene": path.name}
    return {**about, "psnr": psnr, "diverged": result.diverged}


def run(args: argparse.Namespace) -> None:
    known = roles(args.scenes_root)
    if wrong := [name for name in args.scenes if known.get(name) != "train"]:
        raise SystemExit(f"not scenes of role train: {', '.join(wrong)}")
    digest = weights_info(args.weights)["sha256"]  # not the file's name: every training ends with one of the same name
    done = {(row.get("sha256"), row["setting"], row["scene"]) for row in rows(args.out)}
    jobs = [(k, name) for k in args.settings for name in args.scenes if (digest, k, name) not in done]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(args.workers, mp_context=multiprocessing.get_context("spawn")) as pool, open(args.out, "a") as file:
        for future in as_completed([pool.submit(do, args.weights, k, args.scenes_root / name) for k, name in jobs]):
            file.write(json.dumps(future.result()) + "\n")
            file.flush()
            print(json.dumps(future.result()), flush=True)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


def summary(args: argparse.Namespace) -> None:
    """Means over the scenes that every setting has, minus nominal's where it was run."""
    by_setting: dict[int, dict[str, list[float]]] = {}
    for row in rows(args.out):
        by_setting.setdefault(row["setting"], {})[row["scene"]] = row["psnr"]
    scenes = sorted(set.intersection(*(set(curves) for curves in by_setting.values())))
    base = by_setting.get(-1)
    print(f"PSNR{' minus that of nominal' if base else ''} at {MARKS}, mean over {', '.join(scenes)}")
    means = {}
    for k, curves in by_setting.items():
        columns = zip(*([a - (base[s][i] if base else 0) for i, a in enumerate(curves[s])] for s in scenes))
        means[k] = [statistics.mean(column) for column in columns]
    for k, values in sorted(means.items(), key=lambda item: -item[1][-1]):
        print(f"{k:4d}  " + "  ".join(f"{v:+.2f}" for v in values) + f"   {setting(max(k, 0))}")


def apply(args: argparse.Namespace) -> None:
    provenance = {**weights_info(args.weights)["provenance"], "calibration": setting(args.setting)}
    save_weights(args.to, calibrated(load_weights(args.weights), setting(args.setting)), provenance)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    go = commands.add_parser("run", help="do the runs that are missing")
    go.add_argument("--scenes-root", type=Path, default=Path(__file__).parents[2] / "shared" / "scenes")
    go.add_argument("--scenes", nargs="+", required=True)
    go.add_argument("--settings", type=int, nargs="+", default=list(range(-1, 13)))
    go.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    show = commands.add_parser("summary", help="rank the settings by the last mark")
    make = commands.add_parser("apply", help="write weights with a setting built in")
    make.add_argument("--setting", type=int, required=True)
    make.add_argument("--to", type=Path, required=True)
    for command, function in ((go, run), (show, summary), (make, apply)):
        command.set_defaults(command=function)
    for command in (go, show):
        command.add_argument("--out", type=Path, default=Path("runs/calibration.jsonl"))
    for command in (go, make):
        command.add_argument("--weights", type=Path, required=True)
    args = parser.parse_args()
    args.command(args)


if __name__ == "__main__":
    main()

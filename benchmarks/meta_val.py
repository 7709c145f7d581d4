"""Do trained weights beat the untrained rule on scenes they never saw? Held-out PSNR of `--weights` and of `nominal`, from the same starts.

    python benchmarks/meta_val.py --weights runs/a/theta.safetensors [--scenes DIR ...] [--steps 1000] [--seeds 0 1]
    python benchmarks/meta_val.py --weights src/learn2splat/weights/default.safetensors --set decay_shN=0 trust_age=1e9    # another rule

Prints the differences in dB, and what became of the meta-loss where the log of the training lies beside the weights. Exit code 1 unless the weights
win in the mean at every horizon and lose at most `--tolerance` dB at the last on every scene, and the meta-loss fell.
Curves of `nominal` are kept in `--cache`, for its constants and this commit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import torch

from learn2splat import fit, load_scene
from learn2splat.gaussians import init_from_points
from learn2splat.machine import commit
from learn2splat.meta.trainer import LOG
from learn2splat.optimizers import make_optimizer

MARKS = (10, 30, 100, 300, 1000, 2000, 4000)
VAL = ("fern", "flower", "kitchen", "bonsai")


def curve(path: Path, optimizer: str, options: dict, seed: int, args: argparse.Namespace) -> list[float]:
    """Held-out PSNR, dB, at the marks up to `args.steps`."""
    scene = load_scene(path, long_side=args.long_side)
    start = init_from_points(scene.points, scene.colors, max_points=args.max_points, generator=torch.Generator().manual_seed(seed))
    rule = make_optimizer(optimizer, **options)
    if options and args.set:
        rule.config = replace(rule.config, **dict(args.set))
    result = fit(scene, start, rule, steps=args.steps, views_per_step=8, seed=seed, eval_at=args.marks)
    if result.diverged:
        print(f"{path.name} seed {seed}: {optimizer} DIVERGED at step {result.steps}", flush=True)
    values = {point.step: point.psnr for point in result.curve}
    return [values.get(mark, float("-inf")) for mark in args.marks]


def constant(text: str) -> tuple[str, float]:
    """`trust_age=1e9` -> name and value."""
    name, value = text.split("=")
    return name, float(value)


def nominal_curve(path: Path, seed: int, args: argparse.Namespace) -> list[float]:
    """From the cache, or measured and put there."""
    cache = json.loads(args.cache.read_text()) if args.cache.exists() else {}
    code = hashlib.blake2b(f"{make_optimizer('nominal').config} {commit()}".encode(), digest_size=6).hexdigest()
    key = f"{path.name} {args.long_side} {args.max_points} {seed} {args.marks} {code}"
    if key not in cache:
        values = curve(path, "nominal", {}, seed, args)
        cache = json.loads(args.cache.read_text()) if args.cache.exists() else {}
        args.cache.parent.mkdir(parents=True, exist_ok=True)
        args.cache.write_text(json.dumps({**cache, key: values}, indent=0))
        return values
    return cache[key]


def meta_loss_fell(weights: Path) -> bool:
    """Says which share of the meta-loss pieces from new starts leave, in the first and in the last third of them; True where there is no log.

    Only those are comparable over a training: the better the weights, the less is left to gain where stored episodes go on."""
    log = weights.parent / LOG
    if not log.exists():
        return True
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    shares = [row["ratio"] for row in rows if not any(row["ages"]) and row["ratio"] is not None and math.isfinite(row["ratio"])]
    third = max(1, len(shares) // 3)
    first, last = (sum(part) / third for part in (shares[:third], shares[-third:]))
    print(f"share of the meta-loss that a piece from a new start leaves: {first:.3f} in the first {third} of {len(shares)}, {last:.3f} in the last")
    return last < first


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="without: only measure nominal")
    parser.add_argument("--scenes", type=Path, nargs="+", default=[Path(__file__).parents[2] / "shared" / "scenes" / name for name in VAL])
    parser.add_argument("--long-side", type=int, default=96)
    parser.add_argument("--max-points", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", type=constant, nargs="+", default=[], metavar="NAME=VALUE", help="constants of the rule, not as saved")
    parser.add_argument("--tolerance", type=float, default=0.05, help="dB")
    parser.add_argument("--cache", type=Path, default=Path("runs/nominal.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.marks = [*(mark for mark in MARKS if mark < args.steps), args.steps]
    print("PSNR minus that of nominal, dB, after steps:", "  ".join(map(str, args.marks)))
    rows = []
    for seed in args.seeds:
        for path in args.scenes:
            reference = nominal_curve(path, seed, args)
            if args.weights is None:
                print(f"{path.name:12} seed {seed}  nominal  " + "  ".join(f"{value:.2f}" for value in reference), flush=True)
                continue
            own = curve(path, "learned", {"weights": args.weights}, seed, args)
            rows.append([a - b for a, b in zip(own, reference)])
            differences = "  ".join(f"{x:+.2f}" for x in rows[-1])
            print(f"{path.name:12} seed {seed}  {differences}   last {own[-1]:.2f}, best {max(own):.2f}", flush=True)
    if not rows:
        return 0
    mean = [sum(column) / len(rows) for column in zip(*rows)]
    passed = meta_loss_fell(args.weights) and all(x > 0 for x in mean) and all(row[-1] >= -args.tolerance for row in rows)
    print(f"{'mean':12}         " + "  ".join(f"{x:+.2f}" for x in mean) + ("   PASSED" if passed else "   FAILED"))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

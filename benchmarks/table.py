"""The results table of the README: held-out PSNR of every optimizer from the same start, written between the markers of README.md.

    python benchmarks/table.py [--steps 300] [--scenes ../shared/scenes] [--dry]

Protocol: scenes fern, flower, kitchen, bonsai; long side 256 px, at most 5000 points, every 8th photo held out, 8 views per step, seed 0. The four
scenes are for development; nothing here looks at the ones kept for final claims. Step times are those of this machine: read them as ratios.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path

import torch

from learn2splat.cli.common import machine
from learn2splat.fit import FitResult, fit
from learn2splat.gaussians import init_from_points
from learn2splat.optimizers import make_optimizer
from learn2splat.scenes import Scene, load_scene

ROOT = Path(__file__).resolve().parents[1]
SCENES = ("fern", "flower", "kitchen", "bonsai")
OPTIMIZERS = ("sgd", "adam", "adam-gsplat", "adam-tuned", "adam-auto", "nominal", "learned")
LONG_SIDE, MAX_POINTS, SEED = 256, 5000, 0
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def run(scene: Scene, name: str, steps: int) -> FitResult:
    """One fit by the protocol above."""
    start = init_from_points(scene.points, scene.colors, max_points=MAX_POINTS, generator=torch.Generator().manual_seed(SEED))
    return fit(scene, start, make_optimizer(name), steps=steps, seed=SEED, eval_at=(0, 30, 100, 300, 1000))


def table(results: dict[tuple[str, str], FitResult]) -> str:
    """Markdown. Best value of a column in bold; a run that diverged is marked DIV."""
    best = {scene: max(results[scene, name].psnr for name in OPTIMIZERS if not results[scene, name].diverged) for scene in SCENES}
    lines = [f"| optimizer | {' | '.join(SCENES)} | mean | ms per step |", "|---|" + "---:|" * (len(SCENES) + 2)]
    starts = [results[scene, OPTIMIZERS[0]].curve[0].psnr for scene in SCENES]
    lines.append(f"| start (step 0) | {' | '.join(f'{psnr:.2f}' for psnr in starts)} | {statistics.mean(starts):.2f} | |")
    for name in OPTIMIZERS:
        runs = [results[scene, name] for scene in SCENES]
        cells = []
        for scene, result in zip(SCENES, runs):
            text = "DIV" if result.diverged else f"{result.psnr:.2f}"
            cells.append(f"**{text}**" if result.psnr == best[scene] else text)
        mean = "" if any(result.diverged for result in runs) else f"{statistics.mean(result.psnr for result in runs):.2f}"
        ms = statistics.median(1000 * result.seconds / result.steps for result in runs)
        lines.append(f"| `{name}` | {' | '.join(cells)} | {mean} | {ms:.0f} |")
    return "\n".join(lines)


def caption(results: dict[tuple[str, str], FitResult], steps: int) -> str:
    """What was measured, where, when."""
    here = machine()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"
    counts = ", ".join(f"{scene} {len(results[scene, OPTIMIZERS[0]].gaussians)}" for scene in SCENES)
    return (
        f"Held-out PSNR in dB after {steps} steps from the same start: long side {LONG_SIDE} px, at most {MAX_POINTS} points ({counts}), "
        f"every 8th photo held out, 8 views per step, seed {SEED}. {here['cpu']}, {here['threads']} threads, torch {here['torch']}, "
        f"commit {commit}, {date.today().isoformat()}; `python benchmarks/table.py`."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--scenes", type=Path, default=ROOT.parent / "shared" / "scenes")
    parser.add_argument("--dry", action="store_true", help="print the table, leave README.md as it is")
    options = parser.parse_args()
    results = {}
    for name in SCENES:
        scene = load_scene(options.scenes / name, long_side=LONG_SIDE)
        for optimizer in OPTIMIZERS:
            result = results[name, optimizer] = run(scene, optimizer, options.steps)
            curve = "  ".join(f"{point.step}: {point.psnr:.2f}" for point in result.curve)
            print(f"{name:8s} {optimizer:12s} {curve}  {1000 * result.seconds / result.steps:.0f} ms per step", file=sys.stderr, flush=True)
    text = f"{table(results)}\n\n{caption(results, options.steps)}"
    print(text)
    if not options.dry:
        readme = ROOT / "README.md"
        new, count = re.subn(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{text}\n{END}", readme.read_text(), flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"README.md must have one pair of markers {BEGIN} and {END}, found {count}")
        readme.write_text(new)


if __name__ == "__main__":
    main()

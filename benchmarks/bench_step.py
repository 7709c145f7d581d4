"""Times whole inner steps of `adam` and of the untrained learned rule (`anchored`) on a real scene, against a 2048^3 float32 `torch.mm`.

    python benchmarks/bench_step.py ../shared/scenes/fern               # 8 views at 256x192, at most 5000 points, SH 3, L1 + SSIM
    OMP_NUM_THREADS=1 python benchmarks/bench_step.py ../shared/scenes/fern --cpu   # processor time: for a machine with other work

Every round times one mm and one step of each rule, so that a noisy neighbour hurts all alike; medians. All rules render the Gaussians that
`adam` has reached, so that they differ only in their update.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from learn2splat import _native, load_scene, make_optimizer
from learn2splat.fitting.gradients import loss_and_gradients
from learn2splat.fitting.views import ViewSampler
from learn2splat.gaussians import init_from_points
from learn2splat.optimizers import Task
from learn2splat.threads import num_threads

RULES = ("adam", "nominal", "anchored")
TORCH = "anchored, network in torch"  # What meta-training differentiates.
WARM_UP = 3  # steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--steps", type=int, default=40, help="timed steps")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--long-side", type=int, default=256, help="px")
    parser.add_argument("--max-points", type=int, default=5000)
    parser.add_argument("--cpu", action="store_true", help="processor time in place of wall clock; waiting threads count: OMP_NUM_THREADS=1")
    args = parser.parse_args()
    clock = time.process_time if args.cpu else time.perf_counter

    scene = load_scene(args.scene, long_side=args.long_side)
    gaussians = init_from_points(scene.points, scene.colors, max_points=args.max_points, generator=torch.Generator().manual_seed(0))
    task = Task(scene_scale=scene.scene_scale or 1.0, views_per_step=args.views, steps=1000)
    rules = {name: make_optimizer(name) for name in RULES}
    steps = {name: rule.step for name, rule in rules.items()} | {TORCH: torch.no_grad()(rules["anchored"].update)}
    rules[TORCH] = rules["anchored"]
    states = {name: rule.init(gaussians, task, torch.Generator().manual_seed(0)) for name, rule in rules.items()}
    train = list(scene.train_idx)
    sampler = ViewSampler(scene.camtoworlds[train, :3, 3], args.views, torch.Generator().manual_seed(0))
    matrix = torch.rand(2048, 2048)

    times: dict[str, list[float]] = {name: [] for name in ("mm", "gradients", *steps)}
    for round_idx in range(WARM_UP + args.steps):
        marks = [clock()]
        torch.mm(matrix, matrix)
        marks.append(clock())
        _, grads = loss_and_gradients(scene, gaussians, [train[i] for i in sampler.next()])
        marks.append(clock())
        moved = {}
        for name, step in steps.items():
            moved[name], states[name] = step(gaussians, grads, states[name])
            marks.append(clock())
        gaussians = moved["adam"]
        if round_idx >= WARM_UP:
            for name, begin, end in zip(times, marks, marks[1:], strict=False):
                times[name].append(end - begin)

    ms = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    width, height = scene.size(train[0])
    print(
        f"{scene.name}: {len(gaussians)} Gaussians, {sampler.views_per_step} views of {width}x{height}; isa {_native.isa()}, "
        f"{num_threads()} threads, torch {torch.__version__}; {'processor' if args.cpu else 'wall clock'} time, median of {args.steps}; "
        f"mm {ms['mm']:.1f} ms"
    )
    print("| | render, loss, gradients ms | update ms | step ms | step / mm | step / adam step |\n|---|---|---|---|---|---|")
    for name in steps:
        step = ms["gradients"] + ms[name]
        ratios = f"{step / ms['mm']:.2f} | {step / (ms['gradients'] + ms['adam']):.2f}"
        print(f"| {name} | {ms['gradients']:.1f} | {ms[name]:.1f} | {step:.1f} | {ratios} |")


if __name__ == "__main__":
    main()

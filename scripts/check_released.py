"""The released weights against the numbers of their README: Mip-NeRF 360 `garden`, dense, PSNR of the held-out photos after so many steps.

    python scripts/check_released.py epoch_7-step_150000.ckpt path/to/360_v2/garden [--steps 100] [--device cuda]

For whoever has both: neither the checkpoint nor the scene can be had where this was written, so what is known is that the step is the published one
(tests/optimizers/test_released.py). The release computes its network in bfloat16: a tenth of a dB is to be expected. Exit code 1 where the difference
is above --tolerance.
"""

from __future__ import annotations

import argparse

import torch

from learn2splat.fitting import FitRun, flat_plan
from learn2splat.gaussians import init_from_points
from learn2splat.optimizers.weights import load_weights, with_options
from learn2splat.scenes import load_scene

PUBLISHED = {0: 13.874, 10: 21.324, 50: 23.483, 100: 23.992, 500: 24.664, 1000: 24.812, 2000: 24.924}  # docs/method.md section 6
WIDTH = 780  # x 520 px


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help=".ckpt, .safetensors or hf://organisation/repository/path@revision")
    parser.add_argument("scene", help="the folder of garden")
    parser.add_argument("--steps", type=int, default=2000, help="stop after so many")
    parser.add_argument("--refresh-every", type=int, default=100, help="steps between two searches for neighbours, as in the published evaluation")
    parser.add_argument("--tolerance", type=float, default=0.3, help="dB")
    parser.add_argument("--long-side", type=int, default=WIDTH)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    rule = with_options(load_weights(args.weights), refresh_every=args.refresh_every)
    loaded = load_scene(args.scene, long_side=args.long_side)
    start = init_from_points(loaded.points, loaded.colors, generator=torch.Generator().manual_seed(0))
    scene, start = rule.world.scene(loaded), rule.world.splat(start, loaded)
    width, height = scene.size(0)
    print(f"{scene.name}: {len(scene.train_idx)} fitted and {len(scene.test_idx)} held-out photos of {width}x{height}, {len(start)} Gaussians")
    plan = flat_plan(args.long_side, steps=args.steps, seconds=None, views_per_step=8)
    run = FitRun(scene, start.to(args.device), rule, plan)
    print("| step | PSNR here | published | difference |\n|---:|---:|---:|---:|")
    worst = 0.0
    for step in (step for step in PUBLISHED if step <= args.steps):
        while run.step < step and not run.diverged:
            run.advance()
        run.evaluate()
        psnr = run.curve[-1].psnr
        worst = max(worst, abs(psnr - PUBLISHED[step]))
        print(f"| {step} | {psnr:.3f} | {PUBLISHED[step]:.3f} | {psnr - PUBLISHED[step]:+.3f} |", flush=True)
    print(f"{'as published' if worst <= args.tolerance else 'NOT as published'}: the largest difference is {worst:.2f} dB")
    return int(worst > args.tolerance)


if __name__ == "__main__":
    raise SystemExit(main())

"""Fit a scene of your own (COLMAP output or transforms.json) and save a splat that any viewer opens.

python examples/01_own_scene.py path/to/scene splat.ply [--steps 300] [--long-side 256] [--max-points 5000]
"""

import argparse
from pathlib import Path

import torch

import learn2splat as l2s
from learn2splat.gaussians import init_from_points


def main(path: Path, ply: Path, steps: int, long_side: int, max_points: int) -> None:
    scene = l2s.load_scene(path, long_side=long_side)
    start = init_from_points(scene.points, scene.colors, max_points=max_points, generator=torch.Generator().manual_seed(0))
    result = l2s.fit(scene, start, l2s.make_optimizer("learned"), steps=steps)
    print(f"{scene.name}: {result.curve[0].psnr:.2f} dB before, {result.psnr:.2f} dB after {steps} steps ({result.seconds:.1f} s)")
    result.save_ply(ply)  # Optimization runs in a normalised frame; the file gets the frame of your cameras back.
    print(f"wrote {ply}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("ply", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--long-side", type=int, default=256)
    parser.add_argument("--max-points", type=int, default=5000)
    options = parser.parse_args()
    main(options.scene, options.ply, options.steps, options.long_side, options.max_points)

"""Fit the built-in scene from Python, twice, and compare: Adam against the learned optimizer. Under a minute on two cores.

python examples/00_fit_procedural.py [--steps 100]
"""

import argparse

import torch

import learn2splat as l2s
from learn2splat.gaussians import init_from_points
from learn2splat.scenes import make_procedural_scene


def main(steps: int) -> None:
    scene = make_procedural_scene(seed=0)
    print(f"{len(scene.train_idx)} photos to fit, {len(scene.test_idx)} held out, {len(scene.points)} points")
    for name in ("adam", "learned"):
        start = init_from_points(scene.points, scene.colors, max_points=1500, generator=torch.Generator().manual_seed(0))
        result = l2s.fit(scene, start, l2s.make_optimizer(name), steps=steps)
        curve = "  ".join(f"{point.psnr:.2f} dB at step {point.step}" for point in result.curve)
        print(f"{name:8s} {curve}  ({result.seconds:.1f} s)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    main(parser.parse_args().steps)

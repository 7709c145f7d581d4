"""Does everything work on this GPU, and how fast? For whoever has one: CI has none, and the package has never run on one.

    pip install '.[cuda]'
    python scripts/check_cuda.py                   # exit code 1 if something disagrees, 2 if there is no GPU
    python scripts/check_cuda.py --device cpu      # the script itself, compared with itself

1. Renders and gradients of gsplat's kernels against those of our CPU core, on the built-in scene.
2. One step of every rule on the GPU against the same step on the CPU, from the same state.
3. Milliseconds of a step at 100 000 and 1 000 000 Gaussians, beside torch's fused Adam over the same tensors.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

import torch

from learn2splat.fitting.evaluate import render_photos
from learn2splat.fitting.gradients import loss_and_gradients
from learn2splat.gaussians import Gaussians, init_from_points
from learn2splat.optimizers import OptState, Task, make_optimizer
from learn2splat.scenes import make_procedural_scene

RULES = ("adam", "nominal", "learned", "paper")
TOLERANCE = 2e-3  # Relative, of float32 sums in another order; a step where directions cancel is off by more than a render.


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """The length of the difference over that of `b`."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


def moved(state: OptState, device: str) -> OptState:
    """The state on another device."""
    return replace(state, tensors={name: tensor.to(device) for name, tensor in state.tensors.items()})


def check_render(scene, gaussians: Gaussians, device: str) -> list[tuple[str, float]]:
    """Name and relative error of a render, and of the gradients of the loss."""
    views = list(scene.train_idx[:2])
    here, there = (render_photos(scene, one, views)[0] for one in (gaussians, gaussians.to(device)))
    (_, grads), (_, others) = (loss_and_gradients(scene, one, views) for one in (gaussians, gaussians.to(device)))
    return [("render", relative(there, here)), *((f"gradient of {n}", relative(g, grads.tensors()[n])) for n, g in others.tensors().items())]


def check_steps(scene, gaussians: Gaussians, device: str) -> list[tuple[str, float]]:
    """Name of each rule, and the relative error of its third move."""
    found = []
    for name in RULES:
        rule, now = make_optimizer(name), gaussians
        state = rule.init(now, Task(scene.scene_scale, num_views=len(scene.train_idx)), torch.Generator().manual_seed(0))
        for i in range(3):
            _, grads = loss_and_gradients(scene, now, list(scene.train_idx[2 * i : 2 * i + 2]))
            before, (now, after) = (now, state), rule.step(now, grads, state)
            state = after
        other, _ = make_optimizer(name).step(before[0].to(device), grads.to(device), moved(before[1], device))
        found.append((f"step of {name}", relative(other.flatten().cpu() - before[0].flatten(), now.flatten() - before[0].flatten())))
    return found


def milliseconds(step, device: str, repeats: int) -> float:
    """Of the fastest of three goes."""
    best = float("inf")
    for _ in range(3):
        if device != "cpu":
            torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(repeats):
            step()
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - began) / repeats)
    return 1000 * best


def speed(count: int, device: str, repeats: int) -> dict[str, float]:
    """Milliseconds of a step of each rule, and of fused Adam, at `count` Gaussians."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(count, 3, generator=generator)
    gaussians = init_from_points(points, torch.randint(0, 256, (count, 3), dtype=torch.uint8, generator=generator)).to(device)
    grads = gaussians.map(lambda tensor: 1e-3 * torch.randn(tensor.shape, generator=generator).to(device))
    parameters = [tensor.clone().requires_grad_() for tensor in gaussians.tensors().values()]
    for parameter, gradient in zip(parameters, grads.tensors().values()):
        parameter.grad = gradient
    fused = torch.optim.Adam(parameters, lr=1e-4, fused=True)
    times = {"torch fused Adam": milliseconds(fused.step, device, repeats)}
    for name in ("nominal", "learned"):
        rule = make_optimizer(name)
        kept = {"g": gaussians, "s": rule.init(gaussians, Task(), torch.Generator().manual_seed(0))}

        def step(rule=rule, kept=kept) -> None:
            kept["g"], kept["s"] = rule.step(kept["g"], grads, kept["s"])

        times[name] = milliseconds(step, device, repeats)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--counts", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: torch finds none (a build without CUDA, or no driver)", file=sys.stderr)
        return 2
    scene = make_procedural_scene(0, num_views=8, width=128, height=96)
    gaussians = init_from_points(scene.points, scene.colors, max_points=1000, generator=torch.Generator().manual_seed(0))
    passed = True
    for name, error in check_render(scene, gaussians, args.device) + check_steps(scene, gaussians, args.device):
        passed &= error <= TOLERANCE
        print(f"{'ok  ' if error <= TOLERANCE else 'FAIL'}  {name}: {error:.1e}")
    for count in args.counts:
        print(f"{count} Gaussians: " + ", ".join(f"{name} {value:.2f} ms" for name, value in speed(count, args.device, args.repeats).items()))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

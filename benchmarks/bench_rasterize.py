"""Times `rasterize` forward + backward on the common work and prints ratios to a 2048^3 float32 `torch.mm` of the same run.

    python benchmarks/bench_rasterize.py                 # the table of four sizes, median of 5
    python benchmarks/bench_rasterize.py --only m --repeats 20
    OMP_NUM_THREADS=1 python benchmarks/bench_rasterize.py --cpu   # processor time in place of wall clock: for a machine with other work
    python benchmarks/bench_rasterize.py --memory        # bytes per Gaussian and view that a forward + backward holds beyond its outputs

The common work: N Gaussians, means uniform in a box of side 2 centred 4 in front of the camera, log-scales ln 0.02 + 0.4 randn, random quats,
logit opacities randn, RGB colours, fx = fy = 0.9 W, eps2d 0.3. Size g is what a run that grows spends its time on (`grown_work`): 4 views, spherical
harmonics. Rounds of mm and of each size alternate, so that a noisy neighbour hurts all alike.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time

import torch

import learn2splat
from learn2splat import _native
from learn2splat.bench.memory import PeakMemory
from learn2splat.scenes import make_procedural_scene
from learn2splat.threads import num_threads

SIZES = {  # N, W, H, views, target in mm
    "s": (10_000, 128, 128, 1, 0.06),
    "m": (50_000, 448, 256, 1, 0.35),
    "l": (200_000, 512, 512, 1, 0.70),
    "g": (36_000, 640, 475, 4, 0.90),
}
SH_C0 = 0.28209479177387814


def common_work(n: int, width: int, height: int, views: int = 1):
    g = torch.Generator().manual_seed(0)
    means = torch.rand(n, 3, generator=g) * 2 - 1 + torch.tensor([0.0, 0.0, 4.0])
    scales = (math.log(0.02) + 0.4 * torch.randn(n, 3, generator=g)).exp()
    quats = torch.randn(n, 4, generator=g)
    opacities = torch.randn(n, generator=g).sigmoid()
    colors = torch.rand(n, 3, generator=g)
    viewmats = torch.eye(4).repeat(views, 1, 1)
    K = torch.tensor([[0.9 * width, 0.0, width / 2], [0.0, 0.9 * width, height / 2], [0.0, 0.0, 1.0]]).repeat(views, 1, 1)
    inputs = [t.requires_grad_() for t in (means, quats, scales, opacities, colors)]
    return inputs, viewmats, K, torch.randn(views, height, width, 3, generator=g)


def grown_work(n: int, width: int, height: int, views: int):
    """Gaussians as growth leaves them, on the surfaces of a procedural scene: at pixels of its photos, about as large as their spacing there. As many
    of them reach a pixel, and they reach as many pixels, as on `flower` and `bonsai` grown to 40 000 (docs/performance.md)."""
    scene, depths = make_procedural_scene(0, layout="room", num_views=8, width=width, height=height, num_points=100, return_depth=True)
    g = torch.Generator().manual_seed(0)
    photo, y, x = (torch.randint(limit, (n,), generator=g) for limit in depths.shape)
    depth, K = depths[photo, y, x], scene.Ks[0]
    camera = torch.stack([(x + 0.5 - K[0, 2]) / K[0, 0], (y + 0.5 - K[1, 2]) / K[1, 1], torch.ones(n)], -1) * depth[:, None]
    poses = scene.camtoworlds[photo]
    means = (poses[:, :3, :3] @ camera[..., None])[..., 0] + poses[:, :3, 3]
    spacing = depth / K[0, 0] * math.sqrt(width * height / n)
    scales = 1.6 * spacing[:, None] * (0.4 * torch.randn(n, 1, generator=g) + 0.5 * torch.randn(n, 3, generator=g)).exp()
    quats = torch.randn(n, 4, generator=g)
    opacities = (1.8 * torch.randn(n, generator=g) - 2.0).sigmoid().clamp(min=0.012)
    colors = 0.05 * torch.randn(n, 16, 3, generator=g)
    colors[:, 0] = (torch.stack(scene.images)[photo, y, x] / 255 - 0.5) / SH_C0
    inputs = [t.requires_grad_() for t in (means, quats, scales, opacities, colors)]
    chosen = list(scene.train_idx[:: len(scene.train_idx) // views][:views])
    return inputs, scene.viewmats[chosen], scene.Ks[chosen], torch.randn(views, height, width, 3, generator=g)


def forward_backward(work, width: int, height: int, clock=time.perf_counter) -> tuple[float, float]:
    inputs, viewmats, K, v_render = work
    for t in inputs:
        t.grad = None
    t0 = clock()
    renders, _, _ = learn2splat.rasterize(*inputs, viewmats, K, width, height, sh_degree=3 if inputs[-1].ndim == 3 else None)
    t1 = clock()
    renders.backward(v_render)
    return t1 - t0, clock() - t1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SIZES, help="one size")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cpu", action="store_true", help="processor time in place of wall clock; waiting threads count: OMP_NUM_THREADS=1")
    parser.add_argument("--memory", action="store_true", help="measure memory, not time")
    args = parser.parse_args()
    clock = time.process_time if args.cpu else time.perf_counter
    sizes = {args.only: SIZES[args.only]} if args.only else SIZES
    if args.memory:
        return measure_memory()
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    works = {name: (grown_work if name == "g" else common_work)(*size[:4]) for name, size in sizes.items()}
    mm_times, times = [], {name: [] for name in sizes}
    for round_idx in range(args.repeats + 2):  # two rounds of warm-up
        t0 = clock()
        torch.mm(a, b)
        mm = clock() - t0
        measured = {}
        for name, (_, w, h, _, _) in sizes.items():
            runs = [forward_backward(works[name], w, h, clock) for _ in range(3)]
            measured[name] = tuple(statistics.median(part) for part in zip(*runs))
        if round_idx >= 2:
            mm_times.append(mm)
            for name in sizes:
                times[name].append(measured[name])
    mm = statistics.median(mm_times)
    print(
        f"isa {_native.isa()}, {num_threads()} threads ({_native.thread_pool()}), torch {torch.__version__}, mm {mm * 1e3:.1f} ms, "
        f"{'processor' if args.cpu else 'wall clock'} time, median of {args.repeats}"
    )
    print("| size | forward ms | backward ms | sum ms | sum / mm | target |\n|---|---|---|---|---|---|")
    for name, (n, w, h, views, target) in sizes.items():
        forward, backward = (statistics.median(part) for part in zip(*times[name]))
        total = statistics.median(f + b for f, b in times[name])
        size = f"{name}: {n} at {f'{views} x ' if views > 1 else ''}{w}x{h}"
        print(f"| {size} | {forward * 1e3:.2f} | {backward * 1e3:.2f} | {total * 1e3:.2f} | {total / mm:.3f} | {target} |")


def measure_memory() -> None:
    """Peak resident memory of one forward + backward of size l in 4 views, less what the inputs, outputs and their gradients take."""
    n, w, h, *_ = SIZES["l"]
    views = 4
    work = common_work(n, w, h, views)
    forward_backward(common_work(1000, 64, 64), 64, 64)
    with PeakMemory(torch.device("cpu")) as memory:  # not ru_maxrss: a child process begins with that of its parent
        forward_backward(work, w, h)
    if memory.bytes is None:
        raise SystemExit("this system does not tell the peak memory of a process: run it on Linux")
    peak = memory.bytes
    images = 4 * views * w * h * (3 + 1)  # renders, alphas
    meta = 4 * views * n * (2 + 3 + 1 + 2)  # means2d, conics, depths, radii
    grads = 4 * n * (3 + 4 + 3 + 1 + 3) + 4 * views * n * 2  # of the inputs; retained, of means2d
    print(
        f"peak {peak / 1e6:.1f} MB - outputs {(images + meta + grads) / 1e6:.1f} MB = {(peak - images - meta - grads) / (views * n):.0f} bytes "
        "per Gaussian and view"
    )


if __name__ == "__main__":
    main()

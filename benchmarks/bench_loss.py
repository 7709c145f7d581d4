"""Time of the photometric loss and its gradient: fused native kernel, torch's convolutions, and a 2048^3 float32 torch.mm in the same run.

    python benchmarks/bench_loss.py [--views 8] [--width 256] [--height 192] [--threads 2]

The floor is the multiply-adds of the separable sums (4 forward and 3 transposed, 11 taps, 2 directions: 154 per value) at the rate that mm reaches,
all taps counted; the kernel may come below 154 because the symmetric window saves 5 of 11 multiplications horizontally.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from learn2splat.losses import photometric_loss
from learn2splat.losses.photometric import view_losses_torch

FMAS_PER_VALUE = (4 + 3) * 11 * 2
MM_SIZE = 2048


def median_ms(f, repeats: int) -> float:
    f()  # warm-up: allocates, starts threads
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--width", type=int, default=256, help="px")
    parser.add_argument("--height", type=int, default=192, help="px")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    generator = torch.Generator().manual_seed(0)
    targets = torch.rand(args.views, args.height, args.width, 3, generator=generator)
    renders = (targets + 0.1 * torch.randn(targets.shape, generator=generator)).requires_grad_()
    matrix = torch.rand(MM_SIZE, MM_SIZE, generator=generator)

    def step(loss) -> None:
        renders.grad = None
        loss(renders, targets).backward()

    @torch.no_grad()
    def value() -> None:
        photometric_loss(renders, targets)

    fused = median_ms(lambda: step(photometric_loss), 15)
    forward = median_ms(value, 15)
    mm = median_ms(lambda: torch.mm(matrix, matrix), 5)
    plain = median_ms(lambda: step(lambda r, t: view_losses_torch(r, t, 0.2).sum()), 3)
    floor = mm * FMAS_PER_VALUE * renders.numel() / MM_SIZE**3
    print(f"{args.views} views of {args.width}x{args.height}, {args.threads} threads, float32, medians")
    print(f"torch.mm {MM_SIZE}^3               {mm:9.1f} ms  ({1e-6 * MM_SIZE**3 / mm:.0f} G multiply-adds/s)")
    print(f"fused loss                  {forward:9.1f} ms  {forward / mm:7.4f} mm")
    print(f"fused loss + gradient       {fused:9.1f} ms  {fused / mm:7.4f} mm  {fused / floor:.1f}x the multiply-add floor of {floor:.1f} ms")
    print(f"torch conv2d loss + gradient{plain:9.1f} ms  {plain / mm:7.4f} mm  {plain / fused:.0f}x the fused kernel")


if __name__ == "__main__":
    main()

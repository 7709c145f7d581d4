"""Cells with given numbers, for closed forms."""

from pathlib import Path

from learn2splat.bench.protocol import Protocol
from learn2splat.bench.stats import Comparison, comparisons
from learn2splat.bench.store import Cell, Point

MACHINE = {"cpu": "a processor", "cores": 2, "threads": 1, "gpu": None, "system": "Linux x86_64", "python": "3.11", "torch": "2", "learn2splat": "0"}


def made_cell(label, scene, seed, psnrs, *, order=0, status="done", step_seconds=0.5, **end) -> Cell:
    """`psnrs`: step -> dB. A step takes `step_seconds`, a fifth of it the update."""
    points = tuple(Point(step, step * step_seconds, step * step_seconds, 0.1 * step, psnr, psnr / 100, None) for step, psnr in psnrs.items())
    header = {
        "protocol": Protocol().describe(),
        "scene": {"name": scene, "photo_sizes": [[32, 24]], "context": 8, "held_out": 2, "gaussians": 40, "shown_photo": None},
        "optimizer": {"label": label, "spec": label, "order": order},
        "seed": seed,
        "machine": MACHINE,
        "commit": "abc",
        "command": ["learn2splat", "bench", "a scene"],
        "load": 1.5,
    }
    steps = max(psnrs, default=0)
    clocks = {"steps": steps, "seconds": steps * step_seconds, "cpu_seconds": 2 * steps * step_seconds, "update_seconds": 0.1 * steps}
    ends = None if status == "running" else {"status": status, **clocks, **end}
    return Cell(Path("out") / "protocol" / scene / label / f"seed{seed}.jsonl", header, points, ends)


def made_comparison(ends: dict[str, dict[tuple[str, int], float]], **options) -> Comparison:
    """`ends`: label -> (scene, seed) -> PSNR after 10 steps, from 10 dB at step 0."""
    cells = [
        made_cell(label, *pair, {0: 10.0, 10: psnr}, order=order, **options)
        for order, (label, values) in enumerate(ends.items())
        for pair, psnr in values.items()
    ]
    return comparisons(cells)[0]

"""Draws docs/demo.png, the picture of the README: a held-out photo of the built-in scene, renders on the way, and the curves.

    python benchmarks/readme_picture.py
"""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import torch
from PIL import Image

from learn2splat.fit import Progress, fit, rendered
from learn2splat.gaussians import init_from_points
from learn2splat.optimizers import make_optimizer
from learn2splat.scenes import make_procedural_scene

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the choice of a backend that needs no screen

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "demo.png"
OPTIMIZERS = {"adam": "#7b838d", "adam-auto": "#c05f00", "learned": "#0b68b8"}
STEPS, SHOWN = 300, (10, 30, 100, 300)
MAX_BYTES = 300_000


def main() -> None:
    scene = make_procedural_scene(seed=0, layout="orbit", width=160, height=120, num_points=2500)
    start = init_from_points(scene.points, scene.colors)
    photo = scene.test_idx[1]
    figure = plt.figure(figsize=(11, 4.2), layout="constrained")
    grid = figure.add_gridspec(len(OPTIMIZERS), len(SHOWN) + 3, width_ratios=[1.15, *[1] * len(SHOWN), 0.05, 2.0])
    axes = figure.add_subplot(grid[:, 0])
    axes.imshow(scene.image(photo))
    axes.set_title("held-out photo", fontsize=9)
    axes.axis("off")
    curves = figure.add_subplot(grid[:, -1])
    for row, (name, color) in enumerate(OPTIMIZERS.items()):
        stages: dict[int, torch.Tensor] = {}

        def keep(progress: Progress, stages: dict = stages) -> None:
            if progress.step in SHOWN and progress.step not in stages:
                stages[progress.step] = next(rendered(scene, progress.gaussians, [photo]))[1]

        result = fit(scene, start, make_optimizer(name), steps=STEPS, eval_at=(0, 3, *SHOWN), on_step=keep)
        steps, psnrs = [max(point.step, 1) for point in result.curve], [point.psnr for point in result.curve]
        curves.plot(steps, psnrs, "o-", color=color, label=name, markersize=3.5)
        for column, step in enumerate(SHOWN):
            axes = figure.add_subplot(grid[row, column + 1])
            axes.imshow(stages[step])
            axes.axis("off")
            axes.set_title(f"{name}, step {step}", fontsize=9, color=color)
    curves.set_xscale("log")
    curves.set_xticks([1, 10, 30, 100, 300], ["0", "10", "30", "100", "300"])
    curves.minorticks_off()
    curves.set_xlabel("step", fontsize=9)
    curves.set_title("held-out PSNR (dB)", fontsize=9)
    curves.tick_params(labelsize=8)
    curves.grid(alpha=0.3)
    curves.legend(frameon=False, fontsize=9)
    curves.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    Image.open(buffer).convert("RGB").quantize(256).save(PICTURE, optimize=True)
    size = PICTURE.stat().st_size
    print(f"{PICTURE}: {size} bytes")
    if size > MAX_BYTES:
        raise SystemExit(f"{PICTURE} is larger than {MAX_BYTES} bytes: lower the dpi")


if __name__ == "__main__":
    main()

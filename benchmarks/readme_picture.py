"""Draws docs/demo.png, the picture of the README: a held-out photo of the built-in scene, renders on the way, and the curves.

    python benchmarks/readme_picture.py
"""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
from PIL import Image

from learn2splat.cli.demo import SHOWN, race
from learn2splat.cli.demo_page import label

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the choice of a backend that needs no screen

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "demo.png"
COLORS = {"adam": "#7b838d", "adam-auto": "#c05f00", "learned": "#0b68b8"}
SECONDS, PHOTO = 15.0, 0  # of each optimizer; position among the held-out photos
MAX_BYTES = 300_000


def main() -> None:
    scene, _, _, runs = race(seed=0, seconds=SECONDS)
    marks = [share * SECONDS for share in SHOWN if 0 < share]
    figure = plt.figure(figsize=(11, 3.6), layout="constrained")
    grid = figure.add_gridspec(len(runs), len(marks) + 2, width_ratios=[1, *[1] * len(marks), 2.2])
    axes = figure.add_subplot(grid[:, 0])
    axes.imshow(scene.image(scene.test_idx[PHOTO]))
    axes.set_title("held-out photo", fontsize=9)
    axes.axis("off")
    curves = figure.add_subplot(grid[:, -1])
    for row, run in enumerate(runs):
        color = COLORS[run.name]
        points = [(max(point.seconds, 0.25), point.psnr) for point in run.result.curve]
        curves.plot(*zip(*points), "o-", color=color, label=run.name, markersize=3.5)
        for column, mark in enumerate(marks):
            axes = figure.add_subplot(grid[row, column + 1])
            axes.imshow(next(moment.renders[PHOTO] for moment in run.moments if moment.mark == mark))
            axes.axis("off")
            axes.set_title(f"{run.name}, {label(mark)}", fontsize=9, color=color)
    curves.set_xscale("log")
    curves.set_xticks([0.25, 1, 3, 10], ["start", "1", "3", "10"])
    curves.minorticks_off()
    curves.set_xlabel("seconds on 2 cores", fontsize=9)
    curves.set_title("held-out PSNR (dB)", fontsize=9)
    curves.tick_params(labelsize=8)
    curves.grid(alpha=0.3)
    curves.legend(frameon=False, fontsize=9)
    curves.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    Image.open(buffer).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(PICTURE, optimize=True)
    size = PICTURE.stat().st_size
    print(f"{PICTURE}: {size} bytes")
    if size > MAX_BYTES:
        raise SystemExit(f"{PICTURE} is larger than {MAX_BYTES} bytes: lower the dpi")


if __name__ == "__main__":
    main()

"""Draws docs/demo.png, the picture of the README: a held-out photo of the built-in scene, renders on the way, and the curves.

python benchmarks/readme_picture.py
"""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
from PIL import Image

from learn2splat.cli.demo import SHOWN, race

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the choice of a backend that needs no screen

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "demo.png"
COLORS = {"adam": "#7b838d", "adam-auto": "#c05f00", "learned": "#0b68b8"}
NAMES = {"learned": "learned", "adam-auto": "Adam, searched rates"}  # rows, from the top
SECONDS, PHOTO = 15.0, 0  # of each optimizer; position among the held-out photos
SHARES = (1 / 15, 4 / 15, 1)  # of the time: columns
MAX_BYTES = 300_000


def main() -> None:
    scene, _, _, runs = race(seed=0, seconds=SECONDS)
    by_name = {run.name: run for run in runs}
    assert set(SHARES) <= set(SHOWN)
    figure = plt.figure(figsize=(11, 4.9), layout="constrained")
    grid = figure.add_gridspec(2, len(SHARES) + 1)
    axes = figure.add_subplot(grid[0, 0])
    axes.imshow(scene.image(scene.test_idx[PHOTO]))
    axes.axis("off")
    axes.set_title("photo, never fitted", fontsize=10)
    for row, (name, told) in enumerate(NAMES.items()):
        for column, share in enumerate(SHARES, 1):
            moment = next(moment for moment in by_name[name].moments if moment.mark == share * SECONDS)
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(moment.renders[PHOTO])
            axes.set_xticks([]), axes.set_yticks([])
            axes.spines[:].set_visible(False)
            axes.set_xlabel(f"{moment.point.seconds:.1f} s, {moment.point.psnr:.1f} dB", fontsize=10, color=COLORS[name])
            if column == 2:
                axes.set_title(told, fontsize=10, color=COLORS[name], weight="bold")
    curves = figure.add_subplot(grid[1, 0])
    for run in runs:
        points = [(max(point.seconds, 0.25), point.psnr) for point in run.result.curve]
        curves.plot(*zip(*points), "o-", color=COLORS[run.name], label=run.name, markersize=3)
    curves.set_xscale("log")
    curves.set_xticks([0.25, 1, 4, 15], ["start", "1 s", "4 s", "15 s"])
    curves.minorticks_off()
    curves.set_title("PSNR of such photos (dB)", fontsize=9)
    curves.tick_params(labelsize=8)
    curves.grid(alpha=0.3)
    curves.legend(frameon=False, fontsize=8)
    curves.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    Image.open(buffer).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(PICTURE, optimize=True)
    size = PICTURE.stat().st_size
    print(f"{PICTURE}: {size} bytes")
    if size > MAX_BYTES:
        raise SystemExit(f"{PICTURE} is larger than {MAX_BYTES} bytes: lower the dpi")


if __name__ == "__main__":
    main()

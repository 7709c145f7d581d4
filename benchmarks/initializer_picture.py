"""Draws docs/initializers.png: photos, the depth that the network sees in them, and the splat on its way. Called by starts.py --picture."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import torch
from PIL import Image

from learn2splat import fit, make_optimizer
from learn2splat.cli.init import depth_picture
from learn2splat.fitting import rendered
from learn2splat.initializers import feedforward_init, predict_depth
from learn2splat.scenes import Scene

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the choice of a backend that needs no screen

SHOWN = (0, 3, 5, 7)  # of the photos that are fitted
STEPS = (0, 10, 100)
MAX_BYTES = 350_000


def draw(scene: Scene, network: object, path: Path) -> None:
    predicted = predict_depth(scene, scene.train_idx, network=network)
    start = feedforward_init(scene, network=network, predicted=predicted, generator=torch.Generator().manual_seed(0))
    columns = max(len(SHOWN), len(STEPS) + 1)
    figure = plt.figure(figsize=(2.6 * columns, 5.9), layout="constrained")
    grid = figure.add_gridspec(3, columns)

    def show(row: int, column: int, picture: torch.Tensor, text: str) -> None:
        axes = figure.add_subplot(grid[row, column])
        axes.imshow(picture.clamp(0, 1).numpy())
        axes.axis("off")
        axes.set_title(text, fontsize=9)

    for column, i in enumerate(SHOWN):
        show(0, column, scene.image(scene.train_idx[i]), "a photo that is fitted" if column == 0 else "")
        show(
            1,
            column,
            depth_picture(predicted.depths[i], predicted.confidence[i]),
            "its depth: near red, far blue, unsure grey" if column == 0 else "",
        )
    view = scene.test_idx[len(scene.test_idx) // 2]
    for column, steps in enumerate(STEPS):
        result = fit(scene, start, make_optimizer("learned"), steps=steps, eval_at=[steps])
        _, render, photo = next(rendered(scene, result.gaussians, [view]))
        psnr = -10 * float(torch.log10((render - photo).square().mean()))
        show(2, column, render, f"splat at step {steps}: {psnr:.1f} dB")
    show(2, len(STEPS), scene.image(view), "the photo, never fitted")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=90)
    Image.open(buffer).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size} bytes")
    if path.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{path} is larger than {MAX_BYTES} bytes: lower the dpi")

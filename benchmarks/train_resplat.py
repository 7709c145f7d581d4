"""Train the baseline ReSplat (src/learn2splat/optimizers/resplat.py): four unrolled steps from plane-sweep starts, on the train scenes.

    python benchmarks/train_resplat.py --minutes 15 --out runs/resplat.safetensors

An episode: a scene of role `train` in SOURCES.md at 128 px, 3 to 8 context photos of a random window, 2 targets between them, the start of
`--init stereo` (at most 2000 Gaussians), 4 steps. The loss is that of the inner steps (0.8 L1 + 0.2 (1 - SSIM)) on contexts and targets after each
step, weighted by 0.9 for each step before the last, as published; gradients flow through all steps, through the sums of the updates and the latent
state, but not through what the network reads of the Gaussians.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from learn2splat import load_scene
from learn2splat.errors import SceneError
from learn2splat.fitting.evaluate import by_size, render_photos
from learn2splat.gaussians import Gaussians
from learn2splat.initializers import stereo_init
from learn2splat.losses import photometric_loss
from learn2splat.machine import commit
from learn2splat.meta.tasks import Dice, roles
from learn2splat.optimizers import Task
from learn2splat.optimizers.base import RenderedViews
from learn2splat.optimizers.resplat import ReSplat, ReSplatConfig
from learn2splat.optimizers.weights import save_weights
from learn2splat.scenes import Scene
from learn2splat.scenes.context import context_scene, without_points
from learn2splat.scenes.views import choose_views

LONG_SIDE, MAX_GAUSSIANS, STEPS, DISCOUNT = 128, 2000, 4, 0.9
MOST_WINDOWS = 4  # starts that are kept per scene


def start_of(scene: Scene, dice: Dice) -> tuple[Scene, Gaussians] | None:
    """Random contexts of a scene and their start; None where the photos tell none."""
    count = min(dice.integer(3, 8), len(scene) - 2)
    first = dice.integer(0, max(0, len(scene) - 2 * count))
    rows = list(range(first, min(len(scene), first + 2 * count)))
    part = replace(
        scene, image_names=tuple(scene.image_names[i] for i in rows), images=tuple(scene.images[i] for i in rows),
        camtoworlds=scene.camtoworlds[rows], Ks=scene.Ks[rows], observations=tuple(scene.observations[i] for i in rows),
        masks=None if scene.masks is None else tuple(scene.masks[i] for i in rows),
    )  # fmt: skip
    part = context_scene(part, *choose_views(part, count, targets=2))
    try:
        return part, stereo_init(without_points(part), max_points=MAX_GAUSSIANS, generator=dice.fork())
    except SceneError:
        return None


def render(scene: Scene, gaussians: Gaussians, views: tuple[int, ...]) -> tuple[tuple[RenderedViews, ...], torch.Tensor]:
    """The photos with their renders, detached, and the mean loss of a photo, with its graph."""
    found, total = [], torch.zeros(())
    for group in by_size(scene, views):
        renders, photos = render_photos(scene, gaussians, group)
        total = total + photometric_loss(renders, photos)
        found.append(RenderedViews(renders.detach(), photos, scene.viewmats[group], scene.Ks[group]))
    return tuple(found), total / len(views)


def episode(rule: ReSplat, scene: Scene, gaussians: Gaussians) -> tuple[torch.Tensor, list[float]]:
    """(meta-loss, loss of the targets before and after each step)."""
    state = rule.init(gaussians, Task(), torch.Generator())
    views, _ = render(scene, gaussians, scene.train_idx)
    total, targets = torch.zeros(()), [float(render(scene, gaussians, scene.test_idx)[1])]
    for step in range(STEPS):
        gaussians, state = rule.update(gaussians, views, state)
        views, fitted = render(scene, gaussians, scene.train_idx)
        _, held_out = render(scene, gaussians, scene.test_idx)
        targets.append(float(held_out.detach()))
        total = total + DISCOUNT ** (STEPS - 1 - step) * (fitted + held_out)
    return total, targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--out", type=Path, default=Path("runs/resplat.safetensors"))
    parser.add_argument("--scenes-root", type=Path, default=Path(__file__).parents[2] / "shared" / "scenes")
    parser.add_argument("--rate", type=float, default=1e-3)
    args = parser.parse_args()
    dice, rule = Dice(0), ReSplat(ReSplatConfig(), seed=0)
    optimizer = torch.optim.AdamW(rule.network.parameters(), lr=args.rate, weight_decay=0.01)
    names = [name for name, role in sorted(roles(args.scenes_root).items()) if role == "train"]
    pool: dict[str, Scene] = {}
    starts: dict[str, list[tuple[Scene, Gaussians]]] = {name: [] for name in names}
    began, done, recent = time.monotonic(), 0, []
    while (spent := (time.monotonic() - began) / 60 / args.minutes) < 1:
        name = names[dice.integer(0, len(names) - 1)]
        if name not in pool:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pool[name] = load_scene(args.scenes_root / name, long_side=LONG_SIDE, observations=True)
        if len(starts[name]) < MOST_WINDOWS and (found := start_of(pool[name], dice)) is not None:
            starts[name].append(found)
        if not starts[name]:
            continue
        scene, gaussians = starts[name][dice.integer(0, len(starts[name]) - 1)]
        for group in optimizer.param_groups:
            group["lr"] = args.rate * min(1.0, done / 20) * (1 - spent)  # warm-up, then down to nothing
        loss, targets = episode(rule, scene, gaussians)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(rule.network.parameters(), 0.5)
        if not torch.isfinite(norm):
            continue
        optimizer.step()
        done += 1
        recent = [*recent[-49:], (targets[0], targets[-1])]
        if done % 50 == 0:
            before, after = (statistics.mean(column) for column in zip(*recent))
            print(f"{done} episodes, {60 * args.minutes * spent:.0f} s: loss of targets {before:.4f} -> {after:.4f}", flush=True)
            provenance = {"episodes": done, "seconds": round(time.monotonic() - began), "seed": 0, "scenes": "train", "commit": commit()}
            save_weights(args.out, rule, provenance)
    save_weights(args.out, rule, {"episodes": done, "seconds": round(time.monotonic() - began), "seed": 0, "scenes": "train", "commit": commit()})


if __name__ == "__main__":
    main()

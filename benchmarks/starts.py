"""What a few photos give to start from: the error of depth, the splat at step 0, and after some steps of an optimizer.

    python benchmarks/starts.py ../shared/scenes/{fern,flower,bonsai,kitchen,monstree,temple_ring} --out runs/starts.jsonl
    python benchmarks/starts.py ../shared/scenes/fern --picture docs/initializers.png

Of each scene, the 12 photos nearest to the middle one: 8 are fitted, 4 between them are held out. Starts see no points of the scene, but `sfm`: those
seen in at least 3 of the 8 (their positions come from all photos, which flatters them). Depth is compared where the tracks of COLMAP are.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import torch
from torch import Tensor

from learn2splat import Gaussians, fit, init_from_points, init_random, load_scene, make_optimizer
from learn2splat.errors import SceneError
from learn2splat.initializers import PredictedDepth, feedforward_init, predict_depth, stereo_init
from learn2splat.initializers.weights import load_initializer
from learn2splat.scenes import Scene

CONTEXT, TARGETS = 8, 4
MIN_TRACK, MAX_REPROJECTION = 3, 2.0  # photos that see a point of the comparison; px
RANDOM = 5000


def few_photos(scene: Scene, context: int = CONTEXT) -> Scene:
    """The scene with `context` photos to fit and 4 between them held out; no points."""
    centres, middle = scene.camtoworlds[:, :3, 3], len(scene) // 2
    near = sorted((centres - centres[middle]).norm(dim=1).argsort()[: context + TARGETS].tolist())
    targets = [near[round(at)] for at in np.linspace(1, len(near) - 2, TARGETS)]
    fitted = tuple(i for i in near if i not in targets)
    return replace(scene, train_idx=fitted, test_idx=tuple(targets), points=scene.points[:0], colors=scene.colors[:0])


def tracks(path: Path, scene: Scene, idx: tuple[int, ...]) -> dict[int, tuple[Tensor, Tensor]]:
    """Photo -> where it shows points of COLMAP (n, 2) px, and their depths (n,) world units."""
    model = pycolmap.Reconstruction(str(path / "sparse" / "0"))
    by_name = {image.name: image for image in model.images.values()}
    found = {}
    for i in idx:
        points = [model.points3D[p.point3D_id] for p in by_name[scene.image_names[i]].points2D if p.has_point3D()]
        points = [p.xyz for p in points if p.track.length() >= MIN_TRACK and p.error < MAX_REPROJECTION]
        p_cam = scene.to_normalised.apply(torch.tensor(np.array(points))) @ scene.viewmats[i, :3, :3].double().mT
        p_cam = p_cam + scene.viewmats[i, :3, 3].double()
        found[i] = ((p_cam @ scene.Ks[i].double().mT)[:, :2] / p_cam[:, 2:], p_cam[:, 2])
    return found


def depth_errors(predicted: PredictedDepth, scene: Scene, known: dict[int, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Relative errors and confidences at the points of COLMAP."""
    errors, confidences = [], []
    for i, depth, confidence in zip(predicted.idx, predicted.depths, predicted.confidence):
        uv, z = known[i]
        shape = torch.tensor([depth.shape[1], depth.shape[0]])
        at = (uv * shape / torch.tensor(scene.size(i))).floor().long()
        inside = ((at >= 0) & (at < shape)).all(1)
        there = depth[at[inside, 1], at[inside, 0]].double()
        errors.append((there / z[inside] - 1).abs())
        confidences.append(confidence[at[inside, 1], at[inside, 0]])
    errors, confidences = torch.cat(errors), torch.cat(confidences)
    return errors[errors.isfinite()], confidences[errors.isfinite()]


def starts(full: Scene, scene: Scene, network: object) -> dict[str, Callable[[], Gaussians]]:
    """Name -> maker of a start."""

    def from_points() -> Gaussians:
        seen = torch.stack([full.seen_points([i]) for i in scene.train_idx]).sum(0) >= MIN_TRACK
        return init_from_points(full.points[seen], full.colors[seen])

    def dice() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    return {
        "feedforward": lambda: feedforward_init(scene, network=network, generator=dice()),
        "stereo": lambda: stereo_init(scene, generator=dice()),
        "sfm": from_points,
        "random": lambda: init_random(scene, RANDOM, generator=dice()),
    }


def measure(path: Path, arguments: argparse.Namespace, network: object) -> list[dict]:
    full = load_scene(path, long_side=arguments.long_side)
    scene = few_photos(full, arguments.context)
    began = time.process_time()
    rows = []
    for sweep in (False, True):
        predicted = predict_depth(scene, scene.train_idx, network=network, sweep=sweep)
        errors, confidence = depth_errors(predicted, scene, tracks(path, scene, scene.train_idx))
        sure = confidence > 0.5
        rows.append(
            {
                "scene": scene.name, "depth": "network and sweep" if sweep else "network", "median": float(errors.median()),
                "within": float((errors < 0.05).double().mean()), "sure": float(sure.double().mean()),
                "sure_within_3": float((errors[sure] < 0.03).double().mean()), "seconds": time.process_time() - began,
            }
        )  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    if not arguments.steps:
        return rows
    for name, make in starts(full, scene, network).items():
        if name not in arguments.starts:
            continue
        try:
            start = make()
        except SceneError as error:
            print(f"{scene.name} {name}: {error}")
            continue
        for optimizer in arguments.optimizers:
            result = fit(scene, start, make_optimizer(optimizer), steps=max(arguments.steps), eval_at=arguments.steps)
            curve = {point.step: round(point.psnr, 3) for point in result.curve}
            rows.append({"scene": scene.name, "start": name, "optimizer": optimizer, "gaussians": len(start), "psnr": curve})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="+", type=Path)
    parser.add_argument("--weights", type=Path, help="default: those of the package")
    parser.add_argument("--long-side", type=int, default=256)
    parser.add_argument("--context", type=int, default=CONTEXT)
    parser.add_argument("--steps", type=int, nargs="*", default=[0, 10, 30, 100])
    parser.add_argument("--optimizers", nargs="+", default=["learned"])
    parser.add_argument("--starts", nargs="+", default=["feedforward", "stereo", "sfm", "random"])
    parser.add_argument("--out", type=Path, help="append the rows to this file")
    parser.add_argument("--picture", type=Path, help="draw the first scene instead")
    arguments = parser.parse_args()
    network = load_initializer(arguments.weights)
    if arguments.picture:
        from initializer_picture import draw

        draw(few_photos(load_scene(arguments.scenes[0], long_side=arguments.long_side)), network, arguments.picture)
        return
    for path in arguments.scenes:
        rows = measure(path, arguments, network)
        if arguments.out:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            with open(arguments.out, "a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()

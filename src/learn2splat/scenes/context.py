"""A scene of which only a few photos are fitted: what other photos have told of it is taken away, so that nothing of the held-out ones leaks.

The poses stay: they are given. Points are triangulated anew from the context photos alone where the model says where these see them; else those stay
that lie in the frames of two context photos, at positions that other photos had a part in. The frame is normalised anew, by the context alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import SceneError
from ._normalise import similarity_from_cameras, similarity_from_points
from .angle import seen_points
from .scene import Scene, Similarity

MAX_ERROR = 0.01  # of the focal length: what is seen farther from where the point is was matched wrongly (4 px of a photo of 640 px, as in COLMAP)
MIN_ANGLE = 1.5  # degrees between two rays to a point, as in COLMAP: below it a depth is a guess
ITERATIONS = 10  # of Gauss-Newton; from the nearest point of the rays, three suffice
DAMPING = 1e-6  # relative


def context_scene(scene: Scene, context: Sequence[int], targets: Sequence[int]) -> Scene:
    """The scene with `context` to fit and `targets` held out, and with points and frame that follow from the context.

    Returns:
        The scene; its last warning says which points were kept.
    """
    scene = replace(scene, train_idx=tuple(context), test_idx=tuple(targets))
    before = len(scene.points)
    if scene.observations is not None:
        points, kept = triangulated(scene, context)
        note = f"{len(points)} of {before} points: those that could be triangulated from the {len(context)} context photos alone"
    else:
        idx = list(context)
        kept = seen_points(scene.camtoworlds[idx], scene.Ks[idx], [scene.size(i) for i in idx], scene.points).sum(0) >= 2
        kept = kept.nonzero()[:, 0]
        points = scene.points[kept].double()
        note = f"{len(kept)} of {before} points: those inside the frames of two context photos; other photos had a part in where they are"
    scene = replace(scene, points=points.float(), colors=scene.colors[kept], observations=None)
    scene = renormalised(scene, _similarity(scene))
    return replace(scene, warnings=(*scene.warnings, note)) if before else scene


def without_points(scene: Scene) -> Scene:
    """The scene of somebody who has photos and poses only."""
    return replace(scene, points=scene.points[:0], colors=scene.colors[:0], observations=None)


def renormalised(scene: Scene, moved: Similarity) -> Scene:
    """The scene after another similarity of its frame."""
    before = scene.to_normalised
    combined = Similarity(
        moved.scale * before.scale, moved.rotation @ before.rotation, moved.scale * (moved.rotation @ before.translation) + moved.translation
    )
    poses = moved.apply_poses(scene.camtoworlds.double()).float()
    return replace(scene, camtoworlds=poses, points=moved.apply(scene.points.double()).float(), to_normalised=combined)


def triangulated(scene: Scene, views: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Points from their observations in the photos `views` alone.

    The nearest point of all rays to a point, then Gauss-Newton on the distances in the planes at depth 1. Points that fewer than two of the photos
    see, that lie behind one, that one sees elsewhere or that all see from nearly one direction are left out.

    Returns:
        (n, 3) float64, and their positions (n,) in the scene.
    """
    parts = [scene.observations[i] for i in views]
    camera = torch.cat([torch.full((len(part.points),), k) for k, part in enumerate(parts)])
    point, rays = torch.cat([part.points for part in parts]), torch.cat([part.rays for part in parts])
    sound = rays.isfinite().all(1)
    camera, point, rays = camera[sound], point[sound], rays[sound]
    pairs = torch.unique(torch.stack([point, camera], 1), dim=0)
    often = torch.bincount(pairs[:, 0], minlength=len(scene.points)) >= 2  # different photos
    camera, point, rays = (part[often[point]] for part in (camera, point, rays))
    kept = often.nonzero()[:, 0]
    row = (torch.cumsum(often, 0) - 1)[point]
    viewmats = scene.viewmats[list(views)].double()
    rotation, translation = viewmats[:, :3, :3][camera], viewmats[:, :3, 3][camera]
    directions = torch.nn.functional.normalize(torch.cat([rays, torch.ones(len(rays), 1, dtype=torch.float64)], 1), dim=1)
    directions = (rotation.mT @ directions[:, :, None])[:, :, 0]
    centres = -(rotation.mT @ translation[:, :, None])[:, :, 0]
    across = torch.eye(3, dtype=torch.float64) - directions[:, :, None] * directions[:, None, :]
    points = _solved(across, (across @ centres[:, :, None])[:, :, 0], row, len(kept))
    for _ in range(ITERATIONS):
        p_cam = (rotation @ points[row][:, :, None])[:, :, 0] + translation
        z = p_cam[:, 2:].clamp_min(1e-9)
        error = rays - p_cam[:, :2] / z
        jacobian = (rotation[:, :2] - (p_cam[:, :2] / z)[:, :, None] * rotation[:, 2:]) / z[:, :, None]  # of p_cam[:2] / z by the point
        points = points + _solved(jacobian.mT @ jacobian, (jacobian.mT @ error[:, :, None])[:, :, 0], row, len(kept))
    p_cam = (rotation @ points[row][:, :, None])[:, :, 0] + translation
    error = (rays - p_cam[:, :2] / p_cam[:, 2:]).norm(dim=1)
    wrong = ~((p_cam[:, 2] > 0) & (error <= MAX_ERROR))
    bad = torch.zeros(len(kept), dtype=torch.bool).index_put_((row[wrong],), torch.tensor(True))
    good = ~bad & points.isfinite().all(1) & (_largest_angle(points, centres, row) >= MIN_ANGLE)
    return points[good], kept[good]


def _solved(matrices: Tensor, vectors: Tensor, row: Tensor, count: int) -> Tensor:
    """(count, 3): the solutions of the sums, over entries of one `row`, of (n, 3, 3) x = (n, 3)."""
    sums = torch.zeros(count, 3, 3, dtype=torch.float64).index_add_(0, row, matrices)
    right = torch.zeros(count, 3, dtype=torch.float64).index_add_(0, row, vectors)
    trace = sums.diagonal(dim1=1, dim2=2).sum(1).clamp_min(1e-12)
    return torch.linalg.solve(sums + DAMPING * trace[:, None, None] * torch.eye(3, dtype=torch.float64), right)


def _largest_angle(points: Tensor, centres: Tensor, row: Tensor) -> Tensor:
    """(P,) degrees, twice the largest between a ray to a point and the mean of its rays: nearly the largest between two of them."""
    rays = torch.nn.functional.normalize(points[row] - centres, dim=1)
    mean = torch.nn.functional.normalize(torch.zeros_like(points).index_add_(0, row, rays), dim=1)
    apart = (rays * mean[row]).sum(1).clamp(-1, 1).acos().rad2deg()
    return 2 * torch.zeros(len(points), dtype=torch.float64).scatter_reduce_(0, row, apart, "amax")


def _similarity(scene: Scene) -> Similarity:
    """What makes the frame of the train photos and the points normal."""
    train = list(scene.train_idx)
    poses = scene.camtoworlds[train].double()
    depths = (scene.points.double() - poses[:, None, :3, 3]) @ poses[:, :3, 2, None]
    seen = seen_points(poses, scene.Ks[train], [scene.size(i) for i in train], scene.points)
    if bool(seen.any()):
        return similarity_from_points(scene.points.double().numpy(), depths[..., 0][seen].numpy())
    try:
        return similarity_from_cameras(poses.numpy())
    except SceneError:  # one context photo, or all in one place: the frame of the whole scene is as good as any
        return Similarity.identity()

"""A start without points: the depth that the cascade (cascade.py) sees in the photos, that of the plane sweep (stereo.py) where a second photo has it
too, and one Gaussian per patch where no other photo contradicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import OptionError, SceneError
from ..gaussians import Gaussians, init_from_points, init_random
from ..scenes import Scene
from ..scenes._masks import shrink_masks
from . import cascade as net
from ._neighbours import Surroundings, surroundings
from ._upright import quarter_turns, turned
from .stereo import depth_maps, in_camera, shrunk
from .weights import load_initializer

LONG_SIDE = 256  # px, at most, of the photos as the network sees them
NUM_NEIGHBOURS = 4
MAX_PHOTOS = 64  # More are thinned out evenly: 64 photos show a scene, and take 20 seconds.
PATCH = 2  # px of the depth maps, which have half the size of the photos
MAX_GAUSSIANS = 30_000
RANDOM_START = 5000  # Gaussians, where the photos tell nothing
FEW_POINTS = 16  # Points that a photo should see; a scene with fewer has too little to start from.
SWEEP_CONFIDENCE = 0.9  # Of a depth that the sweep found and another photo confirmed.
MIN_CONFIDENCE = 0.4  # Of a pixel that becomes a Gaussian.
BACKGROUND, AROUND = 16 / 255, 5  # What differs from the background by less, in a window of so many px of the map, is background: it has no depth.
AGREE, CONTRADICT = 0.03, 0.08  # Relative differences in depth: the same surface; something in front of what another photo sees.


@dataclass(frozen=True)
class PredictedDepth:
    """Depths of the photos `idx` at half the size of the photos that the network saw. Entry i of every list is that of photo `idx[i]`.

    Attributes:
        idx: positions in the scene.
        depths: each (h, w) float32, of pixel centres, along camera +z in world units; NaN where a photo has no neighbour to compare it with.
        confidence: each (h, w) float32, the probability that the relative error is below 3 %.
        colors: each (h, w, 3) uint8, the photo at that size.
        Ks: (len(idx), 3, 3) float64, px of the maps.
        viewmats: (len(idx), 4, 4) float64.
    """

    idx: tuple[int, ...]
    depths: tuple[Tensor, ...]
    confidence: tuple[Tensor, ...]
    colors: tuple[Tensor, ...]
    Ks: Tensor
    viewmats: Tensor

    def points(self, i: int) -> Tensor:
        """(h, w, 3) float64 world units; NaN where the depth is."""
        p_cam = in_camera(self.depths[i].double(), self.Ks[i])
        return (p_cam - self.viewmats[i, :3, 3]) @ self.viewmats[i, :3, :3]


def predict_depth(
    scene: Scene, idx: Sequence[int], *, network: net.Cascade | None = None, sweep: bool = True, device: torch.device | str = "cpu"
) -> PredictedDepth:
    """The depth of every pixel of the photos `idx`, which are compared with each other and with no other photo.

    Args:
        idx: positions in the scene, all different.
        network: by default that of the package.
        sweep: take the plane sweep's depth where another photo confirms it.
        device: where the network runs; the result is on the CPU.

    Raises:
        OptionError: `idx` names a photo twice or one that is not there.
        CheckpointError: the package has no weights.
    """
    idx = tuple(idx)
    if len(set(idx)) < len(idx) or not all(0 <= i < len(scene) for i in idx):
        raise OptionError(f"photos must be different positions from 0 to {len(scene) - 1}, got {idx}")
    network = (load_initializer() if network is None else network).to(device)
    photos, Ks = prepared(scene, idx)
    sizes = [(photo.shape[2], photo.shape[1]) for photo in photos]
    viewmats = scene.viewmats[list(idx)].double()
    around = surroundings(viewmats, Ks, torch.tensor(sizes, dtype=torch.float64).view(-1, 2), scene.points, NUM_NEIGHBOURS)
    with torch.no_grad():
        found = _run(network, [photo.to(device) for photo in photos], Ks, viewmats, around)
    colors = [F.avg_pool2d(photo, 2).permute(1, 2, 0).mul(255).round().to(torch.uint8) for photo in photos]
    half = torch.diag(torch.tensor([0.5, 0.5, 1.0], dtype=torch.float64))
    depths, confidence = zip(*[(depth.cpu(), chance.cpu()) for depth, chance in found]) if found else ((), ())
    result = PredictedDepth(idx, depths, confidence, tuple(colors), half @ Ks, viewmats)
    return _with_sweep(scene, result) if sweep else result


def feedforward_init(
    scene: Scene,
    idx: Sequence[int] | None = None,
    *,
    max_gaussians: int | None = None,
    network: net.Cascade | None = None,
    predicted: PredictedDepth | None = None,
    device: torch.device | str = "cpu",
    generator: torch.Generator,
) -> Gaussians:
    """A start from the photos `idx` (by default those that are fitted) alone.

    Args:
        max_gaussians: use at most this many, drawn at random; None: 30 000.
        network, device: as in `predict_depth`.
        predicted: what that returned, to use it again.
        generator: draws them.

    Raises:
        SceneError: no photo has another one that sees the same from elsewhere, or the photos agree on nothing.
        OptionError: `max_gaussians` < 1.
        CheckpointError: the package has no weights.
    """
    if max_gaussians is not None and max_gaussians < 1:
        raise OptionError(f"max_gaussians must be at least 1, got {max_gaussians}")
    if predicted is None:
        idx = evenly(scene.train_idx if idx is None else idx, MAX_PHOTOS)
        predicted = predict_depth(scene, idx, network=network, device=device)
    if not any(bool(depth.isfinite().any()) for depth in predicted.depths):
        raise SceneError(_reason(scene, predicted))
    masks = _masks(scene, predicted)
    points, colors = [], []
    for i, confidence in enumerate(predicted.confidence):
        keep = kept(predicted, i) & ~empty(predicted.colors[i], scene.background)
        if masks is not None:  # what passes by in one photo is no place for a Gaussian
            keep &= masks[i]
        at = best_of_patches(torch.where(keep, confidence, -torch.inf))
        points.append(predicted.points(i).view(-1, 3)[at].float())
        colors.append(predicted.colors[i].view(-1, 3)[at])
    if not any(len(part) for part in points):
        raise SceneError(f"the {len(predicted.idx)} photos agree on no depth that is sure enough: check their poses, or add photos")
    most = MAX_GAUSSIANS if max_gaussians is None else max_gaussians
    return init_from_points(torch.cat(points), torch.cat(colors), max_points=most, generator=generator)


def few_points(scene: Scene) -> bool:
    """Whether half of the photos that are fitted see fewer than 16 of the scene's points."""
    seen = torch.tensor([int(scene.seen_points([i]).sum()) for i in evenly(scene.train_idx, MAX_PHOTOS)])
    return bool(seen.median() < FEW_POINTS)


def feedforward_start(
    scene: Scene,
    *,
    max_gaussians: int | None = None,
    predicted: PredictedDepth | None = None,
    device: torch.device | str = "cpu",
    generator: torch.Generator,
) -> tuple[Gaussians, str | None]:
    """`feedforward_init`, and None; where the photos tell no depth, the best start that is left (the points of the scene if it has any, else a random
    one), and one sentence that says why."""
    try:
        return feedforward_init(scene, max_gaussians=max_gaussians, predicted=predicted, device=device, generator=generator), None
    except SceneError as error:
        if len(scene.points):
            left, name = init_from_points(scene.points, scene.colors, max_points=max_gaussians, generator=generator), "from the points of the scene"
        else:
            left, name = init_random(scene, max_gaussians or RANDOM_START, generator=generator), "at random"
        return left, f"{error}; until then the start is {name}"


def kept(predicted: PredictedDepth, i: int) -> Tensor:
    """(h, w) bool: the pixels of map i that give Gaussians.

    The depth is likely; another photo has the same there, or none sees the point; and for each photo that looks through the point, two agree. That
    becomes stricter by itself where photos stand far apart: more of them look at the same things from elsewhere.
    """
    agree, against, seen = votes(predicted, i)
    likely = predicted.depths[i].isfinite() & (predicted.confidence[i] > MIN_CONFIDENCE)
    return likely & ((agree > 0) | (seen == 0)) & (2 * against <= agree)


def empty(colors: Tensor, background: Tensor) -> Tensor:
    """(h, w) bool: where `colors` (h, w, 3) uint8 is that of the background (3,) all around, as beside an object in front of black."""
    off = (colors.float() / 255 - background).abs().amax(2)
    return F.max_pool2d(off[None], AROUND, stride=1, padding=AROUND // 2)[0] < BACKGROUND


def votes(predicted: PredictedDepth, i: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each pixel of map i, how many other photos have its point at the same depth, how many look through it, and how many have it in their frame.

    Returns:
        Three (h, w) int64.
    """
    points = predicted.points(i)
    agree, against, seen = torch.zeros(3, *points.shape[:2], dtype=torch.int64)
    for n in range(len(predicted.idx)):
        if n == i:
            continue
        there, z, inside = look_up(predicted, n, points)
        agree += inside & ((there / z - 1).abs() <= AGREE)
        against += inside & (there > (1 + CONTRADICT) * z)
        seen += inside & there.isfinite()
    return agree, against, seen


def look_up(predicted: PredictedDepth, n: int, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What map n has where it sees `points` (h, w, 3): its depth, that of the points in its camera, and whether they are in its frame."""
    depth, K = predicted.depths[n], predicted.Ks[n]
    height, width = depth.shape
    p = points @ predicted.viewmats[n, :3, :3].mT + predicted.viewmats[n, :3, 3]
    z = p[..., 2]
    column = (p[..., 0] / z * K[0, 0] + K[0, 2]).floor()
    row = (p[..., 1] / z * K[1, 1] + K[1, 2]).floor()
    inside = (z > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    there = depth[torch.where(inside, row, 0).long(), torch.where(inside, column, 0).long()].double()
    return there, z, inside


def best_of_patches(scores: Tensor, patch: int = PATCH) -> Tensor:
    """Positions in the flat map of the highest score of each patch; none of patches that are all -inf."""
    height, width = scores.shape
    padded = F.pad(scores, (0, -width % patch, 0, -height % patch), value=-torch.inf)
    highest, at = F.max_pool2d(padded[None], patch, return_indices=True)
    at = at[highest > -torch.inf]
    return at // padded.shape[1] * width + at % padded.shape[1]


def prepared(scene: Scene, idx: Sequence[int]) -> tuple[list[Tensor], Tensor]:
    """Photos as the network reads them, each (3, h, w) float32 in [0, 1] with sides that are multiples of 16, and their Ks (M, 3, 3) float64."""
    photos, Ks = shrunk(scene, idx, LONG_SIDE, multiple=net.MULTIPLE, smallest=2 * net.MULTIPLE)
    return [torch.from_numpy(photo).permute(2, 0, 1).float() / 255 for photo in photos], Ks


def evenly(items: Sequence[int], most: int) -> list[int]:
    """At most `most` of them."""
    return [items[i] for i in torch.linspace(0, len(items) - 1, min(len(items), most)).round().long().tolist()]


def _run(network: net.Cascade, photos: list[Tensor], Ks: Tensor, viewmats: Tensor, around: Surroundings) -> list[tuple[Tensor, Tensor]]:
    """Depth and confidence of each photo, (h, w) at half its size."""
    coarse, fine = [], []
    turns = quarter_turns(viewmats)
    for photo, K, viewmat in (turned(*photo) for photo in zip(photos, Ks, viewmats, turns)):
        coarse += net.look(network.coarse_features, photo[None], K[None], viewmat[None])
        fine += net.look(network.fine_features, photo[None], K[None], viewmat[None])
    results = []
    for i, neighbours in enumerate(around.neighbours.tolist()):
        neighbours = [n for n in neighbours if n >= 0]
        shape = tuple(fine[i].features.shape[1:])
        if not neighbours:
            results.append((torch.full(shape, torch.nan).rot90(-turns[i]), torch.zeros(shape).rot90(-turns[i])))
            continue
        depths = net.planes(float(around.near[i]), float(around.far[i]), tuple(coarse[i].features.shape[1:])).to(photos[i])
        logits = net.coarse_logits(network, [coarse[i]], [[coarse[n] for n in neighbours]], [depths])
        depth = net.enlarged(net.expected_log_depth(logits, depths[None]).exp(), shape)
        for width in net.WIDTHS:
            logits, depths, confidence = net.fine_logits(network, [fine[i]], [[fine[n] for n in neighbours]], depth, width)
            depth = net.expected_log_depth(logits, depths).exp()
        results.append((depth[0].rot90(-turns[i]), confidence[0].sigmoid().rot90(-turns[i])))
    return results


def _with_sweep(scene: Scene, predicted: PredictedDepth) -> PredictedDepth:
    """The sweep's depths where they are confirmed, the network's elsewhere."""
    maps = depth_maps(scene, predicted.idx, long_side=LONG_SIDE // 2, num_depths=96)
    depths, chances = [], []
    for depth, chance, swept, confirmed in zip(predicted.depths, predicted.confidence, maps.depths, maps.confirmed):
        swept, confirmed = (F.interpolate(x[None, None], size=depth.shape, mode="nearest-exact")[0, 0] for x in (swept, confirmed.float()))
        better = (confirmed > 0) & (swept > 0)
        depths.append(torch.where(better, swept, depth))
        chances.append(torch.where(better, SWEEP_CONFIDENCE + 0.1 * chance, chance))
    return replace(predicted, depths=tuple(depths), confidence=tuple(chances))


def _masks(scene: Scene, predicted: PredictedDepth) -> list[Tensor] | None:
    if scene.masks is None:
        return None
    shapes = [depth.shape for depth in predicted.depths]
    masks = shrink_masks([scene.masks[i] for i in predicted.idx], [(width, height) for height, width in shapes])
    return None if masks is None else list(masks)


def _reason(scene: Scene, predicted: PredictedDepth) -> str:
    """Why there is no depth at all, and what to do."""
    count = len(predicted.idx)
    if count < 2:
        return "one photo alone tells no depth: add photos of the same things from elsewhere"
    centres = -(predicted.viewmats[:, :3, :3].mT @ predicted.viewmats[:, :3, 3:])[:, :, 0]
    if float((centres - centres.mean(0)).norm(dim=1).max()) < 1e-6:
        return f"the {count} photos were taken from one place, which tells no depth: add photos from elsewhere"
    return f"hardly anything is seen in two of the {count} photos, so that they tell no depth: add photos between them"

"""Scenes to learn from, and the start of an episode on one of them.

The pool holds real scenes (photos stay in memory, never on disk) and procedural ones (made when first drawn, cached as safetensors). An episode is
a scene at some size, turned at random, with its context and target views and the Gaussians and state that its optimization has reached.

Dense: all views but the targets are context, start from the scene's points. Sparse: a few neighbouring cameras are context, the next nearest ones
targets, start from the points that the context sees, moved along the rays as depth estimates are wrong. Turning matters because Adam normalises
per axis; the rule knows no unit of length, so the world's scale need not vary.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from ..errors import OptionError
from ..files import atomic_produce
from ..fitting.checkpoint import scene_digest
from ..gaussians import Gaussians, init_from_points
from ..initializers import DepthMaps, depth_maps
from ..optimizers import OptState, Task, UpdateRule
from ..scenes import Scene, Similarity, load_scene, make_procedural_scene
from ..scenes._masks import shrink_masks
from ..scenes.procedural import LAYOUTS
from .config import MetaConfig
from .courses import Course, Grounds, new_course

PROCEDURAL_VIEWS = 40
MIN_SPARSE_POINTS = 30  # Fewer seen points than this make no scene.
MAX_SPARSE_TARGETS = 4
DEPTH_NOISE = (0.01, 0.1)  # Relative, log-uniform: from good to poor feed-forward depth.
CACHED_SCENES, CACHED_DEPTHS = 256, 64  # Kept in memory: scenes at some size, about 3 MB each, and depth maps of some views.
MESSY_START_SHARE = 0.3  # Of the starts: wrong scales and displaced points.


class Dice:
    """Readable draws from one generator."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator, dtype=torch.float64))

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def integer(self, low: int, high: int) -> int:
        """low..high, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def log_uniform(self, low: float, high: float) -> float:
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def sample(self, items: Sequence[int], count: int) -> list[int]:
        """At most `count` different ones, in random order."""
        return [items[i] for i in torch.randperm(len(items), generator=self.generator)[:count].tolist()]

    def fork(self) -> torch.Generator:
        """A new generator, seeded from this one."""
        return torch.Generator().manual_seed(self.integer(0, 2**31 - 1))


@dataclass(frozen=True, eq=False)
class Episode:
    """A scene with its views, and how far its optimization has come."""

    scene: str  # Name in the pool.
    long_side: int
    rotation: Tensor  # (3, 3) float64
    context: tuple[int, ...]
    targets: tuple[int, ...]
    gaussians: Gaussians
    state: OptState
    course: Course | None = None  # Its way through a plan, if it follows one.

    @property
    def age(self) -> int:
        """Inner steps done."""
        return self.state.step


class ScenePool:
    """Scenes by name."""

    def __init__(self, config: MetaConfig, cache: Path, data: Sequence[Path], device: torch.device | str = "cpu") -> None:
        """`cache`: folder for procedural scenes; `data`: folders of real ones; `device`: of the Gaussians of every episode."""
        self.device = device
        self.largest = max(config.long_sides)
        self.cache = cache / str(self.largest)
        self.real: dict[str, Scene] = {}
        for path in data:
            scene = load_scene(path, long_side=self.largest)
            if scene.name in self.real:
                raise OptionError(f"two scenes of --data are called {scene.name}: rename one folder, scenes are known by name")
            self.real[scene.name] = scene
        self.digests = {name: scene_digest(scene) for name, scene in self.real.items()}
        self.procedural = [f"procedural_{LAYOUTS[i % len(LAYOUTS)]}_{i}" for i in range(config.procedural_pool)]
        self.get = lru_cache(maxsize=CACHED_SCENES)(self._get)
        self.depths = lru_cache(maxsize=CACHED_DEPTHS)(self._depths)

    def _get(self, name: str, long_side: int) -> Scene:
        scene = self.real[name] if name in self.real else self._procedural(name)
        return shrink(scene, long_side)

    def __contains__(self, name: str) -> bool:
        return name in self.real or name in self.procedural

    def _procedural(self, name: str) -> Scene:
        path = self.cache / f"{name}.safetensors"
        if not path.exists():
            _, layout, seed = name.split("_")
            size = {"width": self.largest, "height": 3 * self.largest // 4}
            # From 1000 on: the demo and the tests use small seeds.
            scene = make_procedural_scene(1000 + int(seed), layout=layout, num_views=PROCEDURAL_VIEWS, num_points=3000, **size)
            # Another process may be doing the same, to the same bits.
            atomic_produce(path, lambda temporary: save_file(_to_tensors(scene), temporary))
        return _from_tensors(name, load_file(path))

    def _depths(self, name: str, context: tuple[int, ...]) -> DepthMaps:
        """Of the scene as it stands; turning it changes no depth."""
        return depth_maps(self.get(name, self.largest), context)

    def start(self, config: MetaConfig, rule: UpdateRule, dice: Dice, meta_step: int = 0) -> Episode:
        """A new episode, everything about it drawn from `dice`. `meta_step`: plans grow with it."""
        procedural = not self.real or dice.chance(config.procedural_share)
        names = self.procedural if procedural else sorted(self.real)
        name = names[dice.integer(0, len(names) - 1)]
        long_side = config.long_sides[dice.integer(0, len(config.long_sides) - 1)]
        rotation = _placed(config, dice)
        scene = turned(self.get(name, long_side), rotation)
        views = _sparse(scene, config, dice) if dice.chance(config.sparse_share) else None
        context, targets, points, colors = views or _dense(scene, config, dice)
        if config.points_share is not None and views is None:
            points, colors = points[(colors != 0).any(1)], colors[(colors != 0).any(1)]
            count = max(1, min(round(dice.uniform(*config.points_share) * len(points)), config.points[1]))
        else:
            count = round(dice.log_uniform(*config.points))
        gaussians = init_from_points(points, colors, max_points=count, generator=dice.generator)
        if config.augment == "turn" and dice.chance(MESSY_START_SHARE):
            gaussians = _messy(gaussians, dice)
        count = len(context) if views and config.scheme == "greedy" else dice.integer(*config.views_per_step)  # published: all
        views = min(count, len(context))
        task = Task(views_per_step=views, num_views=len(context), view_angle=scene.view_angle(context))
        course = None
        if config.plan_share and dice.chance(config.plan_share):
            course = new_course(config, scene, context, gaussians, views, meta_step, dice)
            task = replace(task, scene_scale=replace(scene, train_idx=context).scene_scale or 1.0)  # that density controls measure by
        gaussians = gaussians.to(self.device)
        return Episode(name, long_side, rotation, context, targets, gaussians, rule.init(gaussians, task, dice.fork()), course)

    def scene_of(self, episode: Episode) -> Scene:
        """The scene as this episode sees it."""
        return turned(self.get(episode.scene, episode.long_side), episode.rotation)

    def grounds_of(self, episode: Episode) -> Grounds | None:
        """What it needs to follow its plan; None where it has none."""
        if episode.course is None:
            return None
        split = {"train_idx": episode.context, "test_idx": episode.targets}
        sizes = [self.get(episode.scene, stage.long_side) for stage in episode.course.plan.stages]
        scenes = tuple(replace(turned(scene, episode.rotation), **split) for scene in sizes)
        return Grounds(scenes, lambda: self.depths(episode.scene, episode.context))


def find_scenes(patterns: Sequence[str]) -> list[Path]:
    """Folders that match the glob patterns, sorted.

    Where a SOURCES.md beside them assigns roles (a table: `| name | role | ...`), only those of role `train` are taken: nothing that is meant for
    choosing or judging weights slips into their training.

    Raises:
        OptionError: a pattern matches no folder that may be trained on.
    """
    found: list[Path] = []
    for pattern in patterns:
        folders = [Path(path).resolve() for path in sorted(glob.glob(pattern)) if Path(path).is_dir()]
        usable = [folder for folder in folders if roles(folder.parent).get(folder.name, "train") == "train"]
        if not usable:
            raise OptionError(f"--data {pattern} matches {len(folders)} folders, none of them with role train: give folders of scenes, in quotes")
        found += [folder for folder in usable if folder not in found]
    return found


def roles(folder: Path) -> dict[str, str]:
    """Scene name -> role, as the table of `folder`/SOURCES.md says; empty without one."""
    sources = folder / "SOURCES.md"
    if not sources.is_file():
        return {}
    lines = sources.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[1] for row in rows if len(row) > 1 and row[1] in ("train", "val", "test")}


def shrink(scene: Scene, long_side: int) -> Scene:
    """The scene with photos of at most `long_side` px."""
    images, Ks = [], scene.Ks.clone()
    for i, image in enumerate(scene.images):
        height, width, _ = image.shape
        if max(height, width) <= long_side:
            images.append(image)
            continue
        size = (round(height * long_side / max(height, width)), round(width * long_side / max(height, width)))
        smaller = F.interpolate(image.permute(2, 0, 1)[None].float(), size=size, mode="bilinear", antialias=True, align_corners=False)
        images.append(smaller[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8))
        Ks[i, 0] *= size[1] / width
        Ks[i, 1] *= size[0] / height
    masks = shrink_masks(scene.masks, [(image.shape[1], image.shape[0]) for image in images])
    return replace(scene, images=tuple(images), Ks=Ks, masks=masks)


def turned(scene: Scene, rotation: Tensor) -> Scene:
    """Cameras and points rotated about the origin; where `rotation` (3, 3) mirrors, its determinant is -1, the photos are mirrored too."""
    similarity = Similarity(1.0, rotation, torch.zeros(3, dtype=torch.float64))
    scene = replace(scene, camtoworlds=similarity.apply_poses(scene.camtoworlds), points=similarity.apply(scene.points))
    if torch.det(rotation) > 0:
        return scene
    camtoworlds, Ks = scene.camtoworlds.clone(), scene.Ks.clone()
    camtoworlds[:, :3, 0] *= -1  # the x axis of every camera, so that poses are rotations again
    Ks[:, 0, 2] = torch.tensor([scene.size(i)[0] for i in range(len(scene))], dtype=Ks.dtype) - Ks[:, 0, 2]
    masks = None if scene.masks is None else tuple(mask.flip(1) for mask in scene.masks)
    return replace(scene, camtoworlds=camtoworlds, Ks=Ks, images=tuple(image.flip(1) for image in scene.images), masks=masks)


def _placed(config: MetaConfig, dice: Dice) -> Tensor:
    """(3, 3) float64: how an episode's world lies: turned at random, or, with p = 0.5, mirrored."""
    if config.augment == "turn":
        return random_rotation(dice.generator)
    return torch.diag(torch.tensor([-1.0 if dice.chance(0.5) else 1.0, 1.0, 1.0], dtype=torch.float64))


def random_rotation(generator: torch.Generator) -> Tensor:
    """(3, 3) float64, uniform: QR of a Gaussian matrix, signs fixed (Mezzadri, arXiv:math-ph/0609050)."""
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    q = q * torch.diagonal(r).sign()
    return q * torch.det(q).sign()


def _dense(scene: Scene, config: MetaConfig, dice: Dice) -> tuple[tuple[int, ...], tuple[int, ...], Tensor, Tensor]:
    """context, targets, points, colours."""
    order = dice.sample(range(len(scene)), len(scene))
    held_out = max(1, len(order) // config.held_out)
    low, high = (min(bound, len(order) - held_out) for bound in config.dense_views)
    count = round(dice.log_uniform(low, high))
    return tuple(order[held_out : held_out + count]), tuple(order[:held_out]), scene.points, scene.colors


def _sparse(scene: Scene, config: MetaConfig, dice: Dice) -> tuple[tuple[int, ...], tuple[int, ...], Tensor, Tensor] | None:
    """The same; None where the views see too little together."""
    centres = scene.camtoworlds[:, :3, 3]
    first = dice.integer(0, len(scene) - 1)
    nearest = (centres - centres[first]).norm(dim=1).argsort().tolist()
    count = min(dice.integer(*config.sparse_views), len(scene) - 1)
    # Every other camera of the neighbourhood is held out, as far as there are enough: targets lie between and beside the context.
    window = nearest[: count + min(MAX_SPARSE_TARGETS, len(scene) - count)]
    targets = dice.sample(window, len(window) - count)
    context = tuple(view for view in window if view not in targets)
    seen = scene.seen_points(context)
    if int(seen.sum()) < MIN_SPARSE_POINTS:
        return None
    points = scene.points[seen]
    observer = centres[list(context)][torch.randint(len(context), (len(points),), generator=dice.generator)]
    noise = dice.log_uniform(*DEPTH_NOISE) * torch.randn(len(points), 1, generator=dice.generator)
    return context, tuple(targets), observer + (points - observer) * noise.exp(), scene.colors[seen]


def _messy(gaussians: Gaussians, dice: Dice) -> Gaussians:
    """A start with scales that are wrong by up to a factor of 2 and points displaced by a fraction of them."""
    shift = dice.uniform(-0.7, 0.7)
    noise = torch.randn(gaussians.means.shape, generator=dice.generator) * gaussians.log_scales.exp() * dice.uniform(0, 0.5)
    return replace(gaussians, means=gaussians.means + noise, log_scales=gaussians.log_scales + shift)


def _to_tensors(scene: Scene) -> dict[str, Tensor]:
    return {
        "images": torch.stack(scene.images), "camtoworlds": scene.camtoworlds, "Ks": scene.Ks, "points": scene.points, "colors": scene.colors,
    }  # fmt: skip


def _from_tensors(name: str, tensors: dict[str, Tensor]) -> Scene:
    """All views are train views here: an episode chooses its own targets."""
    images = tuple(tensors.pop("images"))
    names = tuple(f"{i:04d}.png" for i in range(len(images)))
    rest = {"to_normalised": Similarity.identity(), "background": torch.zeros(3), "train_idx": tuple(range(len(images))), "test_idx": ()}
    return Scene(name, names, images, **rest, **tensors)

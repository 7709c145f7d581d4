"""Which few photos of a scene are fitted and which lie between them and are held out, and the index files that say so.

An index file is that of pixelSplat, MVSplat and DepthSplat (METHOD.md section 8): `{scene: {"context": [...], "target": [...]} | null}`, positions
among the sorted photos; a scene that is null takes no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import OptionError
from ..files import read_json
from .scene import Scene

TARGETS = 4  # photos held out, unless it is said how many
WIDEST = 5  # times as many photos as contexts is the widest window: 40 for 8 contexts, as DL3DV is evaluated
MAX_ANGLE = 15.0  # Degrees between neighbouring contexts. Farther apart, nothing can be told between them, and all ways to start are equally bad.


@dataclass(frozen=True)
class Index:
    """An evaluation index: scene -> (context, target), sorted positions; None: the scene takes no part."""

    scenes: dict[str, tuple[tuple[int, ...], tuple[int, ...]] | None]

    def views_of(self, scene: Scene) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(context, target) of a scene.

        Raises:
            OptionError: the file knows it not, skips it, or was made for other photos.
        """
        if scene.name not in self.scenes:
            known = ", ".join(list(self.scenes)[:5])
            raise OptionError(f"the index has no scene {scene.name}: it has {known}. Write one with learn2splat index")
        views = self.scenes[scene.name]
        if views is None:
            raise OptionError(f"the index skips {scene.name} (null): it has no views for it")
        if max(*views[0], *views[1]) >= len(scene):
            raise OptionError(
                f"the index names photo {max(*views[0], *views[1])} of {scene.name}, which has {len(scene)}: it was made for other photos"
            )
        return views

    @staticmethod
    def read(path: Path) -> Index:
        """
        Raises:
            OptionError: unreadable, empty, or a view that is both context and target.
        """
        try:
            entries = {str(scene): entry for scene, entry in read_json(path).items()}
            scenes = {
                scene: None if entry is None else tuple(tuple(sorted(map(int, entry[kind]))) for kind in ("context", "target"))
                for scene, entry in entries.items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise OptionError(f'{path} is no evaluation index ({error!r}): expected {{scene: {{"context": [...], "target": [...]}}}}') from error
        for scene, views in scenes.items():
            if views is not None:
                context, target = views
                both = (*context, *target)
                if not context or not target or len(set(both)) < len(both) or min(both) < 0:
                    raise OptionError(f"scene {scene} in {path} needs context and target views, from 0, none of them both or twice")
        return Index(scenes)

    def to_json(self) -> dict[str, dict[str, list[int]] | None]:
        """What stands in the file."""
        return {
            scene: None if views is None else {"context": list(views[0]), "target": list(views[1])} for scene, views in sorted(self.scenes.items())
        }


def choose_views(scene: Scene, context_views: int, *, targets: int = TARGETS, window: int | None = None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(context, target): a window in the middle of the sorted photos, contexts by farthest point in it, targets evenly over the rest of it.

    Args:
        context_views: from 1.
        targets: at most so many; fewer where the window has no more.
        window: photos; None: the widest of at most 5 per context whose neighbouring contexts are 15 degrees apart or less, and at least
            `context_views` + `targets`.

    Raises:
        OptionError: a number that makes no sense, or more contexts than photos, of which one is to be held out.
    """
    count = len(scene)
    if not 1 <= context_views < count or targets < 1:
        raise OptionError(
            f"context views must be 1 to {count - 1} ({scene.name} has {count} photos, and one at least is held out) with 1 target or more, "
            f"got {context_views} and {targets}"
        )
    if window is not None and window <= context_views:
        raise OptionError(f"a window must hold more photos than the {context_views} context views, got {window}")
    least = min(context_views + targets, count)
    sizes = [min(window, count)] if window is not None else range(min(WIDEST * context_views, count), least - 1, -1)
    sizes = list(sizes) or [least]
    context: list[int] = []
    first = 0
    for size in sizes:
        first = (count - size) // 2
        centres = scene.camtoworlds[first : first + size, :3, 3]
        context = [first + i for i in farthest_points(centres, context_views)]
        if context_views == 1 or _angle(scene, context) <= MAX_ANGLE:
            break
    rest = sorted(set(range(first, first + size)) - set(context))
    spread = torch.linspace(0, len(rest) - 1, min(targets, len(rest)), dtype=torch.float64).round().long()
    return tuple(context), tuple(rest[i] for i in spread.tolist())


def farthest_points(centres: Tensor, count: int) -> list[int]:
    """Positions, sorted: the one farthest from the mean of `centres` (M, 3), then always the one farthest from those chosen. Ties: the first."""
    centres = centres.double()
    chosen = [int((centres - centres.mean(0)).norm(dim=1).argmax())]
    nearest = torch.full((len(centres),), torch.inf, dtype=torch.float64)
    while len(chosen) < count:
        nearest = torch.minimum(nearest, (centres - centres[chosen[-1]]).norm(dim=1))
        nearest[chosen] = -1.0  # cameras in one place: none twice
        chosen.append(int(nearest.argmax()))
    return sorted(chosen)


def _angle(scene: Scene, views: Sequence[int]) -> float:
    """Degrees between neighbouring ones of `views`: over the points that they see, or without points between their axes."""
    angle = scene.view_angle(views) if len(scene.points) else None
    if angle is not None:
        return angle
    axes = F.normalize(scene.camtoworlds[list(views), :3, 2].double(), dim=1)
    cosines = (axes @ axes.mT).fill_diagonal_(-1.0)
    return float(cosines.amax(1).clamp(-1, 1).acos().rad2deg().median())

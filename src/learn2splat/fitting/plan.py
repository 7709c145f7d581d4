"""The plan of a run: photo sizes from coarse to fine, photos per step, when and how far to grow, when the iterates are averaged, when it ends.

Everything is placed on one axis, the *progress* of the run from 0 to 1: seconds over `seconds` where a time is given (so that a plan adapts to
the machine on the way), steps over `steps` where steps are given, the larger of the two where both are. Without either the run is *open*:
progress follows `OPEN_STEPS`, waits before `average_from` until the loss no longer improves (`settled`), and then makes `tail_steps` more.

`make_plan` is a pure function of what is known at the start. The same record drives `fit`, `bench` and meta-training, and is saved with every run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from ..errors import CheckpointError, OptionError

MAX_LONG_SIDE = 1600  # px; larger photos are shrunk to it on loading, as 3DGS does
OPEN_STEPS = 1500  # of an open run until its growth and changes of size are over; then it goes on until it has settled
OPEN_SECONDS = 1800.0  # the latest end of an open run
COARSEST = 150  # px: no photo is shrunk below it by a plan
MAX_DOWNSCALES = 3
# Time spent at each size, coarsest first. In a prototype, 6, 30 and 64 % beat 25, 35 and 40 %.
TIME_SHARES = {0: (1.0,), 1: (0.2, 0.8), 2: (0.06, 0.3, 0.64), 3: (0.04, 0.12, 0.28, 0.56)}
TYPICAL_STEP_SECONDS = 0.2  # where nobody has measured
MIN_LAST_STEPS = 40  # at the last size; where the time does not suffice for so many, the run ends at a smaller size
VIEWS = 8  # photos per step, ...
VIEWS_LARGE = 4  # ... and at sizes from this many pixels on, where 8 would leave too few steps
LARGE = 200_000
GROWTH_FROM, GROWTH_UNTIL = 0.04, 0.6
STEPS_PER_GROWTH = 12  # between two events of growth, at least
MAX_GROWTHS = {"error": 8, "default": 100, "mcmc": 100}
AVERAGE_FROM = 0.9
# Of a run that starts from a splat: an Adam-like rule knows at its first step only signs and moves everything as far as it ever does, 9 dB on `fern`.
WATCHED_STEPS = 10  # without a move, while the moments become what they are in the middle of a run, ...
EASED_STEPS = 8  # ... and then so many with a growing share of their moves
# Gaussians at the end, for photos of REFERENCE_PIXELS: REFERENCE_COUNT where REFERENCE_STEPS steps at the last size are affordable.
REFERENCE_PIXELS, REFERENCE_STEPS, REFERENCE_COUNT = 300_000, 90, 65_000
COUNT_POWER = 0.3
LEAST_GROWTH = 1.5  # times the start: SfM points lie where there is texture, and leave holes
PIXELS_PER_GAUSSIAN = 3  # a splat has no use for more Gaussians than a third of a photo's pixels, until photos show different things


@dataclass(frozen=True)
class Stage:
    """A part of the run at one size of the photos."""

    until: float  # progress at which it ends
    long_side: int  # px, of the largest photo; others are shrunk by the same ratio
    views_per_step: int


@dataclass(frozen=True)
class Growth:
    """An event at which the number of Gaussians may change."""

    at: float  # progress
    target: int  # Gaussians after it, at most


@dataclass(frozen=True)
class Plan:
    """What a run does when."""

    stages: tuple[Stage, ...]
    density: str = "none"  # the density control (`density.make_density`)
    growth: tuple[Growth, ...] = ()
    steps: int | None = None
    seconds: float | None = None
    open_ended: bool = False  # ends when it has settled, at the latest after `seconds`
    average_from: float = 1.0  # progress from which the iterates are averaged; 1: never
    tail_steps: int = 0  # of an open run, once it has settled
    warm: bool = False  # the start is a splat already: the rule watches for some steps before it moves anything (`share`)
    # What was asked for, None where the plan was free to choose: a resumed run must ask for the same.
    views_per_step: int | None = None
    num_downscales: int | None = None
    max_gaussians: int | None = None

    def progress(self, step: int, seconds: float, settled_at: int | None = None) -> float:
        """Where a run is, 0 to 1, after `step` steps that took `seconds`; `settled_at`: the step at which an open run was found to have settled."""
        if self.open_ended:
            waiting = min(step / OPEN_STEPS, 1.0) * self.average_from
            if settled_at is not None:
                waiting = self.average_from + (1 - self.average_from) * (step - settled_at) / max(1, self.tail_steps)
            late = 0.0 if self.seconds is None else seconds / self.seconds
            return min(1.0, max(waiting, late) if late >= self.average_from else waiting)
        shares = [1.0 if not limit else done / limit for done, limit in ((step, self.steps), (seconds, self.seconds)) if limit is not None]
        return min(1.0, max(shares, default=0.0))

    def stage(self, progress: float) -> int:
        """The number of the stage that a step at `progress` belongs to."""
        return next((k for k, stage in enumerate(self.stages) if progress < stage.until), len(self.stages) - 1)

    def due(self, progress: float) -> int:
        """How many events of growth should have happened."""
        return sum(growth.at <= progress for growth in self.growth)

    def share(self, step: int) -> float:
        """The share of its move that step `step` makes."""
        return min(1.0, max(0.0, (step - WATCHED_STEPS + 1) / EASED_STEPS)) if self.warm else 1.0

    def extended(self, steps: int | None, seconds: float | None) -> Plan:
        """The plan of a run that goes on with a larger budget: what is past stays where it was, and the last stage becomes longer."""
        ratios = [new / old for new, old in ((steps, self.steps), (seconds, self.seconds)) if new and old and new > old]
        if self.open_ended or not ratios:
            return self if self.open_ended else replace(self, steps=steps, seconds=seconds)
        ratio = min(ratios)
        stages = tuple(replace(stage, until=stage.until / ratio if stage.until < 1 else 1.0) for stage in self.stages)
        growth = tuple(replace(growth, at=growth.at / ratio) for growth in self.growth)
        return replace(self, stages=stages, growth=growth, steps=steps, seconds=seconds)

    def to_json(self) -> dict:
        """For `config.json` and checkpoints."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict) -> Plan:
        """The inverse of `to_json`.

        Raises:
            CheckpointError: it is not that of this version.
        """
        try:
            stages, growth = (tuple(kind(**item) for item in data[key]) for key, kind in (("stages", Stage), ("growth", Growth)))
            return Plan(**{**data, "stages": stages, "growth": growth})
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"the plan of this run was written by another version ({error}): start the run again") from error


def flat_plan(long_side: int, *, steps: int | None, seconds: float | None, views_per_step: int) -> Plan:
    """One size, the Gaussians of the start, and no average: the laboratory."""
    stages = (Stage(1.0, long_side, views_per_step),)
    return Plan(stages, steps=steps, seconds=seconds, views_per_step=views_per_step, num_downscales=0)


def make_plan(
    sizes: Sequence[tuple[int, int]],
    num_gaussians: int,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    step_seconds: float | None = None,
    views_per_step: int | None = None,
    num_downscales: int | None = None,
    density: str = "error",
    max_gaussians: int | None = None,
    warm: bool = False,
) -> Plan:
    """The plan of a run.

    Args:
        sizes: (width, height) px of the train photos.
        num_gaussians: of the start.
        steps, seconds: the budget; neither: an open run.
        step_seconds: measured time of a step of 4 photos at full size; None: not known, as where steps are the budget.
        views_per_step: at every size; None: 8, and 4 at large sizes.
        num_downscales: how many times the photos are halved at the start; None: by their size.
        density: the density control; "none" keeps the Gaussians of the start.
        max_gaussians: never more.
        warm: the start is a splat already.

    Raises:
        OptionError: a value makes no sense.
    """
    if num_downscales is not None and not 0 <= num_downscales <= MAX_DOWNSCALES:
        raise OptionError(f"num_downscales must be 0 to {MAX_DOWNSCALES}, got {num_downscales}")
    if max_gaussians is not None and max_gaussians < 1:
        raise OptionError(f"max_gaussians must be at least 1, got {max_gaussians}")
    open_ended = steps is None and seconds is None
    long_side = max(max(size) for size in sizes)
    pixels = sorted(width * height for width, height in sizes)[len(sizes) // 2]
    halvings = num_downscales
    if halvings is None:
        halvings = min(MAX_DOWNSCALES, max(0, math.floor(math.log2(long_side / COARSEST))))
    sides = [max(1, round(long_side / 2**k)) for k in range(halvings, -1, -1)]
    views = [views_per_step or (VIEWS_LARGE if pixels * (side / long_side) ** 2 >= LARGE else VIEWS) for side in sides]
    costs = [count * (pixels * (side / long_side) ** 2 + 20_000) for count, side in zip(views, sides)]  # of a step, in pixels
    shares = list(TIME_SHARES[halvings])
    affordable = steps  # steps at the last size
    if seconds is not None and steps is None and step_seconds is None:
        affordable = shares[-1] * seconds / TYPICAL_STEP_SECONDS
    elif step_seconds is not None and seconds is not None:
        affordable = shares[-1] * seconds / (step_seconds * views[-1] / VIEWS_LARGE)
        while num_downscales is None and affordable < MIN_LAST_STEPS and len(sides) > 1:
            ratio = costs[-1] / costs[-2]
            sides, views, costs, pixels = sides[:-1], views[:-1], costs[:-1], pixels / 4
            shares = list(TIME_SHARES[len(sides) - 1])
            affordable *= ratio
    elif steps is not None:
        total = sum(share / cost for share, cost in zip(shares, costs))
        shares = [share / cost / total for share, cost in zip(shares, costs)]  # of the steps
        affordable = shares[-1] * steps
    elif open_ended:
        total = sum(share / cost for share, cost in zip(shares, costs))
        affordable, shares = 10 * REFERENCE_STEPS, [share / cost / total for share, cost in zip(shares, costs)]
    untils = [sum(shares[: k + 1]) for k in range(len(shares))]
    if open_ended:  # all changes of size before the tail
        untils = [until * AVERAGE_FROM for until in untils]
    stages = tuple(Stage(1.0 if k == len(sides) - 1 else until, side, count) for k, (until, side, count) in enumerate(zip(untils, sides, views)))
    growth = () if density == "none" else _growth(density, num_gaussians, pixels, affordable, shares, max_gaussians)
    return Plan(
        stages,
        density,
        growth,
        steps,
        OPEN_SECONDS if open_ended else seconds,
        open_ended,
        AVERAGE_FROM,
        OPEN_STEPS // 10 if open_ended else 0,
        warm,
        views_per_step,
        num_downscales,
        max_gaussians,
    )


def final_count(num_gaussians: int, pixels: float, affordable: float, max_gaussians: int | None) -> int:
    """Gaussians at the end of a run whose last size has so many `pixels` and an `affordable` number of steps."""
    wanted = REFERENCE_COUNT * (pixels / REFERENCE_PIXELS) ** 0.7 * (max(affordable, 1.0) / REFERENCE_STEPS) ** COUNT_POWER
    wanted = max(round(min(max(wanted, LEAST_GROWTH * num_gaussians), pixels / PIXELS_PER_GAUSSIAN)), num_gaussians)
    return wanted if max_gaussians is None else max(min(wanted, max_gaussians), 1)


def _growth(density: str, num_gaussians: int, pixels: float, affordable: float, shares: list[float], max_gaussians: int | None) -> tuple[Growth, ...]:
    final = final_count(num_gaussians, pixels, affordable, max_gaussians)
    steps = affordable / shares[-1]  # of the whole run, roughly
    count = max(1, min(MAX_GROWTHS.get(density, 8), int(steps * (GROWTH_UNTIL - GROWTH_FROM) / STEPS_PER_GROWTH)))
    events = []
    for k in range(count):
        at = GROWTH_FROM + (GROWTH_UNTIL - GROWTH_FROM) * (k / max(1, count - 1))
        events.append(Growth(at, round(num_gaussians + (final - num_gaussians) * ((k + 1) / count))))
    if density == "error" and final <= num_gaussians:  # it only adds; the others also move and remove
        return ()
    return tuple(events)

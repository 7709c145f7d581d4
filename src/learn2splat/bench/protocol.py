"""What is compared, and by which rules: everything here is written into every result.

| protocol | budget | every optimizer gets |
|---|---|---|
| `paper` | `adam:1000` | as many seconds as `adam` took for 1000 steps, in the same process, scene and seed (docs/method.md section 5) |
| `steps` | `steps:300` | 300 steps |
| `seconds` | `seconds:60` | 60 seconds of optimization |
| `gsplat`, `inria` | any of these | what the budget says; PSNR and SSIM are measured as these projects do (`metrics.py`) |

A run is over after the first step that reaches its seconds, so it may be longer than its budget by less than a step.

Settings: `dense` fits all photos but every `test_every`-th; `sparse` fits `context_views` of a window, all in every step, and holds out some between
them (`scenes/views.py`), with points that follow from these alone (`scenes/context.py`).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from ..density import make_density
from ..errors import BackendError, OptionError
from ..files import clashing, file_name
from ..fitting.plan import VIEWS, Plan, flat_plan, make_plan
from ..optimizers import UpdateRule, make_optimizer
from ..scenes import Scene

FORMAT = 1
SLICE_SECONDS = 1.0  # How long one optimizer runs before the next gets its turn: shorter than what neighbours on a machine usually do.
MEMORY_RUNS = 5  # Of the warm-up, whose median peak is the memory of a cell.
WARM_UP_STEPS = 2  # Made and thrown away before the clock starts: first calls import, allocate and start threads.
LATER_FIELDS = {
    "metrics": "ours",
    "suite": None,
    "size": None,
    "index": None,
    "density": "none",
    "num_downscales": 0,
    "max_gaussians": None,
    "init": "sfm",
}
SPARSE_VIEWS = "farthest points in a window, points from the context alone"  # how views are chosen; results of another way keep their own folder


@dataclass(frozen=True)
class Budget:
    """What ends a run. Exactly one of `seconds` and `steps` is set; `reference` names the optimizer whose time for `steps` all get."""

    reference: str | None = None
    steps: int | None = None
    seconds: float | None = None

    @staticmethod
    def parse(text: str) -> Budget:
        """`adam:1000`, `steps:300` or `seconds:60`."""
        kind, _, amount = text.rpartition(":")
        try:
            if kind == "seconds":
                budget = Budget(seconds=float(amount))
            else:
                budget = Budget(reference=None if kind == "steps" else kind, steps=int(amount))
        except ValueError:
            kind = ""
        if not kind or not 0 < (budget.seconds or budget.steps or 0) < 1e9:
            raise OptionError(f"a budget is OPTIMIZER:STEPS (as adam:1000), steps:N or seconds:S with a positive number, got {text!r}")
        return budget

    @property
    def protocol(self) -> str:
        return "seconds" if self.steps is None else "steps" if self.reference is None else "paper"

    def __str__(self) -> str:
        return f"seconds:{self.seconds:g}" if self.steps is None else f"{self.reference or 'steps'}:{self.steps}"


@dataclass(frozen=True)
class Protocol:
    """The rules of one comparison. Results of different protocols never mix."""

    budget: Budget = Budget(reference="adam", steps=1000)
    long_side: int | None = 256  # px; None: as the photos are
    max_points: int | None = 5000  # of the start; None: all
    views_per_step: int | None = 8  # None: as the plan has it
    test_every: int = 8
    context_views: int | None = None  # None: dense
    init: str = "sfm"  # the start of all (initializers/starts.py)
    device: Literal["cpu", "cuda"] = "cpu"
    metrics: Literal["ours", "gsplat", "inria"] = "ours"  # metrics.py
    suite: str | None = None  # suites.py; None: folders given one by one
    size: tuple[int, int] | None = None  # (height, width) px by covering and cropping, in place of `long_side`
    density: str = "none"  # the density control of all, but of contenders that name their own
    num_downscales: int | None = 0  # how often the photos are halved at the start; None: as the plan has it
    max_gaussians: int | None = None  # None: as the plan has it
    index: str | None = None  # digest of the evaluation index that says which views are context and which are targets

    @property
    def planned(self) -> bool:
        """Whether runs go from coarse to fine or grow; else they have one size and the Gaussians of the start."""
        return self.density != "none" or self.num_downscales != 0

    def plan(self, scene: Scene, num_gaussians: int, step_seconds: float | None, contender: Contender) -> Plan:
        """The plan of a run; the same for all contenders but for what they ask for by name."""
        budget, sizes = self.budget, [scene.size(i) for i in scene.train_idx]
        if contender.flat or (not self.planned and contender.density is None):
            long_side = max(max(size) for size in sizes)
            steps = budget.steps if budget.reference in (None, contender.label) else None
            return flat_plan(long_side, steps=steps, seconds=budget.seconds, views_per_step=self.views_per_step or VIEWS)
        return make_plan(
            sizes,
            num_gaussians,
            steps=budget.steps,
            seconds=budget.seconds,
            step_seconds=step_seconds,
            views_per_step=self.views_per_step,
            num_downscales=0 if contender.full_size else self.num_downscales,
            density=contender.density or self.density,
            max_gaussians=self.max_gaussians,
        )

    @property
    def chooses_views(self) -> bool:
        """Whether context and held-out photos are chosen here; else scenes come with them."""
        return self.context_views is not None and self.suite is None and self.index is None

    @property
    def setting(self) -> str:
        return "dense" if self.context_views is None else "sparse"

    def torch_device(self) -> torch.device:
        """
        Raises:
            BackendError: there is no such device here.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise BackendError(f"device cuda needs a CUDA device, and torch {torch.__version__} finds none: use cpu, or a CUDA build of torch")
        return torch.device(self.device)

    def describe(self) -> dict[str, object]:
        """JSON-able, with all that `key` depends on."""
        name = self.budget.protocol if self.metrics == "ours" else self.metrics
        rules = {"name": name, "setting": self.setting, **asdict(self), "budget": str(self.budget)}
        for later, default in LATER_FIELDS.items():  # results from before these fields existed keep their key
            if rules[later] == default:
                del rules[later]
        if self.chooses_views:
            rules["views"] = SPARSE_VIEWS
        return {**rules, "slice_seconds": SLICE_SECONDS, "warm_up_steps": WARM_UP_STEPS, "format": FORMAT}

    @property
    def key(self) -> str:
        """A folder name that differs whenever the rules do."""
        views = "" if self.context_views is None else str(self.context_views)
        size = f"{self.long_side}px" if self.long_side is not None else "full"
        size = size if self.size is None else "{}x{}".format(*self.size)
        digest = hashlib.blake2b(json.dumps(self.describe(), sort_keys=True).encode(), digest_size=3).hexdigest()
        return f"{file_name(str(self.budget))}-{self.setting}{views}-{size}-{digest}"


@dataclass(frozen=True)
class Contender:
    """An optimizer in a comparison: how it is made, what it is called in tables, and how it spends its time where not as all do."""

    spec: str
    label: str
    optimizer: str = ""  # the part of `spec` that `make` makes
    density: str | None = None  # a density control of its own
    full_size: bool = False  # from the first step on
    flat: bool = False  # the full size, the Gaussians of the start and 8 views per step: `fit` before it had plans

    @staticmethod
    def parse(spec: str) -> Contender:
        """A name for `make_optimizer`, or `name@weights.safetensors` for trained weights of `learned`, `anchored` or `paper`; after it `+default`,
        `+mcmc` or another density control, and `+full` for the full size of the photos from the first step on. `+flat`: without a plan.
        """
        optimizer, *ways = _split(spec, "+")
        name, weights = [*_split(optimizer, "@", 1), ""][:2]
        short = name.rpartition(":")[2]
        label = f"{short}@{Path(weights).stem}" if weights else short
        controls = [way for way in ways if way not in ("full", "flat")]
        if len(controls) > 1 or len(ways) - len(controls) > 1 or ("flat" in ways and controls):
            raise OptionError(f"after an optimizer come at most one density control and +full, or +flat, got {spec!r}")
        for control in controls:
            make_density(control)
        return Contender(spec, "+".join([label, *ways]), optimizer, controls[0] if controls else None, "full" in ways, "flat" in ways)

    def make(self) -> UpdateRule:
        """A new rule. Raises OptionError or CheckpointError where there is none."""
        return make_optimizer(self.optimizer)


def _split(spec: str, mark: str, times: int = -1) -> list[str]:
    """`spec` at every `mark`, but not in the path of a rule of one's own, `dir/file.py:factory`."""
    path = re.match(r"(.*\.py:)?", spec)[0]
    first, *rest = spec[len(path) :].split(mark, times)
    return [path + first, *rest]


def parse_contenders(specs: list[str], budget: Budget) -> list[Contender]:
    """The contenders, that of the budget first: its time is the measure of the others.

    Raises:
        OptionError: none, two of one label, one that cannot be made, or the reference is missing.
    """
    contenders = [Contender.parse(spec) for spec in specs]
    labels = [contender.label for contender in contenders]
    if not labels:
        raise OptionError("no optimizers to compare: give names with --optimizers, as adam,learned")
    twice = clashing(labels)
    if twice:
        raise OptionError(f"two optimizers would be called {twice[0]}, or nearly, in the table: give each one once, under names of their own")
    for contender in contenders:
        contender.make()
    if budget.reference is not None:
        if budget.reference not in labels:
            raise OptionError(f"the budget {budget} is measured on {budget.reference}: add it to --optimizers")
        contenders.sort(key=lambda contender: contender.label != budget.reference)
    return contenders


def is_mark(value: float) -> bool:
    """Whether a step count is one at which every run is scored: 0, 1, 2, 3, 5, 10, 20, 30, 50, ..."""
    return value == 0 or value in marks_up_to(value)


def marks_up_to(limit: float, *, start: float = 1.0) -> list[float]:
    """1, 2, 3, 5, 10, 20, ... up to `limit`; `start` is a power of ten: steps from 1, seconds from 0.1."""
    marks, decade = [], start
    while decade <= limit:
        marks += [round(factor * decade, 6) for factor in (1, 2, 3, 5) if factor * decade <= limit * (1 + 1e-9)]
        decade *= 10
    return marks


def passed_mark(before: float, after: float) -> bool:
    """Whether seconds went past one of 0.1, 0.2, 0.3, 0.5, 1, ...: the first state at or after each of these is scored."""
    return len(marks_up_to(after, start=0.1)) > len(marks_up_to(before, start=0.1))

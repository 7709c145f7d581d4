"""`learn2splat bench`: compare optimizers on scenes; the same command goes on after a stop."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..bench import Budget, Protocol, run_bench
from ..bench.executors import SceneSource, make_tasks, run_in_processes, run_on_ray
from ..bench.protocol import parse_contenders
from ..bench.report import check_folder
from ..bench.suites import SUITES, SuiteIndex, Views, read_suite_index, suite_sources
from ..errors import OptionError, SceneError
from ..scenes import Scene
from ..scenes.context import context_scene
from ..scenes.views import Index
from .bench_progress import BenchProgress
from .common import Command, DeviceName, Interrupted, MaybeInt, MaybePath, stop_on_signals
from .fit import Densify
from .report import show_report
from .result import open_scene, with_notes

ScenePaths = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[SCENE ...]", help_behavior_hint="")]
ProtocolName = Literal["paper", "steps", "gsplat", "inria"]
FIXED_BY_PAPER = ("long_side", "max_points", "views_per_step", "test_every")
SuiteName = Literal["mipnerf360", "llff", "dtu", "dl3dv", "re10k", "colmap"]


@dataclass(frozen=True)
class Bench(Command):
    """Compare optimizers on scenes, from the same starts, with the same photos in the same order, and write a report.

    Stop it at any moment: the same command goes on, and runs that are finished are never made again."""

    scenes: ScenePaths = ()
    """Folders with photos and camera poses (COLMAP or transforms.json). With --suite: names of the suite's scenes; none for all."""
    optimizers: str = "adam,adam-tuned,learned"
    """Names with commas between them; name@file.safetensors for weights of one's own, module:factory or file.py:factory for one's own rule."""
    budget: Annotated[str | None, tyro.conf.arg(metavar="STR", help_behavior_hint="")] = None
    """When a run is over: adam:1000, when it has had as many seconds as adam takes for 1000 steps; steps:300; or seconds:60. (default: adam:1000)"""
    protocol: Annotated[ProtocolName | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """paper: budget adam:4000, all points, photos as they are or as published for a suite; steps: equal steps; gsplat, inria: their PSNR and SSIM."""
    suite: Annotated[SuiteName | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """A data set in the folders that it is published in: mipnerf360, llff, dtu, dl3dv, re10k or colmap (any folder with a model)."""
    data: MaybePath = None
    """The folder of the suite."""
    index: MaybePath = None
    """Which photos are context and which are held out, with --setting sparse: a file of learn2splat index, pixelSplat, MVSplat or DepthSplat."""
    size: Annotated[str | None, tyro.conf.arg(metavar="HxW", help_behavior_hint="")] = None
    """Photos of a suite at exactly this height and width, as 512x960: shrunk to cover it, then cropped. In place of --long-side."""
    seeds: int = 1
    """Runs of each optimizer on each scene, with seeds from 0."""
    out: Path = Path("out/bench")
    """Folder for the results, report.html, report.md and results.csv. Results of other options stay beside these."""
    setting: Literal["dense", "sparse"] = "dense"
    """Fit all photos that are not held out, or only --context-views of them, all in every step."""
    context_views: MaybeInt = None
    """Photos that are fitted in the sparse setting; 8 by default."""
    init: Annotated[Literal["sfm", "feedforward", "stereo", "depth", "random"], tyro.conf.arg(metavar="NAME")] = "sfm"
    """What all start from: as in fit. In the sparse setting only sfm and depth see points, those of the context photos."""
    densify: Densify | None = None
    """How all grow: error, default, mcmc or none. An optimizer called name+mcmc, name+default, ... has its own way, and name+full begins at the full
    size. (default: error where the budget is a time, as in fit; else none)"""
    num_downscales: MaybeInt = None
    """How many times the photos are halved at the start. Default: as in fit where runs grow, else 0."""
    max_gaussians: MaybeInt = None
    """Never more Gaussians than this. Default: as in fit."""
    long_side: MaybeInt = None
    """Photos are scaled down to so many px; 0 leaves them as they are. Default: 0 where runs grow, else 256."""
    max_points: MaybeInt = None
    """So many of the scene's points at most become Gaussians; 0 for all. Default: all where runs grow and in the sparse setting, else
    5000."""
    views_per_step: MaybeInt = None
    """Photos per step. Default: as in fit where runs grow, else 8; all in the sparse setting."""
    test_every: int = 8
    """Every so many-th photo, by name, is held out."""
    device: DeviceName = "cpu"
    """Where everything runs."""
    executor: Literal["local", "ray"] = "local"
    """Processes of this machine, or a Ray cluster: the one at RAY_ADDRESS, or one that is started here. All must see the folder --out."""
    workers: MaybeInt = None
    """Scenes and seeds that run at the same time: 1 by default, one per core with ray. More than one per machine makes seconds those of a crowd."""
    save_every: float = 30.0
    """Seconds between saves of the runs under way."""

    def run(self) -> None:
        index = None if self.index is None else read_suite_index(self.index)
        protocol, optimizers = self.rules(index), [name.strip() for name in self.optimizers.split(",") if name.strip()]
        self._check(protocol, optimizers)
        sources, same = self.sources(protocol, index), {"command": ("learn2splat", *sys.argv[1:]), "save_every": self.save_every}
        with stop_on_signals() as should_stop, BenchProgress(len(sources) * self.seeds) as progress:
            calls = {"on_progress": progress, "should_stop": should_stop}
            if self.executor == "local" and self.workers in (None, 1):
                finished = run_bench((source.load() for source in sources), optimizers, protocol, self.out, seeds=self.seeds, **same, **calls)
            else:
                tasks = make_tasks(sources, self.seeds, optimizers=tuple(optimizers), protocol=protocol, out=self.out.resolve(), **same)
                finished = run_on_ray(tasks, self.workers, **calls) if self.executor == "ray" else run_in_processes(tasks, self.workers, **calls)
        if not finished:
            raise Interrupted(f"stopped; everything is saved in {self.out}, the same command goes on")
        show_report(self.out, protocol.key)

    def rules(self, index: SuiteIndex | None) -> Protocol:
        """What the options describe. Raises OptionError where they contradict each other."""
        if self.setting == "dense" and (self.context_views is not None or index is not None):
            option = "--index" if index is not None else "--context-views"
            raise OptionError(f"{option} belongs to --setting sparse: in the dense setting all photos but the held-out ones are fitted")
        if index is not None and self.context_views not in (None, index.context_views):
            raise OptionError(f"--context-views {self.context_views} contradicts --index, which has {index.context_views} context views per scene")
        views = self.context_views or (8 if index is None else index.context_views)
        paper = self.protocol == "paper"
        default = {"paper": "adam:4000", "steps": "steps:1000"}.get(self.protocol, "adam:1000")
        budget = Budget.parse(self.budget or default)
        if self.protocol in ("paper", "steps") and budget.protocol != self.protocol:
            raise OptionError(f"--protocol {self.protocol} needs a budget as {default}, got --budget {budget}")
        changed = [field.name for field in fields(self) if field.name in FIXED_BY_PAPER and getattr(self, field.name) != field.default]
        if paper and changed:
            raise OptionError(f"--protocol paper fixes --{changed[0].replace('_', '-')}: leave it out, or leave out --protocol")
        size = self._size(paper)
        grows = budget.protocol == "seconds" and not paper and self.suite is None
        density = self.densify or ("error" if grows else "none")
        halvings = self.num_downscales if self.num_downscales is not None or density != "none" else 0
        laboratory = density == "none" and halvings == 0
        most_points = 5000 if laboratory and self.setting == "dense" else None
        if budget.reference is not None and not laboratory:
            raise OptionError(f"--budget {budget} is for runs of one size without growth: give --budget seconds:60 or steps:300 to runs that grow")
        return Protocol(
            budget=budget,
            long_side=None if paper or size is not None else ((256 if laboratory else None) if self.long_side is None else self.long_side or None),
            max_points=None if paper else (most_points if self.max_points is None else self.max_points or None),
            views_per_step=self.views_per_step or (views if self.setting == "sparse" else 8 if laboratory else None),
            density=density,
            num_downscales=halvings,
            max_gaussians=self.max_gaussians,
            test_every=self.test_every,
            context_views=None if self.setting == "dense" else views,
            device=self.device,
            init=self.init,
            metrics=self.protocol if self.protocol in ("gsplat", "inria") else "ours",
            suite=self.suite,
            size=size,
            index=None if index is None else index.digest,
        )

    def _size(self, paper: bool) -> tuple[int, int] | None:
        """(height, width) of a suite's photos."""
        if self.suite is None:
            return None
        if self.size is not None:
            match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", self.size)
            if match is None:
                raise OptionError(f"--size is a height and a width in px, as 512x960, got {self.size!r}")
            return int(match[1]), int(match[2])
        sizes = SUITES[self.suite].sizes
        return sizes[0] if paper and sizes else None

    def _check(self, protocol: Protocol, optimizers: list[str]) -> None:
        """Everything that can be known to be wrong before the first scene is loaded."""
        if self.suite is None and (self.data is not None or self.size is not None):
            raise OptionError("--data and --size belong to --suite: name the data set")
        if self.suite is not None and self.data is None:
            raise OptionError(f"--suite {self.suite} needs --data, the folder of the data set")
        if self.suite is None and not self.scenes:
            raise OptionError("no scenes: give one or more folders with photos and camera poses")
        if self.out.exists() and not self.out.is_dir():
            raise OptionError(f"--out must be a folder, and {self.out} is a file")
        check_folder(self.out)
        for name in ("seeds", "workers", "max_gaussians", "views_per_step"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        for name in ("max_points", "long_side"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise OptionError(f"--{name.replace('_', '-')} must be 0 or more, got {value}")
        if not self.save_every > 0:
            raise OptionError(f"--save-every must be positive, got {self.save_every}")
        protocol.torch_device()
        parse_contenders(optimizers, protocol.budget)
        missing = [str(path) for path in self.scenes if self.suite is None and not path.exists()]
        if missing:
            raise SceneError(f"no such folder: {', '.join(missing)}")

    def sources(self, protocol: Protocol, index: SuiteIndex | None) -> list[SceneSource]:
        """What every worker loads by itself."""
        if self.suite is None:
            paths = [path.resolve() for path in self.scenes]
            sparse = protocol.context_views is not None
            load = partial(open_scene, long_side=protocol.long_side or 0, data_factor=1, test_every=protocol.test_every, observations=sparse)
            return [SceneSource(path.name, partial(_of_index, load, index, path)) for path in paths]
        views = Views(protocol.test_every, protocol.context_views, index)
        found = {source.name: source for source in suite_sources(self.suite, self.data, views, protocol.size, protocol.long_side)}
        names = [str(name) for name in self.scenes] or list(found)
        unknown = [name for name in names if name not in found]
        if unknown:
            raise SceneError(f"suite {self.suite} in {self.data} has no scene {', '.join(unknown)}: it has {', '.join(list(found)[:20])}")
        return [SceneSource(name, partial(with_notes, found[name].load)) for name in names]


def _of_index(load: Callable[..., Scene], index: SuiteIndex | None, path: Path) -> Scene:
    """The scene at `path` as it is, or with its views in the index."""
    scene = load(path)
    return scene if index is None else context_scene(scene, *Index(dict(index.scenes)).views_of(scene))

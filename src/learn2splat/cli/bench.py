"""`learn2splat bench`: compare optimizers on scenes; the same command goes on after a stop."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..bench import Budget, Protocol, run_bench
from ..bench.executors import SceneSource, make_tasks, run_in_processes, run_on_ray
from ..bench.protocol import parse_contenders
from ..errors import OptionError, SceneError
from .bench_progress import BenchProgress
from .common import Command, DeviceName, Interrupted, MaybeInt, stop_on_signals
from .report import show_report
from .result import open_scene

ScenePaths = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SCENE [SCENE ...]", help_behavior_hint="")]


@dataclass(frozen=True)
class Bench(Command):
    """Compare optimizers on scenes, from the same starts, with the same photos in the same order, and write a report.

    Stop it at any moment: the same command goes on, and runs that are finished are never made again."""

    scenes: ScenePaths
    """Folders with photos and camera poses (COLMAP or transforms.json)."""
    optimizers: str = "adam,adam-tuned,learned"
    """Names with commas between them; name@file.safetensors for weights of one's own, module:factory or file.py:factory for one's own rule."""
    budget: str = "adam:1000"
    """When a run is over: adam:1000, when it has had as many seconds as adam takes for 1000 steps; steps:300; or seconds:60."""
    seeds: int = 1
    """Runs of each optimizer on each scene, with seeds from 0."""
    out: Path = Path("out/bench")
    """Folder for the results, report.html, report.md and results.csv. Results of other options stay beside these."""
    setting: Literal["dense", "sparse"] = "dense"
    """Fit all photos that are not held out, or only --context-views of them."""
    context_views: MaybeInt = None
    """Photos that are fitted in the sparse setting; 8 by default."""
    long_side: MaybeInt = 256
    """Photos are scaled down to so many px; None leaves them as they are. (default: 256)"""
    max_points: MaybeInt = 5000
    """So many of the scene's points at most become Gaussians; None for all. (default: 5000)"""
    views_per_step: int = 8
    """Photos per step."""
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
        protocol, optimizers = self.protocol(), [name.strip() for name in self.optimizers.split(",") if name.strip()]
        self._check(protocol, optimizers)
        sources, same = self.sources(protocol), {"command": ("learn2splat", *sys.argv[1:]), "save_every": self.save_every}
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

    def protocol(self) -> Protocol:
        """The rules that the options describe."""
        if self.setting == "dense" and self.context_views is not None:
            raise OptionError("--context-views belongs to --setting sparse: in the dense setting all photos but the held-out ones are fitted")
        context_views = None if self.setting == "dense" else 8 if self.context_views is None else self.context_views
        return Protocol(
            budget=Budget.parse(self.budget),
            long_side=self.long_side,
            max_points=self.max_points,
            views_per_step=self.views_per_step,
            test_every=self.test_every,
            context_views=context_views,
            device=self.device,
        )

    def _check(self, protocol: Protocol, optimizers: list[str]) -> None:
        """Everything that can be known to be wrong before the first scene is loaded."""
        if not self.scenes:
            raise OptionError("no scenes: give one or more folders with photos and camera poses")
        if self.out.exists() and not self.out.is_dir():
            raise OptionError(f"--out must be a folder, and {self.out} is a file")
        for name in ("seeds", "workers", "max_points", "views_per_step"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if not self.save_every > 0:
            raise OptionError(f"--save-every must be positive, got {self.save_every}")
        protocol.torch_device()
        parse_contenders(optimizers, protocol.budget)
        missing = [str(path) for path in self.scenes if not path.exists()]
        if missing:
            raise SceneError(f"no such folder: {', '.join(missing)}")

    def sources(self, protocol: Protocol) -> list[SceneSource]:
        """What every worker loads by itself."""
        paths = [path.resolve() for path in self.scenes]
        return [SceneSource(path.name, partial(open_scene, path, protocol.long_side, 1, protocol.test_every)) for path in paths]

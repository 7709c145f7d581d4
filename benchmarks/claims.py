"""What the packaged weights must show, measured against target: one table, exit code 1 where a target is missed or not measured.

    python benchmarks/claims.py --workers 2                        # everything that is not in --out yet; hours on two cores
    python benchmarks/claims.py --only equal-time --seeds 1        # one part; the others are shown as far as they were measured before
    python benchmarks/claims.py --only views-2 size-512px          # some of the benches of parts that have several
    python benchmarks/claims.py --only none                        # the table of what is stored
    python benchmarks/pack.py benchmarks/results/claims.jsonl runs/claims    # before that: to go on with the results that the README shows

Scenes: those of role `val` in SOURCES.md, never trained on. Every part is a `bench` of its own (results in --out, so it stops and goes on like one):

    equal-time   long side 256 px, at most 5000 points, as many seconds as adam takes for 1000 steps; seeds 0-2
    long         the same size, 4000 steps on all scenes and 20 000 on two, learned alone
    size         adam's time for 300 steps at 512 px and at the full size (at most 640 px: the photos are not larger), and with 10 000 (seeds 0-2)
                 and 50 000 points (between neighbouring ones, because the scenes have no more)
    views        adam's time for 300 steps with 2, 4 and 16 photos per step; seeds 0-2
    sparse       few photos: claims_sparse.py; alone it has a table of its own
    time-60      full size, coarse to fine and with growth, 60 seconds; seeds 0-2; time-300 and time-1800 with one

Where no seeds are named it is seed 0 alone: those take longest.

"Best Adam": the best of adam, adam-tuned, adam-gsplat and adam-auto, chosen per scene and seed by the very number that is compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from learn2splat import load_scene
from learn2splat.bench import Budget, Cell, Protocol, read_cells
from learn2splat.bench.executors import SceneSource, make_tasks, run_in_processes
from learn2splat.bench.stats import best_psnr, last_psnr, psnr_at_step, seconds_to
from learn2splat.gaussians import knn
from learn2splat.meta.tasks import roles
from learn2splat.optimizers.weights import packaged_weights
from learn2splat.scenes import Scene

ADAMS = ("adam", "adam-tuned", "adam-gsplat", "adam-auto")
ALL, RIVALS = (*ADAMS, "nominal", "learned"), (*ADAMS, "learned")
BASE, SHORT = Protocol(), Protocol(budget=Budget(reference="adam", steps=300))
# Photos as they are, from coarse to fine, growing: what `fit` does. Adam also with the field's own ways to spend the time: its density controls, the
# full size from the first step on. `learned+flat` is `fit` of commit c1f4d58.
TIMED = Protocol(long_side=None, max_points=None, views_per_step=None, density="error", num_downscales=None)
TIME_RIVALS = (
    "adam", "adam-gsplat", "adam-auto", "adam-auto+default", "adam-auto+mcmc", "adam-gsplat+default+full", "adam-gsplat+mcmc+full",
    "nominal", "learned", "learned+flat",
)  # fmt: skip
MAX_WEIGHTS = 4e6  # bytes
LONG_SCENES = 2  # so many of the scenes are run for 20 000 steps


@dataclass(frozen=True)
class Part:
    """One bench. `points`: so many are in the scene, made between its neighbouring ones; None: as it is."""

    name: str
    protocol: Protocol
    optimizers: tuple[str, ...] = ALL
    seeds: int = 1
    scenes: int | None = None
    points: int | None = None

    @property
    def key(self) -> str:
        """What `--only` calls this one bench."""
        protocol = self.protocol
        if self.name == "views":
            return f"views-{protocol.views_per_step}"
        if self.name == "size":
            return f"size-{self.points or ('full' if protocol.long_side is None else f'{protocol.long_side}px')}"
        return f"long-{protocol.budget.steps}" if self.name == "long" else self.name

    @property
    def timed(self) -> bool:
        """Whether it is one of the parts of the time budget."""
        return self.name.startswith("time-")


PARTS = (
    Part("equal-time", BASE, seeds=3),
    Part("views", replace(SHORT, views_per_step=2), RIVALS, seeds=3),
    Part("views", replace(SHORT, views_per_step=4), RIVALS, seeds=3),
    Part("views", replace(SHORT, views_per_step=16), RIVALS, seeds=3),
    Part("size", replace(SHORT, long_side=512), RIVALS),
    Part("size", replace(SHORT, long_side=None), RIVALS),
    Part("size", replace(SHORT, max_points=10_000), RIVALS, seeds=3, points=10_000),
    Part("size", replace(SHORT, max_points=50_000), RIVALS, points=50_000),
    Part("long", replace(BASE, budget=Budget(steps=4000)), ("learned",)),
    Part("long", replace(BASE, budget=Budget(steps=20_000)), ("learned",), scenes=LONG_SCENES),
    Part("time-60", replace(TIMED, budget=Budget(seconds=60.0)), TIME_RIVALS, seeds=3),
    Part("time-300", replace(TIMED, budget=Budget(seconds=300.0)), TIME_RIVALS),
    Part("time-1800", replace(TIMED, budget=Budget(seconds=1800.0)), ("adam-auto", "adam-auto+mcmc", "nominal", "learned"), scenes=LONG_SCENES),
)
NAMES = tuple(dict.fromkeys(name for part in PARTS for name in (part.name, part.key)))
sys.modules.setdefault("claims", sys.modules[__name__])  # claims_sparse.py imports this module, also where it is the script that runs
Cells = dict[tuple[str, int], dict[str, Cell]]  # (scene, seed) -> label -> finished cell; complete ones only


def denser(scene: Scene, count: int) -> Scene:
    """The scene with `count` points: new ones lie between a random point and one of its 3 nearest, with the colour between theirs."""
    generator = torch.Generator().manual_seed(0)
    missing = count - len(scene.points)
    if missing <= 0:
        return scene
    near, _ = knn(scene.points.float(), 4)
    first = torch.randint(len(scene.points), (missing,), generator=generator)
    second = near[first, torch.randint(1, 4, (missing,), generator=generator)]
    part = torch.rand(missing, 1, generator=generator)

    def between(values: torch.Tensor) -> torch.Tensor:
        return torch.cat([values, torch.lerp(values[first].double(), values[second].double(), part.double()).to(values.dtype)])

    return replace(scene, points=between(scene.points), colors=between(scene.colors))


def load(path: Path, part: Part) -> Scene:
    scene = load_scene(path, long_side=part.protocol.long_side, test_every=part.protocol.test_every)
    return scene if part.points is None else denser(scene, part.points)


def stored(out: Path, part: Part) -> Cells:
    """The finished cells of a part, where every optimizer has finished."""
    groups: Cells = {}
    for cell in read_cells(out):
        if cell.path.parents[2].name == part.protocol.key and cell.finished and cell.label in part.optimizers:
            groups.setdefault((cell.scene, cell.seed), {})[cell.label] = cell
    return {pair: cells for pair, cells in sorted(groups.items()) if len(cells) == len(part.optimizers)}


@dataclass(frozen=True)
class Claim:
    """A row of the table. `gaps`: per scene (mean over seeds); met when their mean reaches `target`, and all are above 0 where asked."""

    what: str
    target: float | None
    gaps: dict[str, float]
    ahead_everywhere: bool = False
    worst: float | None = None  # ... and all are at least this
    unit: str = "dB"
    at_most: bool = False
    scenes: int = 0  # Fewer than so many: only partly measured, and not met.

    @property
    def mean(self) -> float:
        return statistics.mean(self.gaps.values())

    @property
    def met(self) -> bool:
        if not self.gaps or len(self.gaps) < self.scenes:
            return False
        values = list(self.gaps.values())
        if self.at_most:
            return max(values) <= self.target
        return (self.target is None or self.mean >= self.target) and (
            (not self.ahead_everywhere or min(values) > 0) and (self.worst is None or min(values) >= self.worst)
        )

    def row(self) -> str:
        sign = "" if self.at_most else "+"
        wanted = "ahead" if self.target is None else f"at most {self.target:.2g}" if self.at_most else f"+{self.target:g}"
        wanted += f" {self.unit}" if self.unit and self.target is not None else ""
        wanted += " on every scene" if self.ahead_everywhere or (self.at_most and self.unit != "MB") else ""
        wanted += "" if self.worst is None else f", worst scene {self.worst:+g}"
        if not self.gaps:
            return f"| {self.what} | {wanted} | not measured | | |"

        def text(value: float) -> str:
            return "never" if value == float("inf") else f"{value:{sign}.2f}"

        verdict = "met" if self.met else "**partly measured**" if len(self.gaps) < self.scenes else "**short**"
        scenes = ", ".join(f"{scene} {text(value)}" for scene, value in self.gaps.items())
        return f"| {self.what} | {wanted} | {text(self.mean)} | {scenes} | {verdict} |"


def per_scene(cells: Cells, value: Callable[[dict[str, Cell]], float | None]) -> dict[str, float]:
    """`value` of each pair, averaged over the seeds of a scene; pairs for which it is None (a run did not get that far) are left out."""
    collected: dict[str, list[float]] = {}
    for (scene, _), by_label in cells.items():
        if (number := value(by_label)) is not None:
            collected.setdefault(scene, []).append(number)
    return {scene: statistics.mean(values) for scene, values in collected.items()}


def ahead(cells: Cells, rivals: tuple[str, ...], score: Callable[[Cell], float | None]) -> dict[str, float]:
    """By how many dB `learned` is ahead of the best of `rivals`, per scene."""

    def lead(by: dict[str, Cell]) -> float | None:
        scores = [score(by[label]) for label in ("learned", *rivals)]
        return None if None in scores else scores[0] - max(scores[1:])

    return per_scene(cells, lead)


def claims(out: Path) -> list[Claim]:
    main = stored(out, PARTS[0])
    rows = [
        Claim("equal time, over the best Adam", 1.0, ahead(main, ADAMS, last_psnr), ahead_everywhere=True),
        Claim("equal time, over nominal", 0.5, ahead(main, ("nominal",), last_psnr), ahead_everywhere=True),
        Claim("share of its time to the best Adam's final PSNR", 1 / 3, per_scene(main, share_of_time), unit="", at_most=True),
    ]
    for steps, over_adam, over_nominal in ((10, 3.0, 4.0), (30, 3.0, 2.5), (100, 2.5, 1.0)):
        rows.append(Claim(f"after {steps} steps, over the best Adam", over_adam, ahead(main, ADAMS, lambda c, s=steps: psnr_at_step(c, s))))
        rows.append(Claim(f"after {steps} steps, over nominal", over_nominal, ahead(main, ("nominal",), lambda c, s=steps: psnr_at_step(c, s))))
    for part in PARTS[1:]:
        cells = stored(out, part)
        if part.timed:
            rows += time_claims(cells, part)
            continue
        scenes = part.scenes or len({scene for scene, _ in main})
        if part.name == "long":
            name = f"{part.protocol.budget.steps} steps: best minus last"
            rows.append(Claim(name, 0.05, per_scene(cells, late_drop), at_most=True, scenes=scenes))
        else:
            rows.append(Claim(describe(part), None, ahead(cells, ADAMS, last_psnr), ahead_everywhere=True, scenes=scenes))
    cost = per_scene(main, lambda by: _ms(by["learned"]) / _ms(by["adam"]))
    rows.append(Claim("time of a step over that of adam", 1.4, cost, unit="", at_most=True))
    memory = per_scene(main, lambda by: by["learned"].end["peak_bytes"] / by["adam"].end["peak_bytes"]) if _has_memory(main) else {}
    rows.append(Claim("peak memory over that of adam", 1.1, memory, unit="", at_most=True))
    weights = packaged_weights()
    size = {} if weights is None else {"weights": weights.stat().st_size / 1e6}
    rows.append(Claim("size of the packaged weights", MAX_WEIGHTS / 1e6, size, unit="MB", at_most=True))
    diverged = {cell.scene: 0.0 for cell in read_cells(out) if cell.label == "learned"}
    for cell in read_cells(out):
        if cell.label == "learned" and cell.status == "diverged":
            diverged[cell.scene] += 1
    rows.append(Claim("diverged runs", 0.0, diverged, unit="", at_most=True))
    return rows


# seconds -> (over the best Adam: mean, worst), (over nominal: mean, worst), over fit of c1f4d58
TIME_TARGETS = {60: ((2.3, 0.6), (1.8, 0.4), 2.5), 300: ((1.8, 0.4), (1.2, 0.0), 3.0), 1800: ((0.8, 0.0), (0.5, -0.1), 3.5)}


def time_claims(cells: Cells, part: Part) -> list[Claim]:
    """The rows of a time budget."""
    seconds, scenes = round(part.protocol.budget.seconds), part.scenes or 6
    over_adam, over_nominal, over_flat = TIME_TARGETS[seconds]
    adams = tuple(label for label in part.optimizers if label.startswith("adam"))
    best_adam, same_plan = ahead(cells, adams, last_psnr), ahead(cells, ("nominal",), last_psnr)
    rows = [
        Claim(f"{seconds} s, over the best Adam with any plan and growth", over_adam[0], best_adam, worst=over_adam[1], scenes=scenes),
        Claim(f"{seconds} s, over nominal with the same plan", over_nominal[0], same_plan, worst=over_nominal[1], scenes=scenes),
        Claim(f"{seconds} s: best minus last", 0.05, per_scene(cells, late_drop), at_most=True, scenes=scenes),
    ]
    if "learned+flat" in part.optimizers:
        rows.append(Claim(f"{seconds} s, over fit of c1f4d58", over_flat, ahead(cells, ("learned+flat",), last_psnr), worst=0.0, scenes=scenes))
    return rows


def share_of_time(by: dict[str, Cell]) -> float:
    """Seconds that learned needs for the final PSNR of the best Adam, over the seconds that the Adam had; infinite if it never gets there."""
    best = max((by[name] for name in ADAMS), key=last_psnr)
    seconds = seconds_to(by["learned"], last_psnr(best))
    return seconds / best.end["seconds"] if seconds == seconds else float("inf")


def late_drop(by: dict[str, Cell]) -> float:
    """dB that learned has lost at its end since its best."""
    return best_psnr(by["learned"]) - last_psnr(by["learned"])


def describe(part: Part) -> str:
    protocol = part.protocol
    if part.name == "views":
        return f"{protocol.views_per_step} photos per step, over the best Adam"
    size = f"{part.points} points" if part.points else "full size" if protocol.long_side is None else f"{protocol.long_side} px"
    return f"{size}, over the best Adam"


def _ms(cell: Cell) -> float:
    return cell.end["seconds"] / cell.end["steps"]


def _has_memory(cells: Cells) -> bool:
    return all(cell.end.get("peak_bytes") for by_label in cells.values() for cell in by_label.values())


def table(out: Path) -> str:
    return f"{rows_of(claims(out))}\n\n{seeds_measured(out)}"


def rows_of(claims: list[Claim]) -> str:
    return "\n".join(["| what | target | measured | by scene | |", "|---|---|---:|---|---|", *(claim.row() for claim in claims)])


def seeds_measured(out: Path) -> str:
    """Which parts have how many seeds on every scene they were measured on."""
    parts: dict[int, list[str]] = {}
    for part in PARTS:
        if seeds := Counter(scene for scene, _ in stored(out, part)):
            parts.setdefault(min(seeds.values()), []).append(part.key)
    return "Seeds: " + "; ".join(f"{count} of {', '.join(names)}" for count, names in sorted(parts.items(), reverse=True)) + "."


def main() -> int:
    import claims_sparse as sparse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/claims"))
    every = (*NAMES, "sparse", *sparse.KEYS)
    parser.add_argument("--only", nargs="+", choices=[*every, "none"], default=list(every), metavar="PART", help=f"of {', '.join(every)}; or none")
    parser.add_argument("--seeds", type=int, help="at most so many seeds")
    parser.add_argument("--workers", type=int, default=1, help="scenes and seeds at a time, each with its share of the cores")
    parser.add_argument("--scenes-root", type=Path, default=Path(__file__).parents[2] / "shared" / "scenes")
    args = parser.parse_args()
    names = [name for name, role in sorted(roles(args.scenes_root).items()) if role == "val"]
    for part in PARTS:
        if part.name in args.only or part.key in args.only:
            seeds = part.seeds if args.seeds is None else min(part.seeds, args.seeds)
            sources = [SceneSource(name, partial(load, args.scenes_root / name, part)) for name in names[: part.scenes]]
            run(part.key, part, sources, seeds, args.out, args.workers)
    asked = [key for key in sparse.KEYS if key in args.only or "sparse" in args.only]
    if asked:
        sources = sparse.scenes_of(args.scenes_root, names)
        for source in sources if "sparse-depth" in asked else ():
            sparse.measure_depth(source, args.out)
        for key in asked:
            if (part := sparse.PARTS.get(key)) is not None:
                run(key, part, sparse.fitting(sources, part), min(part.seeds, args.seeds or part.seeds), args.out, args.workers)
    few, others = sparse.claims(args.out, len(names)), []
    if not all(name == "sparse" or name in sparse.KEYS for name in args.only):
        others = claims(args.out)
        print(f"{table(args.out)}\n\nFew photos:\n")
    print(f"{rows_of(few)}\n\n{sparse.baselines(args.out)}".rstrip())
    return 0 if all(claim.met for claim in (*others, *few)) else 1


def run(key: str, part: Part, sources: list[SceneSource], seeds: int, out: Path, workers: int) -> None:
    """The bench of a part, what of it is not finished."""
    print(f"{key} {part.protocol.key}", file=sys.stderr, flush=True)
    command = ("python", *sys.argv)
    tasks = make_tasks(sources, seeds, optimizers=part.optimizers, protocol=part.protocol, out=out.resolve(), command=command)
    run_in_processes(tasks, workers, on_progress=_show)


def _show(progress) -> None:
    if progress.ended:
        lane = next(lane for lane in progress.lanes if lane.label == progress.ended)
        text = f"{lane.label} {lane.steps} steps {lane.seconds:.0f} s {lane.psnr:.2f} dB"
        print(f"{progress.scene} seed {progress.seed}: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""Throughput of meta-training on one core, and where its time goes.

    python benchmarks/bench_meta.py                     # the sizes of a prototype: 64-112 px, 300-1500 Gaussians, 2-8 views
    python benchmarks/bench_meta.py --preset            # those of `train --preset cpu`

Processor time of one thread, so another program on the machine does not count. Meta-steps begin with an empty buffer on procedural scenes, which are
made before the clock starts; the first ones are not timed. The shares come from torch's profiler in meta-steps of their own, because it slows
everything that is not native: "native" is rendering, loss and optimizer steps in C++, "matrix products" are mm, addmm and bmm, forward and backward.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from learn2splat import _native
from learn2splat.meta import PRESETS
from learn2splat.meta.resume import new_slot
from learn2splat.meta.tasks import ScenePool
from learn2splat.meta.trainer import make_rule, meta_gradient

PROTOTYPE = {"long_sides": (64, 80, 96, 112), "points": (300, 1500)}
WARM_UP = 6  # meta-steps
PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"}
MARK = "native: "


def mark_native() -> None:
    """Every native function shows up in profiles under its name."""

    def marked(function, name):
        def call(*args):
            with record_function(name):
                return function(*args)

        return call

    for name in dir(_native):
        function = getattr(_native, name)
        if callable(function) and not name.startswith("_") and not isinstance(function, type):
            setattr(_native, name, marked(function, MARK + name))
    for name in ("finish", "backward"):
        setattr(_native.StepEnds, name, marked(getattr(_native.StepEnds, name), f"{MARK}StepEnds.{name}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", action="store_true", help="the sizes of the preset cpu")
    parser.add_argument("--meta-steps", type=int, default=60, help="timed; a third as many are profiled")
    parser.add_argument("--scenes", type=int, default=12, help="procedural scenes to draw from")
    parser.add_argument("--top", type=int, default=12, help="rows of the profile")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = replace(PRESETS["cpu"], procedural_pool=args.scenes, **({} if args.preset else PROTOTYPE))
    with tempfile.TemporaryDirectory() as folder:
        pool = ScenePool(config, Path(folder), [])
        for name in pool.procedural:
            for side in config.long_sides:
                pool.get(name, side)
        rule = make_rule(config)
        parameters = list(rule.network.parameters())
        slot = new_slot(config, 0)

        def run(count: int) -> tuple[int, float]:
            """Inner steps and processor seconds."""
            began = time.process_time()
            return sum(meta_gradient(rule, parameters, slot, pool, config, 0).inner_steps for _ in range(count)), time.process_time() - began

        run(WARM_UP)
        steps, seconds = run(args.meta_steps)
        mark_native()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            run(max(1, args.meta_steps // 3))
    entries = profiler.key_averages()
    # What a native call does besides its own work (views of tensors as arrays) is inside its mark, so that counts too.
    total = sum(entry.self_cpu_time_total for entry in entries)
    native = sum(entry.self_cpu_time_total for entry in entries if entry.key.startswith(MARK))
    products = sum(entry.self_cpu_time_total for entry in entries if entry.key in PRODUCTS)
    print("| sizes | inner steps | of them per second | native | matrix products | both |\n|---|---:|---:|---:|---:|---:|")
    name = "preset cpu" if args.preset else "prototype"
    print(f"| {name} | {steps} | {steps / seconds:.1f} | {native / total:.0%} | {products / total:.0%} | {(native + products) / total:.0%} |\n")
    print(f"the {args.top} dearest, by time of their own:")
    for entry in sorted(entries, key=lambda entry: -entry.self_cpu_time_total)[: args.top]:
        print(f"{entry.self_cpu_time_total / total:6.1%}  {entry.count:7d} calls  {entry.key}")


if __name__ == "__main__":
    main()

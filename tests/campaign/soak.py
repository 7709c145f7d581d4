"""Soak: the same work over and over in one process; memory and file descriptors must stay where they are once everything has been used.

The slope is that of a straight line through the resident memory of the last two thirds.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
from jobs import all_jobs, imported
from results import Results

from learn2splat.scenes import load_scene


def _megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def campaign(results: Results, minutes: float) -> None:
    """`minutes` each of fit with growth, bench and loading."""
    imported()
    part = results.part("soak")
    with tempfile.TemporaryDirectory(prefix="l2s-soak-") as folder:
        jobs = {job.name: job for job in all_jobs(Path(folder) / "scenes")}
        out = Path(folder) / "out"

        def again(name: str) -> None:
            shutil.rmtree(out, ignore_errors=True)
            with open(os.devnull, "w") as null, redirect_stdout(null), redirect_stderr(null):
                assert jobs[name].run(out) == 0

        works = {
            "fit with growth": lambda: again("fit learned, error"),
            "bench": lambda: again("bench"),
            "loading": lambda: load_scene(Path(folder) / "scenes" / "one"),
        }
        for name, work in works.items():
            began, rows = time.monotonic(), []
            while time.monotonic() - began < 60 * minutes or len(rows) < 6:
                work()
                gc.collect()
                rows.append((time.monotonic() - began, _megabytes(), len(os.listdir("/proc/self/fd"))))
            times, memory, descriptors = np.array(rows).T
            late = slice(len(rows) // 3, None)
            slope = np.polyfit(times[late], memory[late], 1)[0] * 3600
            part[name] = {
                "minutes": round(times[-1] / 60, 1),
                "rounds": len(rows),
                "third_mb": round(memory[len(rows) // 3], 1),
                "end_mb": round(memory[-1], 1),
                "slope_mb_per_hour": round(slope, 1),
                "descriptors": f"{int(descriptors[0])} to {int(descriptors.max())}",
            }
            print(name, part[name], flush=True)
            results.save()

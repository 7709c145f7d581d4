"""The benchmark scripts run, and their tables hold together; how fast anything is, is not tested."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_scenes import write_colmap

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def rows(script: str, *argv: object) -> dict[str, list[str]]:
    """The table that the script prints: first cell -> the others."""
    command = [sys.executable, BENCHMARKS / script, *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if line.startswith("|")]
    return {cells[0]: cells[1:] for cells in table[2:]}


def test_bench_step_compares_whole_steps(tmp_path):
    scene = write_colmap(tmp_path / "tiny")
    table = rows("bench_step.py", scene, "--steps", 3, "--views", 2, "--cpu")
    assert set(table) == {"adam", "nominal", "anchored", "anchored, network in torch"}
    for gradients, update, step, _, ratio in table.values():
        assert float(step) == pytest.approx(float(gradients) + float(update), abs=0.11)  # three numbers rounded to 0.1 ms
        assert float(ratio) == pytest.approx(float(step) / float(table["adam"][2]), rel=0.3)  # steps of a millisecond, rounded likewise


def test_bench_rasterize_prints_the_ratio_to_mm():
    table = rows("bench_rasterize.py", "--only", "s", "--repeats", 1, "--cpu")
    ((name, (_, _, total, ratio, target)),) = table.items()
    assert name.startswith("s: 10000") and float(target) == 0.06
    assert float(total) > 0 and float(ratio) > 0


def test_bench_meta_counts_and_shares():
    ((name, (steps, rate, native, products, both)),) = rows("bench_meta.py", "--meta-steps", 2, "--scenes", 1, "--top", 2).items()
    assert name == "prototype" and int(steps) >= 2 * 8 and float(rate) > 0
    shares = [int(share.rstrip("%")) for share in (native, products, both)]
    assert min(shares) > 0 and shares[2] == pytest.approx(shares[0] + shares[1], abs=1) and shares[2] < 100


def test_memory_stays_below_the_promise():
    """200 bytes per Gaussian and view beyond the outputs, measured in a process of its own."""
    done = subprocess.run([sys.executable, BENCHMARKS / "bench_rasterize.py", "--memory"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 0 < float(re.search(r"= (-?\d+) bytes per Gaussian and view", done.stdout)[1]) < 200

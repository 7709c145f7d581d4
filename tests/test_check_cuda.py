"""scripts/check_cuda.py where there is no GPU: it says so, and on the CPU it agrees with itself."""

import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "check_cuda.py"


def run(*arguments):
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)


def test_without_a_gpu_it_says_so():
    result = run() if not torch.cuda.is_available() else None
    assert result is None or (result.returncode == 2 and result.stderr.startswith("no CUDA device") and not result.stdout)


def test_the_cpu_agrees_with_itself():
    result = run("--device", "cpu", "--counts", "500", "--repeats", "1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("ok  ") == 11 and "500 Gaussians: torch fused Adam" in result.stdout

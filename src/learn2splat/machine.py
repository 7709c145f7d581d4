"""Where numbers were measured: what every result says beside them."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

from . import __version__


def usable_cores() -> tuple[int, ...]:
    """Those that this process may use, ascending; their numbers mean something only where processes can be pinned (Linux)."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else tuple(range(os.cpu_count() or 1))


def machine() -> dict[str, object]:
    """Processor, threads, versions."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "usable_cores": list(usable_cores()),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "learn2splat": __version__,
    }


def portable_command(command: Sequence[str]) -> list[str]:
    """The command without folders of this machine: absolute paths become relative to the working folder, or are cut to their last part."""
    return [re.sub(r"^(--?[\w-]+=)?(/.*|~.*|[A-Za-z]:[\\/].*)$", lambda match: (match[1] or "") + _portable(match[2]), word) for word in command]


def _portable(path: str) -> str:
    place, colon, factory = path.partition(".py:")  # file.py:factory
    end = colon + factory
    try:
        return Path(place).relative_to(Path.cwd()).as_posix() + end
    except ValueError:
        return (re.split(r"[\\/]", place.rstrip("\\/"))[-1] or ".") + end


def commit() -> str | None:
    """The commit of the checkout that this package runs from, with "+changes" if files differ from it; None if it is no checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10, check=True)
        status = ["git", "status", "--porcelain", "--untracked-files=no", "--", "src", "native"]
        changes = subprocess.run(status, cwd=root, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def most_gaussians() -> int | None:
    """How many Gaussians a fit could hold in the memory of this machine, roughly: parameters, gradients, moments and what rendering needs, 3 kB each.
    None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 3000
    except (AttributeError, ValueError, OSError):
        return None

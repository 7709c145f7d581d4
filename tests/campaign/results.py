"""The results of a campaign: one JSON file, written after every slice, so that a campaign that is stopped goes on where it was."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path

from learn2splat.files import atomic_write, locked, read_json

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ROOT / "runs" / "campaign" / "results.json"
RECORDED = Path(__file__).with_name("results.json")


class Results:
    """`parts`: what each part of the campaign keeps, plain data; `save` writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parts: dict[str, dict] = read_json(path) if path.exists() else {}

    def part(self, name: str) -> dict:
        return self.parts.setdefault(name, {})

    def save(self) -> None:
        """One line per part and key: short, and differences can be read."""
        self.parts["where"] = where()
        lines = []
        for name, part in sorted(self.parts.items()):
            inner = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in part.items())
            lines.append(f"{json.dumps(name)}: {{\n{inner}\n}}")
        with locked(self.path.parent):
            atomic_write(self.path, "{\n" + ",\n".join(lines) + "\n}\n")


def where() -> dict[str, str]:
    """The machine and the code."""
    import torch

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {"commit": commit, "cpu": cpu, "system": platform.platform(), "python": platform.python_version(), "torch": torch.__version__}

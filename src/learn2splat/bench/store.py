"""The folder of a benchmark. Everything in it is appended to or written once, so it can be read while a benchmark runs, a killed one loses
nothing, and the results of two machines are merged by copying one folder into the other.

    <out>/<protocol>/<scene>/views.json                      photos that are fitted and held out, in the index format of pixelSplat
    <out>/<protocol>/<scene>/photo.png                       the held-out photo of which renders are kept
    <out>/<protocol>/<scene>/<optimizer>/seed0.jsonl         one cell: a line per event
    <out>/<protocol>/<scene>/<optimizer>/seed0-00100.png     that photo's render after 100 steps; of the first seed only
    <out>/<protocol>/<scene>/<optimizer>/seed0.checkpoint/   of a run under way

The lines of a cell, by their `kind`:

    cell     a run starts: protocol, scene, optimizer, seed, machine, commit, command. What is above is of an attempt that failed or was lost
    point    held-out quality and clocks after a step
    rewind   the run goes on from `step`: points after that are void (it was killed after its last checkpoint, or it diverged)
    end      how it ended: `done`, `diverged` or `failed`
"""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import SaveError
from ..files import atomic_write, file_name, to_json

ENDED = ("done", "diverged")  # These are results; a cell that failed is tried again.


@dataclass(frozen=True)
class Point:
    """Held-out quality after `step` steps; `seconds` of optimization, of which `update_seconds` in the update rule; NaN where null."""

    step: int
    seconds: float
    cpu_seconds: float
    update_seconds: float
    psnr: float
    ssim: float
    picture: str | None  # file name beside the cell
    num_gaussians: float = math.nan


@dataclass(frozen=True)
class Cell:
    """What is known about one (protocol, scene, optimizer, seed)."""

    path: Path
    header: dict
    points: tuple[Point, ...]
    end: dict | None

    @property
    def status(self) -> str:
        """`done`, `diverged`, `failed`, or `running` (also where it was stopped and waits)."""
        return "running" if self.end is None else self.end["status"]

    @property
    def label(self) -> str:
        return self.header["optimizer"]["label"]

    @property
    def scene(self) -> str:
        return self.header["scene"]["name"]

    @property
    def seed(self) -> int:
        return self.header["seed"]

    @property
    def finished(self) -> bool:
        return self.status in ENDED


class CellFile:
    """The files of one cell."""

    def __init__(self, out: Path, protocol_key: str, scene: str, label: str, seed: int) -> None:
        folder = out / protocol_key / file_name(scene) / file_name(label)
        self.path = folder / f"seed{seed}.jsonl"
        self.checkpoint = folder / f"seed{seed}.checkpoint"
        self.stem = f"seed{seed}"

    def picture(self, step: int) -> Path:
        return self.path.with_name(f"{self.stem}-{step:06d}.png")

    def append(self, kind: str, **values: object) -> None:
        """One line, in one write: a reader sees all of it or nothing.

        Raises:
            SaveError: disk full, no permission, ...
        """
        line = to_json({"kind": kind, **values}) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A run that was killed, or a disk that was full, may have left half a line.
            half = self.path.exists() and self.path.stat().st_size > 0 and self.path.read_bytes()[-1:] != b"\n"
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                data = ("\n" * half + line).encode()
                if os.write(descriptor, data) != len(data):
                    raise OSError("the disk is full")
            finally:
                os.close(descriptor)
        except OSError as error:
            raise SaveError(f"could not write {self.path}: {error.strerror or error}; free some space and run the same command again") from error

    def read(self) -> Cell | None:
        """The cell, or None where none was started."""
        return read_cell(self.path)

    def drop_checkpoint(self) -> None:
        shutil.rmtree(self.checkpoint, ignore_errors=True)


def read_cell(path: Path) -> Cell | None:
    """The last attempt in the file; lines that are no JSON (half-written) are passed over. None without a start."""
    header, points, end = None, [], None
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
            kind = row.pop("kind")
        except (ValueError, KeyError, AttributeError, TypeError):
            continue
        if kind == "cell":
            header, points, end = row, [], None
        elif kind == "point":
            points.append(Point(**{field.name: _number(row.get(field.name), field.name) for field in fields(Point)}))
        elif kind == "rewind":
            points, end = [point for point in points if point.step <= row["step"]], None
        elif kind == "end":
            end = row
    return None if header is None else Cell(path, header, tuple(points), end)


def read_cells(out: Path) -> list[Cell]:
    """All cells of a folder, in the order of their paths."""
    cells = (read_cell(path) for path in sorted(out.glob("*/*/*/seed*.jsonl")))
    return [cell for cell in cells if cell is not None]


def _number(value: object, name: str) -> object:
    return math.nan if value is None and name != "picture" else value


def write_once(path: Path, content: Callable[[], bytes | str]) -> None:
    """Write the file unless it is there. Several processes may do so at once: each has a temporary file of its own, and the contents are the same."""
    if path.exists():
        return
    own = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:12]}{path.suffix}")
    atomic_write(own, content())
    try:
        os.replace(own, path)
    except OSError as error:
        raise SaveError(f"could not write {path}: {error.strerror or error}") from error

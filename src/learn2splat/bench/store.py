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

import math
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import OptionError, SaveError
from ..files import atomic_write, file_name, parse_json, to_json

NUMBER, MAYBE_INT = (int, float), (int, type(None))
# What reports read of the first line of a cell.
IDENTITY = {"scene": {"name": str}, "optimizer": {"label": str, "order": int}, "seed": int}
HEADER = {
    "protocol": {
        "name": str, "budget": str, "setting": str, "max_points": MAYBE_INT, "test_every": int, "context_views": MAYBE_INT, "long_side": MAYBE_INT,
        "views_per_step": MAYBE_INT, "slice_seconds": NUMBER, "warm_up_steps": int, "device": str,
    },
    "scene": {"name": str, "photo_sizes": list, "context": int, "held_out": int, "gaussians": int},
    "optimizer": {"label": str, "spec": str, "order": int},
    "machine": {"cpu": str, "threads": int, "cores": int, "learn2splat": str, "torch": str, "python": str, "system": str},
    "seed": int, "identity": dict, "commit": (str, type(None)), "command": list, "load": (*NUMBER, type(None)),
}  # fmt: skip
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
    """The last attempt in the file; lines that are no JSON (half-written) are passed over. None without a start.

    Raises:
        OptionError: a line is not one of `CellFile.append`, or steps do not increase: it was written by another program or by two at once.
    """
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            rows.append(parse_json(line))
        except ValueError:
            rows.append(None)
    return cell_of(path, rows)


def cell_of(path: Path, rows: Sequence[object]) -> Cell | None:
    """As `read_cell`, from what stands in the lines."""
    header, points, end = None, [], None
    for number, line in enumerate(rows, 1):
        if not isinstance(line, dict) or not isinstance(line.get("kind"), str):
            continue
        row = dict(line)
        kind = row.pop("kind")
        try:
            if kind == "cell":
                row.setdefault("load", None)  # not in cells of older versions
                _check(row, IDENTITY)
                header, points, end = row, [], None
            elif kind == "point":
                points.append(_point(row))
                if len(points) > 1 and points[-1].step <= points[-2].step:
                    raise ValueError(f"step {points[-1].step} after step {points[-2].step}")
            elif kind == "rewind":
                points, end = [point for point in points if point.step <= row["step"]], None
            elif kind == "end":
                end = _end(row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise OptionError(f"line {number} of {path} is no line of a benchmark ({error!r}): delete that file, or give another --out") from error
    return None if header is None else Cell(path, header, tuple(points), end)


def _point(row: dict) -> Point:
    values = {field.name: row.get(field.name) for field in fields(Point)}
    for name, value in values.items():
        if value is None and name != "picture":
            values[name] = math.nan
        elif not isinstance(value, (str, type(None)) if name == "picture" else (int, float)):
            raise TypeError(f"{name} is {value!r}")
    if not isinstance(row["step"], int) or row["step"] < 0 or not values["seconds"] >= 0:
        raise ValueError(f"step is {row['step']!r}, seconds are {row.get('seconds')!r}")
    return Point(**values)


def _end(row: dict) -> dict:
    """The row, if it has what tables need."""
    _check({"error": "", "where": "", **row}, {"steps": int, "seconds": NUMBER, "error": str, "where": str})
    if row["status"] not in (*ENDED, "failed") or row["steps"] < 0 or not row["seconds"] >= 0 or (row["steps"] > 0 and row["seconds"] == 0):
        raise ValueError(f"it ended as {row['status']!r} after {row['steps']} steps and {row['seconds']} seconds")
    for name in ("cpu_seconds", "update_seconds", "peak_bytes", "load"):
        if name in row and not isinstance(row[name], (*NUMBER, type(None))):
            raise TypeError(f"{name} is {row[name]!r}")
    return row


def _check(row: object, wanted: dict) -> None:
    """Raise KeyError or TypeError where the keys of `wanted` are missing in `row`, or of another type."""
    for key, kind in wanted.items():
        if isinstance(kind, dict):
            _check(row[key], kind)
        elif not isinstance(row[key], kind):
            raise TypeError(f"{key} is {row[key]!r}")


def _check_lists(header: dict) -> None:
    """As `_check`, of what its lists hold."""
    sizes, command = header["scene"]["photo_sizes"], header["command"]
    if not all(isinstance(size, list) and [type(side) for side in size] == [int, int] for size in sizes):
        raise TypeError(f"photo_sizes are {sizes!r}")
    if not all(isinstance(word, str) for word in command):
        raise TypeError(f"command is {command!r}")


def read_cells(out: Path) -> list[Cell]:
    """All cells of a folder (or of a packed file), in the order of their paths; those that cannot be used are left out, with a warning each."""
    if out.is_file():
        found = [(out.with_suffix("") / path, rows) for path, rows in read_packed(out).items() if path.endswith(".jsonl")]
    else:
        found = [(path, None) for path in sorted(out.glob("*/*/*/seed*.jsonl"))]
    cells = []
    for path, rows in found:
        try:
            cell = read_cell(path) if rows is None else cell_of(path, rows)
            if cell is not None:
                _check(cell.header, HEADER)
                _check_lists(cell.header)
                cells.append(cell)
        except OptionError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
        except (KeyError, TypeError) as error:
            warnings.warn(f"left out: {path} was written by another version or program ({error!r})", stacklevel=2)
    return cells


def read_packed(file: Path) -> dict[str, list[dict]]:
    """Path in the folder -> what stands in that file, of results that `benchmarks/pack.py` has put into one file.

    Raises:
        OptionError: it is not such a file.
    """
    try:
        lines = [parse_json(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return {str(line["path"]): line["rows"] for line in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OptionError(f"{file} holds no packed results ({error!r}): expected what benchmarks/pack.py writes") from error


def write_once(path: Path, content: Callable[[], bytes | str]) -> None:
    """Write the file unless it is there. Several processes may do so at once: each writes all of it, and the contents are the same."""
    if not path.exists():
        atomic_write(path, content())

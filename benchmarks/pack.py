"""Keep the results of `learn2splat bench` in one small file, and get them back.

    python benchmarks/pack.py out/bench benchmarks/results/bench.jsonl      # adds to what the file has; a cell of the folder replaces the file's
    python benchmarks/pack.py benchmarks/results/bench.jsonl out/bench      # a folder that bench, claims.py and report go on with

A line per file of the folder, sorted by its path: of a cell the lines of its last attempt, of views.json its content. Pictures are not kept, and of
recorded commands neither are folders of the machine that they ran on. `table.py` and `claims.py` read the packed file as it is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from learn2splat.bench.store import read_packed
from learn2splat.files import atomic_write
from learn2splat.machine import portable_command

VIEWS = "views.json"


def packed(folder: Path) -> dict[str, list[dict]]:
    """Path in the folder -> the objects in that file."""
    found = {}
    for path in sorted([*folder.glob("*/*/*/seed*.jsonl"), *folder.glob(f"*/*/{VIEWS}")]):
        rows = [json.loads(path.read_text())] if path.name == VIEWS else last_attempt(path)
        if rows:
            found[path.relative_to(folder).as_posix()] = rows
    return found


def last_attempt(path: Path) -> list[dict]:
    """The lines that count, without pictures and machine paths."""
    rows: list[dict] = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # half a line
        if row["kind"] == "cell":
            rows = []
            row["command"] = portable_command(row["command"])
        if row["kind"] == "point":
            row["picture"] = None
        rows.append(row)
    return rows


def pack(folder: Path, file: Path) -> None:
    known = read_packed(file) if file.exists() else {}
    lines = {**known, **packed(folder)}
    text = "".join(json.dumps({"path": path, "rows": lines[path]}, separators=(",", ":")) + "\n" for path in sorted(lines))
    atomic_write(file, text)


def unpack(file: Path, folder: Path) -> None:
    for path, rows in read_packed(file).items():
        atomic_write(folder / path, "".join(json.dumps(row) + "\n" for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a folder of results, or a packed file")
    parser.add_argument("target", type=Path, help="the other")
    args = parser.parse_args()
    (pack if args.source.is_dir() else unpack)(args.source, args.target)


if __name__ == "__main__":
    main()

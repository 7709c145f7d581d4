"""The tables of docs/reliability.md, between its two marks, from the results of the campaign.

python tests/campaign/report.py [RESULTS]     default: what is recorded in tests/campaign/results.json
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from results import RECORDED, ROOT, Results  # noqa: E402

DOC = ROOT / "docs" / "reliability.md"
MARKS = "<!-- campaign:begin -->", "<!-- campaign:end -->"
BAD = ("traceback", "wrong", "memory", "hang", "crash")


def tables(results: Results) -> str:
    """Markdown of all parts that there are."""
    where = results.parts["where"]
    lines = [f"Commit {where['commit']}, {where['cpu']}, {where['system']}, Python {where['python']}, torch {where['torch']}.", ""]
    for part, write in (("fuzz", _fuzz), ("kills", _kills), ("trouble", _trouble), ("soak", _soak)):
        if part in results.parts:
            lines += [*write(results.parts[part]), ""]
    return "\n".join(lines)


def _fuzz(part: dict) -> list[str]:
    """`found`: bad outcomes when the case was first run; `left`: after what they showed was mended."""
    rows = ["### Fuzz", "", "| format | files | read | one sentence | found | left |", "|---|---:|---:|---:|---:|---:|"]
    total = [0] * 5
    for name, about in part.items():
        counts = about["counts"]
        again = len(about["left"]) if "left" in about else None
        values = [about["next"], counts.get("read", 0), counts.get("sentence", 0), sum(counts.get(kind, 0) for kind in BAD)]
        left = values[3] if again is None else again
        total = [a + b for a, b in zip(total, [*values, left])]
        rows.append(f"| {name} | " + " | ".join(map(str, [*values, left])) + " |")
    return [*rows, "| **all** | " + " | ".join(map(str, total)) + " |"]


def _kills(part: dict) -> list[str]:
    rows = ["### Kills", "", "| run | boundaries in it | kills there | at random | runs | wrong |", "|---|---:|---:|---:|---:|---:|"]
    for name, a in part.items():
        rows.append(f"| {name} | {a['boundaries']} | {a['at boundaries']} | {a['at random']} | {a['runs']} | {len(a['bad'])} |")
    sums = [sum(a[key] for a in part.values()) for key in ("at boundaries", "at random", "runs")]
    return [*rows, f"| **all** | | {sums[0]} | {sums[1]} | {sums[2]} | {sum(len(a['bad']) for a in part.values())} |"]


def _trouble(part: dict) -> list[str]:
    rows = ["### Trouble", "", "| what | runs | wrong |", "|---|---:|---:|"]
    return [*rows, *(f"| {name} | {about['cases']} | {len(about['bad'])} |" for name, about in part.items())]


def _soak(part: dict) -> list[str]:
    rows = [
        "### Soak",
        "",
        "| what | minutes | rounds | MB at a third, at the end | MB per hour after a third | descriptors |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, a in part.items():
        memory = f"{a['third_mb']}, {a['end_mb']} | {a['slope_mb_per_hour']:+}"
        rows.append(f"| {name} | {a['minutes']} | {a['rounds']} | {memory} | {a['descriptors']} |")
    return rows


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else RECORDED
    results = Results(path)
    if path != RECORDED:
        results.path = RECORDED
        RECORDED.write_text(path.read_text())
    before, _, rest = DOC.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    DOC.write_text(f"{before}{MARKS[0]}\n{tables(results)}\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()

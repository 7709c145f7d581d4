"""Put the results of `learn2splat bench` into docs/results.md, and the first of them, in five lines, into the README, between their markers.

    python benchmarks/claims.py --only equal-time --seeds 1 --out runs/claims    # adam's time for 1000 steps
    python benchmarks/pack.py runs/claims benchmarks/results/claims.jsonl
    python benchmarks/table.py benchmarks/results/{time,claims,bench,all}.jsonl [--dry]

Into the README goes the first comparison with a budget in seconds. Into docs/results.md goes, per comparison found in the folders or packed files,
what it is, PSNR by scene and by step, machine and command; of the folder of `claims.py` the comparison at equal time, and last its own table. The
scenes are for development (role `val`); nothing here looks at the ones kept for final claims.
"""

from __future__ import annotations

import argparse
import re
import statistics
from functools import partial
from pathlib import Path

import claims

from learn2splat.bench.report import _title, facts
from learn2splat.bench.stats import Comparison, comparisons, last_psnr, psnr_at_seconds
from learn2splat.bench.store import read_cells
from learn2splat.bench.tables import headline, scenes_table, steps_table

ROOT = Path(__file__).resolve().parents[1]
README, RESULTS = ROOT / "README.md", ROOT / "docs" / "results.md"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
CLAIMS_FOLDER = "claims"
SHOWN_FACTS = ("protocol", "machine", "versions", "commit", "command")


def section(c: Comparison) -> str:
    about = facts(c)
    told = "; ".join(f"{name}: {about[name]}" for name in SHOWN_FACTS)
    return f"**{_title(c)}.** {headline(c)}\n\n{scenes_table(c).markdown()}\n\n{steps_table(c).markdown()}{leads(c)}\n\n{told}."


def leads(c: Comparison) -> str:
    """Of a budget in seconds: by how many dB `learned` is ahead over time, and which parts of its own time update and growth take."""
    if "learned" not in c.labels or not c.protocol["budget"].startswith("seconds:"):
        return ""
    budget = float(c.protocol["budget"].partition(":")[2])
    rivals = {name: [label for label in c.labels if label.startswith(start)] for name, start in (("the best Adam", "adam"), ("nominal", "nominal"))}
    rows = []
    for name, labels in rivals.items():
        for seconds in (5.0, 10.0, 30.0, budget) if labels else ():
            by_scene = {}
            for scene, seed in c.complete():
                score = last_psnr if seconds == budget else partial(psnr_at_seconds, seconds=seconds)
                own, *others = (score(c.cells[label, scene, seed]) for label in ("learned", *labels))
                by_scene.setdefault(scene, []).append(own - max(others))
            ahead = {scene: statistics.mean(values) for scene, values in by_scene.items()}
            told = " | ".join(f"{value:+.2f}" for value in ahead.values())
            rows.append(f"| over {name} after {seconds:g} s | {statistics.mean(ahead.values()):+.2f} | {told} |")
    ends = [c.cells["learned", scene, seed].end for scene, seed in c.complete()]
    names = [name for name in ("update", "growth") if all(f"{name}_seconds" in end for end in ends)]
    parts = {name: [end[f"{name}_seconds"] / end["seconds"] for end in ends] for name in names}
    shares = "; ".join(f"{name} {min(values):.1%} to {max(values):.1%}" for name, values in parts.items())
    scenes = list(dict.fromkeys(scene for scene, _ in c.complete()))
    head = [f"| `learned`, dB | mean | {' | '.join(scenes)} |", "|---|---:|" + "---:|" * len(scenes)]
    return "\n\n" + "\n".join([*head, *rows]) + f"\n\nOf the time of `learned`: {shares}."


def in_short(c: Comparison) -> str:
    """PSNR at the end in a row per optimizer, with their mean, for somebody who has never heard of them."""
    scenes = list(dict.fromkeys(scene for scene, _ in c.complete()))
    ends = {}
    for label in c.labels:
        ends[label] = [statistics.mean(last_psnr(c.cells[label, name, seed]) for name, seed in c.complete() if name == scene) for scene in scenes]
    columns = [*zip(*ends.values())]
    best = [max(column) for column in columns] + [max(statistics.mean(row) for row in ends.values())]
    lines = [f"| | {' | '.join(scenes)} | mean |", "|---|" + "---:|" * (len(scenes) + 1)]
    for label, row in ends.items():
        cells = [f"**{value:.2f}**" if value == top else f"{value:.2f}" for value, top in zip([*row, statistics.mean(row)], best)]
        lines.append(f"| `{label}` | {' | '.join(cells)} |")
    seconds = c.protocol["budget"].partition(":")[2]
    about = facts(c)
    seeds = len({seed for _, seed in c.complete()})
    runs = f"{seeds} seed{'s' if seeds > 1 else ''}; {about['machine']}, commit {about['commit']}"
    return "\n".join([f"Held-out PSNR in dB after {seconds} seconds, photos at full size, {runs}.", "", *lines])


def _is_equal_time(c: Comparison) -> bool:
    return next(iter(c.cells.values())).path.parents[2].name == claims.BASE.key


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="what bench or pack.py wrote")
    parser.add_argument("--dry", action="store_true", help="print the texts, leave the files as they are")
    args = parser.parse_args()
    parts = [
        section(c)
        for folder in args.folders
        for c in comparisons(read_cells(folder))
        if c.complete() and len(c.labels) > 1 and (folder.stem != CLAIMS_FOLDER or _is_equal_time(c))
    ]
    parts += [f"**What the packaged weights must show** (`python benchmarks/claims.py`):\n\n{claims.table(folder)}"
              for folder in args.folders if folder.stem == CLAIMS_FOLDER]  # fmt: skip
    texts = {RESULTS: "\n\n".join(parts)}
    timed = (c for folder in args.folders for c in comparisons(read_cells(folder)) if c.complete() and c.protocol["budget"].startswith("seconds:"))
    if (first := next(timed, None)) is not None:
        texts[README] = in_short(first)
    for path, text in texts.items():
        print(text, end="\n\n")
        if not args.dry:
            new, count = re.subn(f"{BEGIN}.*{END}", lambda _, text=text: f"{BEGIN}\n{text}\n{END}", path.read_text(), flags=re.DOTALL)
            if count != 1:
                raise SystemExit(f"{path} must have one pair of markers {BEGIN} and {END}, found {count}")
            path.write_text(new)


if __name__ == "__main__":
    main()

"""`learn2splat report`: the report of a benchmark's results, again or while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import rich.table
from rich import box
from rich.console import Console
from rich.text import Text

from ..bench import tables
from ..bench.report import HTML, write_report
from ..bench.stats import Comparison
from ..errors import OptionError
from .common import Command, ResultPath
from .result import with_notes

GAP, EDGES = 2, 2  # Between two columns of a table (one of them is rich's separator), and at its edges.


@dataclass(frozen=True)
class Report(Command):
    """Write report.html, report.md and results.csv from the results that bench has stored."""

    out: ResultPath
    """Folder that bench wrote, or several copied into one."""

    def run(self) -> None:
        if not self.out.is_dir():
            raise OptionError(f"no folder {self.out}: give the --out of learn2splat bench")
        show_report(self.out)


def show_report(out: Path, protocol_key: str | None = None) -> None:
    """Write the files, print the tables: of all protocols in the folder, or of one."""
    for comparison in with_notes(partial(write_report, out)):
        if protocol_key in (None, next(iter(comparison.cells.values())).path.parents[2].name):
            print_summary(comparison, Console())
    print(f"Report: {out / HTML}")


def print_summary(c: Comparison, console: Console) -> None:
    """Quality and cost, what went wrong, and the verdict; the best in bold, the second underlined."""
    for table in (tables.quality_table(c), tables.cost_table(c)):
        for part in _parts(table, console.width):
            shown = rich.table.Table(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, GAP - 1, 0, 0))
            for k in part:
                shown.add_column(Text(table.head[k]), justify="right" if k else "left", no_wrap=True)
            for i, row in enumerate(table.rows):
                marks = ["bold" if (i, k) in table.best else "underline" if (i, k) in table.second else "" for k in part]
                shown.add_row(*(Text(row[k], style=mark) for k, mark in zip(part, marks)))
            console.print(shown)
    for line in tables.unfinished(c):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(tables.headline(c), markup=False, highlight=False, soft_wrap=True)


def _parts(table: tables.Table, width: int) -> list[list[int]]:
    """Columns of the tables that a narrow terminal shows one below the other; each begins with the names of the optimizers."""
    wide = [max(len(row[k]) for row in (table.head, *table.rows)) + GAP for k in range(len(table.head))]
    parts = [[0]]
    for k in range(1, len(wide)):
        if len(parts[-1]) > 1 and sum(wide[i] for i in parts[-1]) + wide[k] + EDGES > width:
            parts.append([0])
        parts[-1].append(k)
    return parts

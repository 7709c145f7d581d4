"""`learn2splat report`: the report of a benchmark's results, again or while it runs."""

from __future__ import annotations

from dataclasses import dataclass
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
    for comparison in write_report(out):
        if protocol_key in (None, next(iter(comparison.cells.values())).path.parents[2].name):
            print_summary(comparison, Console())
    print(f"Report: {out / HTML}")


def print_summary(c: Comparison, console: Console) -> None:
    """Quality and cost, what went wrong, and the verdict; the best in bold, the second underlined."""
    for table in (tables.quality_table(c), tables.cost_table(c)):
        shown = rich.table.Table(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for k, name in enumerate(table.head):
            shown.add_column(Text(name), justify="right" if k else "left", overflow="fold", no_wrap=not k)
        for i, row in enumerate(table.rows):
            marks = ["bold" if (i, k) in table.best else "underline" if (i, k) in table.second else "" for k in range(len(row))]
            shown.add_row(*(Text(text, style=mark) for text, mark in zip(row, marks)))
        console.print(shown)
    for line in tables.unfinished(c):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(tables.headline(c), markup=False, highlight=False, soft_wrap=True)

"""The progress of a benchmark on stderr: a live table of the optimizers in a terminal, a line now and then elsewhere."""

from __future__ import annotations

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..bench import GroupProgress
from ..bench.lane import LaneProgress
from .display import Display

BAR_WIDTH = 16


class BenchProgress(Display):
    """A context manager; call it with every `GroupProgress`. `groups`: how many there are, a scene and a seed each."""

    def __init__(self, groups: int, console: Console | None = None) -> None:
        super().__init__(console)
        self.groups = groups
        self.seen: list[tuple[str, int]] = []
        self.live = Live(console=self.console, transient=True, refresh_per_second=4)

    def __call__(self, progress: GroupProgress) -> None:
        where = (progress.scene, progress.seed)
        if where not in self.seen:
            self.seen.append(where)
        title = f"{progress.scene}, seed {progress.seed} ({self.seen.index(where) + 1} of {self.groups})"
        if progress.ended is not None:
            lane = next(lane for lane in progress.lanes if lane.label == progress.ended)
            self.line(f"{title}  {lane_text(lane)}")
        elif not self.console.is_terminal and self.line_is_due():
            self.line(f"{title}  " + "; ".join(lane_text(lane) for lane in progress.lanes if lane.status == "running"))
        if self.console.is_terminal:
            self.live.update(Group(Text(title), lane_table(progress.lanes)))


def lane_text(lane: LaneProgress) -> str:
    """adam 120 steps 8.1 s 24.31 dB"""
    quality = "" if lane.psnr is None else f" {lane.psnr:.2f} dB"
    status = "" if lane.status in ("running", "done") else f" {lane.status}"
    return f"{lane.label} {lane.steps} steps {lane.seconds:.1f} s{quality}{status}"


def lane_table(lanes: tuple[LaneProgress, ...]) -> Table:
    """A row per optimizer, with a bar of its budget."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("left", "left", "right", "right", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)
    for lane in lanes:
        bar = ProgressBar(total=1.0, completed=lane.fraction, width=BAR_WIDTH)
        psnr = "" if lane.psnr is None else f"{lane.psnr:.2f} dB"
        status = "" if lane.status == "running" else lane.status
        table.add_row(escape(lane.label), bar, f"{lane.steps} steps", f"{lane.seconds:.1f} s", psnr, status)
    return table

"""What commands show on stderr while they work: something live in a terminal, a line now and then elsewhere (log files, pipes)."""

from __future__ import annotations

import time
from typing import Protocol, TypeVar

from rich.console import Console

LINE_EVERY = 10.0  # seconds between two lines where stderr is no terminal
D = TypeVar("D", bound="Display")


class Live(Protocol):
    """A bar, a status or a table of rich."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


class Display:
    """A context manager. A subclass sets `live` and is called with what there is to show."""

    live: Live

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.last_line = time.monotonic()

    def __enter__(self: D) -> D:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def line_is_due(self) -> bool:
        """Whether it is time for another line."""
        return time.monotonic() - self.last_line >= LINE_EVERY

    def line(self, text: str) -> None:
        """`text` as it is, and not folded."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        self.last_line = time.monotonic()

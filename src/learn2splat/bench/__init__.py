"""Comparing optimizers: protocols, fair clocks, storage, statistics and reports."""

from .protocol import Budget as Budget
from .protocol import Protocol as Protocol
from .run import run_bench as run_bench
from .store import Cell as Cell
from .store import read_cells as read_cells

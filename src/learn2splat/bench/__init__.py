"""Comparing optimizers: protocols, fair clocks, storage, statistics and reports."""

from .protocol import Budget as Budget
from .protocol import Protocol as Protocol
from .run import GroupProgress as GroupProgress
from .run import run_bench as run_bench
from .run import run_group as run_group
from .store import Cell as Cell
from .store import read_cells as read_cells

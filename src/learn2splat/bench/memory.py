"""How much memory a piece of work needs at its worst, beyond what the process holds already."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): resets VmHWM to the resident size of now


class PeakMemory:
    """`with PeakMemory(device) as peak: work()`, then `peak.bytes`; None where the system does not tell (it does on Linux and on CUDA).

    On a CPU it is resident memory of the whole process, to about a megabyte: nothing else may run in the process meanwhile.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes: int | None = None

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            _give_freed_memory_back()
            self._before = _reset_peak()
        return self

    def __exit__(self, *exception: object) -> None:
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else _status("VmHWM")
        self.bytes = None if self._before is None or peak is None else max(0, peak - self._before)

    def held(self) -> int:
        """Bytes that the work has not freed; negative where it has freed more than it took."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device) - self._before
        _give_freed_memory_back()
        return (_status("VmRSS") or 0) - (self._before or 0)


class TurnsMemory:
    """The same for work that takes turns with other work in one process: `with memory: turn()`, again and again, then `memory.bytes`.

    What it holds between its turns is what the process grew by in them. To some tens of megabytes: what one turn has freed without giving it back
    may serve the next turn of another.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes: int | None = 0
        self._held = 0

    def __enter__(self) -> TurnsMemory:
        self._turn = PeakMemory(self.device)
        self._turn.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._turn.__exit__()
        if self.bytes is None or self._turn.bytes is None:
            self.bytes = None
            return
        self.bytes = max(self.bytes, self._held + self._turn.bytes)
        self._held += self._turn.held()


def _reset_peak() -> int | None:
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return None
    return _status("VmRSS")


def _status(field: str) -> int | None:
    """VmRSS or VmHWM in bytes."""
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field + ":"))
        return 1024 * int(line.split()[1])
    except (OSError, StopIteration, ValueError):
        return None


def _give_freed_memory_back() -> None:
    """What was freed before would otherwise be used again unseen, and the work would seem to need less."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        pass

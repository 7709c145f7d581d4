"""Fuzzing: damaged files of every format give a result that can be computed with, or one sentence, soon and within some memory.

Cases are numbered: the same format and number make the same file, whoever runs it. They run in a forked worker with a limit on memory; the parent
watches, so that a hang or a crash costs one case and is named.
"""

from __future__ import annotations

import os
import pickle
import resource
import select
import shutil
import signal
import struct
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from corpus import FORMATS, Example, Format
from written import SentenceError

from learn2splat.errors import Learn2SplatError

MORE_MEMORY = 1 << 30  # bytes of address space above what the worker has at its start
HANG = 20.0  # s without an answer, on a machine that may be busy
SLOW = 5.0  # s of processor time: as good as a hang
PER_WORKER = 400  # cases, then a new one
OUTCOMES = ("read", "sentence", "traceback", "wrong", "memory", "hang", "crash")
BAD = OUTCOMES[2:]


@dataclass
class Tally:
    """What came of the cases of a format."""

    counts: Counter = field(default_factory=Counter)
    failures: list[tuple[int, str, str]] = field(default_factory=list)  # (case, outcome, what was said)


def run_cases(format: Format, cases: Iterable[int], *, until: float = float("inf"), keep: Path | None = None) -> Tally:
    """Run the cases in workers; stops at `until` (of `time.monotonic`), having counted what was done. `keep`: where files of bad cases are copied."""
    tally, waiting = Tally(), list(cases)
    while waiting and time.monotonic() < until:
        batch, waiting = waiting[:PER_WORKER], waiting[PER_WORKER:]
        left = _run_worker(format, batch, tally, until, keep)
        waiting = left + waiting
    return tally


def _run_worker(format: Format, batch: list[int], tally: Tally, until: float, keep: Path | None) -> list[int]:
    """Fork, watch, count. Returns the cases that are still to be done."""
    folder = Path(tempfile.mkdtemp(prefix="l2s-fuzz-"))
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        code = 1
        try:
            _work(format, batch, folder, writer, keep)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    done = 0
    try:
        while done < len(batch) and time.monotonic() < until:
            ready, _, _ = select.select([reader], [], [], HANG + 10 * (done == 0))
            message = _receive(reader) if ready else None
            if message is None:
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                pid = 0
                outcome = "crash" if ready else "hang"
                tally.counts[outcome] += 1
                tally.failures.append((batch[done], outcome, f"status {status}"))
                return batch[done + 1 :]
            outcome, said = message
            tally.counts[outcome] += 1
            if outcome in BAD:
                tally.failures.append((batch[done], outcome, said))
            done += 1
        return batch[done:]
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(reader)
        shutil.rmtree(folder, ignore_errors=True)


def _receive(reader: int) -> tuple[str, str] | None:
    head = os.read(reader, 4)
    if len(head) < 4:
        return None
    size, data = struct.unpack("<I", head)[0], b""
    while len(data) < size:
        part = os.read(reader, size - len(data))
        if not part:
            return None
        data += part
    return pickle.loads(data)  # of our own child


def _work(format: Format, batch: list[int], folder: Path, writer: int, keep: Path | None) -> None:
    """In the child."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    example = Example(format, folder / "x")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)  # libraries in C say what they think of a file
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MORE_MEMORY, resource.RLIM_INFINITY))
    for case in batch:
        path = example.damage(case)
        outcome, said = outcome_of(example)
        if outcome in BAD and keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, keep / f"{format.name.replace(' ', '_').replace('/', '_')}-{case}-{path.name}")
        example.mend(path)
        data = pickle.dumps((outcome, said))
        os.write(writer, struct.pack("<I", len(data)) + data)


def outcome_of(example: Example) -> tuple[str, str]:
    """What comes of reading it, and what is said where that is bad."""
    began = time.process_time()
    try:
        example.format.read(example.folder)
        outcome, said = "read", ""
    except (Learn2SplatError, SentenceError) as error:
        text = str(error)
        outcome, said = ("sentence", "") if text.strip() and "Traceback" not in text else ("wrong", f"said {text!r}")
    except MemoryError as error:
        outcome, said = "memory", _brief(error)
    except AssertionError as error:
        outcome, said = "wrong", f"{error} {_place(error)}"
    except BaseException as error:
        outcome, said = "traceback", _brief(error)
    if time.process_time() - began > SLOW and outcome in ("read", "sentence"):
        return "hang", f"{time.process_time() - began:.0f} s"
    return outcome, said


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:150]} {_place(error)}"


def _place(error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "learn2splat" in f.filename and "tests" not in f.filename]
    return " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-3:]))


def by_name(name: str) -> Format:
    return next(each for each in FORMATS if each.name == name)

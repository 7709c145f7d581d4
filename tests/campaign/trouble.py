"""Trouble that is not a kill: full disks, disks that cannot be written, signals, two processes in one folder.

Whatever happens, a command ends with 0, or with 2 or 130 and one sentence (or 143, by SIGTERM before it was ready); what was saved before is intact;
nothing is left lying about; and when the trouble is over, the same command goes on to the same bits.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from jobs import Ended, Job, all_jobs, finish, imported, litter, run, start
from kills import Trial
from results import Results

FULL = (0, 1, 2, 3, 5, 8, 13, 21, 40, 80)  # the write at which the disk is full, for good


def full_from(number: int) -> Callable[[], None]:
    """In a child: every write to the disk from that number on fails as on a full disk, half of it written."""

    def install() -> None:
        fsync, write, seen = os.fsync, os.write, [0]

        def failing_fsync(descriptor: int) -> None:
            seen[0] += 1
            if seen[0] > number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(descriptor)

        def failing_write(descriptor: int, data: bytes) -> int:
            seen[0] += 1
            if seen[0] > number:
                write(descriptor, data[: len(data) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(descriptor, data)

        os.fsync, os.write = failing_fsync, failing_write

    return install


def fault(ended: Ended, codes: tuple[int, ...]) -> str:
    """What is wrong with how it ended, or ''."""
    if ended.code not in codes:
        return f"code {ended.code}: {ended.err[-300:]}"
    said = [line for line in ended.err.splitlines() if line.startswith("learn2splat: ")]
    if "Traceback" in ended.err or "stack trace" in ended.err:
        return f"a trace: {ended.err[-300:]}"
    return f"{len(said)} sentences: {ended.err[-300:]}" if ended.code in (2, 130) and len(said) != 1 else ""


class Troubled(Trial):
    """A job in trouble, then without."""

    def afterwards(self) -> str:
        """Goes on without trouble, to the same bits."""
        ended = run(lambda: self.job.run(self.out))
        if ended.code != 0:
            return f"could not go on: {ended.code}: {ended.err[-300:]}"
        found = self.job.digest(self.out)
        wrong = [name for name in {**found, **self.expected} if found.get(name) != self.expected.get(name)]
        left = litter(self.out)
        return (f"other bits: {wrong}" if wrong else "") + (f" left lying about: {left}" if left else "")

    def full_disk(self, number: int) -> str:
        shutil.rmtree(self.out, ignore_errors=True)
        return fault(run(lambda: self.job.run(self.out), full_from(number)), (0, 2)) or self.afterwards()

    def small_disk(self, kilobytes: int) -> str:
        """A real one: a file system of so many kB."""
        disk = self.folder / "disk"
        disk.mkdir(exist_ok=True)
        if os.system(f"mount -t tmpfs -o size={kilobytes}k none {disk}"):
            return ""
        try:
            wrong = fault(run(lambda: self.job.run(disk / "out")), (0, 2))
            left = litter(disk)
            os.system(f"mount -o remount,size=64m {disk}")
            ended = run(lambda: self.job.run(disk / "out"))
            found = {} if ended.code else self.job.digest(disk / "out")
            other = [name for name in self.expected if found.get(name) != self.expected[name]]
            return wrong or (f"left lying about: {left}" if left else "") or (f"other bits: {other} {ended}" if other else "")
        finally:
            os.system(f"umount {disk}")

    def read_only(self) -> str:
        """A file system that is mounted read-only, at the start and under a run that is to go on."""
        disk = self.folder / "ro"
        disk.mkdir(exist_ok=True)
        if os.system(f"mount -t tmpfs -o size=64m none {disk}"):
            return ""
        try:
            os.system(f"mount -o remount,ro {disk}")
            wrong = fault(run(lambda: self.job.run(disk / "out")), (2,))
            os.system(f"mount -o remount,rw {disk}")
            pid, said = start(lambda: self.job.run(disk / "out"))
            time.sleep(0.5 * self.seconds)
            os.kill(pid, signal.SIGKILL)
            finish(pid, said)
            os.system(f"mount -o remount,ro {disk}")
            return wrong or fault(run(lambda: self.job.run(disk / "out")), (0, 2))
        finally:
            os.system(f"umount {disk}")

    def signalled(self, rng: random.Random, numbers: tuple[int, ...]) -> str:
        """At a random moment; a second one soon after the first."""
        shutil.rmtree(self.out, ignore_errors=True)
        pid, said = start(lambda: self.job.run(self.out))
        for number in numbers:
            time.sleep(rng.uniform(0, self.seconds if number == numbers[0] else 0.05))
            os.kill(pid, number)
        return fault(finish(pid, said), (0, 130, 143, -signal.SIGTERM)) or self.afterwards()

    def two_at_once(self) -> str:
        shutil.rmtree(self.out, ignore_errors=True)
        both = [start(lambda: self.job.run(self.out)) for _ in range(2)]
        ended = [finish(*each) for each in both]
        wrong = "; ".join(text for each in ended if (text := fault(each, (0, 2))))
        return wrong or ("neither came to its end" if all(each.code for each in ended) else "") or self.afterwards()


def campaign(results: Results) -> None:
    """All of it, once: commands only (`train` of the campaign has no command line, so it is not signalled)."""
    imported()
    part = results.part("trouble")

    def note(kind: str, job: Job, wrong: str) -> None:
        about = part.setdefault(kind, {"cases": 0, "bad": []})
        about["cases"] += 1
        if wrong:
            about["bad"].append(f"{job.name}: {wrong}")
            print(kind, job.name, wrong, flush=True)
        results.save()

    with tempfile.TemporaryDirectory(prefix="l2s-trouble-") as folder:
        for i, job in enumerate(all_jobs(Path(folder) / "scenes")):
            if job.name == "train":
                continue
            trial, rng = Troubled(job, Path(folder) / str(i)), random.Random(job.name)
            note("two processes", job, trial.two_at_once())
            note("read-only", job, trial.read_only())
            for numbers in ((signal.SIGTERM,), (signal.SIGINT,), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)):
                for _ in range(2):
                    note(" then ".join(number.name for number in numbers), job, trial.signalled(rng, numbers))
            for kilobytes in (16, 64, 128):
                note("small disk", job, trial.small_disk(kilobytes))
            for number in FULL:
                note("full disk", job, trial.full_disk(number))

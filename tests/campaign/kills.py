"""Kills: SIGKILL at random moments and at every boundary of a save. The run goes on, with the same bits in the end, and nothing is left lying about.

A boundary is a moment of what a save does with the disk: before and after an fsync, in the middle of what is synced (the file is cut to half),
before and after a rename, before and after old saves are removed, in the middle of a line of a cell. In the child that is to die, these functions of
`os` and `shutil` count, and kill it at the chosen number.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

from jobs import Job, all_jobs, finish, imported, litter, run, start
from results import Results

AGAIN = 3  # A run is killed at most so often, then comes to its end


class Boundaries:
    """Counts them in this process from now on; at number `fatal` it dies. `record`: a file that gets the number at the end."""

    def __init__(self, fatal: int | None = None) -> None:
        self.seen, self.fatal = 0, fatal
        self.kinds: list[str] = []

    def passed(self, kind: str, before_death: object = None) -> None:
        self.kinds.append(kind)
        if self.seen == self.fatal:
            if before_death is not None:
                before_death()
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen += 1

    def install(self) -> None:
        fsync, replace, rmtree, write = os.fsync, os.replace, shutil.rmtree, os.write

        def counted_fsync(descriptor: int) -> None:
            self.passed("fsync: half", lambda: _halve(descriptor))
            self.passed("fsync: before")
            fsync(descriptor)
            self.passed("fsync: after")

        def counted_replace(*args: object, **options: object) -> None:
            self.passed("rename: before")
            replace(*args, **options)
            self.passed("rename: after")

        def counted_rmtree(*args: object, **options: object) -> None:
            self.passed("remove: before")
            rmtree(*args, **options)
            self.passed("remove: after")

        def counted_write(descriptor: int, data: bytes) -> int:
            self.passed("line: half", lambda: write(descriptor, data[: len(data) // 2]))
            self.passed("line: before")
            count = write(descriptor, data)
            self.passed("line: after")
            return count

        os.fsync, os.replace, shutil.rmtree, os.write = counted_fsync, counted_replace, counted_rmtree, counted_write


def _halve(descriptor: int) -> None:
    """As after a kill in the middle of writing."""
    size = os.fstat(descriptor).st_size
    try:
        os.ftruncate(descriptor, size // 2)
    except OSError:  # a folder
        pass


class Trial:
    """A job with its uninterrupted run, and how many boundaries that has."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job, self.folder = job, folder
        whole, count = folder / "whole", folder / "count"

        def work() -> int:
            boundaries = Boundaries()
            boundaries.install()
            code = job.run(whole)
            seen = boundaries.seen
            count.write_text(f"{seen}")
            return code

        ended = run(work)
        assert ended.code == 0, (job.name, ended)
        self.seconds, self.boundaries, self.expected = ended.seconds, int(count.read_text()), job.digest(whole)

    def at_boundary(self, numbers: list[int]) -> tuple[int, str]:
        """Killed at these boundaries, one run after another, then to its end: (kills that came about, what is wrong or '')."""
        return self._trial([lambda n=n: run(lambda: self.job.run(self.out), Boundaries(n).install) for n in numbers])

    def at_random(self, rng: random.Random, count: int) -> tuple[int, str]:
        """Killed at moments of the whole duration."""

        def once() -> object:
            pid, said = start(lambda: self.job.run(self.out))
            time.sleep(rng.uniform(0, 1.1 * self.seconds))
            os.kill(pid, signal.SIGKILL)
            return finish(pid, said)

        return self._trial([once] * count)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def _trial(self, attempts: list) -> tuple[int, str]:
        shutil.rmtree(self.out, ignore_errors=True)
        kills = 0
        for attempt in attempts:
            ended = attempt()
            if ended.code == -signal.SIGKILL:
                kills += 1
            elif ended.code != 0:
                return kills, f"ended with {ended.code}: {ended.err[-300:]}"
        ended = run(lambda: self.job.run(self.out))
        if ended.code != 0 and not (ended.code == 2 and "already" in ended.err):
            return kills, f"could not go on: {ended.code}: {ended.err[-400:]}"
        found = self.job.digest(self.out)
        wrong = [name for name in {**found, **self.expected} if found.get(name) != self.expected.get(name)]
        left = litter(self.out)
        return kills, (f"other bits: {wrong}" if wrong else "") + (f" left lying about: {left}" if left else "")


def campaign(results: Results, minutes: float, count: int) -> None:
    """Goes on until `count` kills: boundaries in turn (all of a job before any twice) and random moments, two thirds and one third."""
    imported()
    part, until = results.part("kills"), time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="l2s-kills-") as folder:
        trials = [Trial(job, Path(folder) / str(i)) for i, job in enumerate(all_jobs(Path(folder) / "scenes"))]
        while True:
            for trial in trials:
                about = part.setdefault(trial.job.name, {"boundaries": trial.boundaries, "at boundaries": 0, "at random": 0, "runs": 0, "bad": []})
                if sum(a["at boundaries"] + a["at random"] for a in part.values()) >= count or time.monotonic() > until:
                    return
                rng = random.Random(f"{trial.job.name} {about['runs']}")
                if about["runs"] % 3 < 2:
                    # A stride that has no factor in common with the number visits all of them
                    numbers = [(about["runs"] * 7919 + i * 104_729) % trial.boundaries // (i + 1) for i in range(rng.randint(1, AGAIN))]
                    kills, wrong = trial.at_boundary(numbers)
                    about["at boundaries"] += kills
                else:
                    numbers = []
                    kills, wrong = trial.at_random(rng, rng.randint(1, AGAIN))
                    about["at random"] += kills
                about["runs"] += 1
                if wrong:
                    about["bad"].append(f"run {about['runs'] - 1} {numbers}: {wrong}")
                    print(trial.job.name, about["bad"][-1], flush=True)
                    shutil.copytree(
                        trial.out, results.path.parent / "bad" / f"kill-{trial.job.name.replace(' ', '_')}-{about['runs']}", dirs_exist_ok=True
                    )
                results.save()

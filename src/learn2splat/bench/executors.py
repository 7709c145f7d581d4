"""Who runs the groups of a benchmark: processes of this machine, or a Ray cluster. One group is a scene and a seed with all its optimizers, because
these share their slices of time.

Whatever dies, nothing is lost: a group whose process was killed is run again, finished cells are not made again, and the others go on from their
checkpoints, or from their start. With budgets of steps the results are those of one process, to the bit; seconds are honest only where groups do not
fight for cores. All workers must see the same folder of results: on a cluster, a shared disk.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch

from ..errors import BackendError, Learn2SplatError, OptionError
from ..files import clashing
from ..machine import usable_cores
from ..scenes import Scene
from .protocol import Protocol
from .run import GroupProgress, run_group

MAX_ATTEMPTS = 3  # A group whose process is killed so often will be killed again: it needs more memory than there is.
POLL_SECONDS = 0.2

Report = Callable[[GroupProgress], None]
Stop = Callable[[], bool]


@dataclass(frozen=True)
class SceneSource:
    """A scene that every worker loads itself. `load` must be picklable: a `functools.partial` of a function of a module."""

    name: str
    load: Callable[[], Scene]


@dataclass(frozen=True)
class GroupTask:
    """What a worker gets."""

    source: SceneSource
    seed: int
    optimizers: tuple[str, ...]
    protocol: Protocol
    out: Path
    command: tuple[str, ...] = ()
    save_every: float = 30.0

    def run(self, report: Report | None, stop: Stop | None) -> bool:
        """`run_group` of this task."""
        more = {"command": self.command, "save_every": self.save_every, "on_progress": report, "should_stop": stop}
        return run_group(self.source.load(), self.seed, self.optimizers, self.protocol, self.out, **more)

    def __str__(self) -> str:
        return f"{self.source.name}, seed {self.seed}"


def make_tasks(sources: Sequence[SceneSource], seeds: int, **same: Any) -> list[GroupTask]:
    """A task per scene and seed; `same`: what all have in common.

    Raises:
        OptionError: no scenes, no seeds, or two scenes of one name.
    """
    names = [source.name for source in sources]
    twice = clashing(names)
    if not names or seeds < 1 or twice:
        if twice:
            raise OptionError(f"two scenes are called {twice[0]}, or nearly: rename one folder, results are stored by name")
        raise OptionError("give at least one scene and one seed")
    return [GroupTask(source, seed, **same) for source in sources for seed in range(seeds)]


# Processes of this machine ------------------------------------------------------------------------------------------------------------


def run_in_processes(tasks: Sequence[GroupTask], workers: int, *, on_progress: Report | None = None, should_stop: Stop | None = None) -> bool:
    """Run the tasks, at most `workers` at a time, each in a process of its own that has its share of the cores to itself and gives its memory back.

    Optimizers must be known in a new process: those of this package, `module:factory` or `file.py:factory`, none that were registered here.

    Returns:
        False if it was stopped.

    Raises:
        BackendError: a process was killed `MAX_ATTEMPTS` times at the same task, or failed for a reason that is no `Learn2SplatError`.
        Whatever else `run_group` raises. The other processes are stopped first; what they have done is saved.
    """
    if workers < 1:
        raise OptionError(f"workers must be at least 1, got {workers}")
    free = split_cores(usable_cores(), workers)
    waiting, running, attempts = list(tasks), [], dict.fromkeys(tasks, 0)
    stopped, error = False, None
    while running or (waiting and not stopped and error is None):
        while waiting and len(running) < workers and not stopped and error is None:
            task = waiting.pop(0)
            attempts[task] += 1
            running.append(_Worker(task, free.pop()))
        connection.wait([worker.pipe for worker in running], POLL_SECONDS)
        for worker in list(running):
            for message in worker.messages():
                if isinstance(message, GroupProgress) and on_progress:
                    on_progress(message)
            if worker.ended:
                running.remove(worker)
                free.append(worker.cores)
                if worker.killed and attempts[worker.task] < MAX_ATTEMPTS:
                    waiting.insert(0, worker.task)
                elif worker.killed:
                    error = error or BackendError(_killed(worker.task, f"exit code {worker.process.exitcode}"))
                else:
                    error = error or worker.error
        if not stopped and (error is not None or (should_stop is not None and should_stop())):
            stopped = True
            for worker in running:
                worker.stop()
    if error is not None:
        raise error
    return not stopped


class _Worker:
    """A process at a task, and the pipe to it: progress comes, one word that it shall stop goes."""

    def __init__(self, task: GroupTask, cores: tuple[int, ...]) -> None:
        self.task, self.cores, self.error, self.ended, self.killed = task, cores, None, False, False
        context = multiprocessing.get_context("spawn")  # a forked OpenMP hangs
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(task, cores, theirs), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe ends when the process does

    def messages(self) -> list[object]:
        """What has come since; sets `ended`, and `killed` or `error` where it did not end well."""
        messages = []
        try:
            while not self.ended and self.pipe.poll():
                message = self.pipe.recv()
                self.ended = message is None or isinstance(message, Exception)
                self.error = message if isinstance(message, Exception) else None
                messages.append(message)
        except (EOFError, OSError):
            self.ended = self.killed = True
        if self.ended:
            self.process.join()
            self.pipe.close()
        return messages

    def stop(self) -> None:
        try:
            self.pipe.send(None)
        except OSError:  # it has just ended
            pass


def split_cores(cores: tuple[int, ...], workers: int) -> list[tuple[int, ...]]:
    """A share of `cores` for each worker: neighbours, disjoint where there are enough, else one each in turn."""
    if workers > len(cores):
        return [(cores[i % len(cores)],) for i in range(workers)]
    return [cores[len(cores) * i // workers : len(cores) * (i + 1) // workers] for i in range(workers)]


def _work(task: GroupTask, cores: tuple[int, ...], pipe: connection.Connection) -> None:
    """In the new process. The last thing sent is None, or what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group of processes: the first one decides
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)  # Threads that start later inherit it, so groups do not take each other's time.
    torch.set_num_threads(len(cores))
    try:
        task.run(pipe.send, pipe.poll)  # anything that comes says stop; so does the end of the first process
        pipe.send(None)
    except Exception as error:
        pipe.send(error if isinstance(error, Learn2SplatError) else _unexpected(task, error))


# Ray ----------------------------------------------------------------------------------------------------------------------------------


def run_on_ray(tasks: Sequence[GroupTask], workers: int | None = None, *, on_progress: Report | None = None, should_stop: Stop | None = None) -> bool:
    """Run the tasks on a Ray cluster: that of `ray.init` if it was called, that of RAY_ADDRESS if it is set, else one started here for this call.

    Args:
        workers: of a cluster that is started here; default: a worker per core.
        on_progress: called when a group has ended, once per optimizer.

    Returns, raises: as `run_in_processes`; besides:

    Raises:
        BackendError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray will do by default; it warns where this is not set
    try:
        import ray
    except ImportError as error:
        raise BackendError("--executor ray needs Ray: pip install 'learn2splat[ray]'") from error
    started = not ray.is_initialized()
    if started:
        here = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers or os.cpu_count(), "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level="error", **here)
    try:
        return _ray_groups(ray, tasks, on_progress, should_stop)
    finally:
        if started:
            ray.shutdown()


def _ray_groups(ray: Any, tasks: Sequence[GroupTask], on_progress: Report | None, should_stop: Stop | None) -> bool:
    remote = ray.remote(num_cpus=1, max_retries=MAX_ATTEMPTS - 1, max_calls=1)(_ray_work)  # max_calls: a new process per group, as above
    # One group per GPU, and Ray hides GPUs from tasks that ask for none.
    waiting = {remote.options(num_gpus=int(task.protocol.device == "cuda")).remote(task): task for task in tasks}
    stopped, error = False, None
    while waiting:
        ready, _ = ray.wait(list(waiting), timeout=POLL_SECONDS)
        for reference in ready:
            task = waiting.pop(reference)
            try:
                finished, reports = ray.get(reference)
                for progress in reports if on_progress else ():
                    on_progress(progress)
                stopped |= not finished
            except ray.exceptions.TaskCancelledError:
                pass
            except ray.exceptions.RayTaskError as failure:
                cause = failure.cause
                error = error or (cause if isinstance(cause, Learn2SplatError) else _unexpected(task, cause))
            except ray.exceptions.RayError as failure:  # its process, or the machine that it ran on, is gone, and so were those before
                error = error or BackendError(_killed(task, type(failure).__name__))
        if not stopped and (error is not None or (should_stop is not None and should_stop())):
            stopped = True
            for reference in waiting:
                ray.cancel(reference)
    if error is not None:
        raise error
    return not stopped


def _ray_work(task: GroupTask) -> tuple[bool, list[GroupProgress]]:
    """In a worker of Ray: whether the group came to its end, and the reports of runs that ended."""
    import ray

    stop: list[bool] = []
    signal.signal(signal.SIGINT, lambda number, frame: stop.append(True))  # `ray.cancel` interrupts: save first
    threads = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    torch.set_num_threads(max(1, int(threads)))
    reports: list[GroupProgress] = []
    finished = task.run(lambda progress: reports.append(progress) if progress.ended else None, lambda: bool(stop))
    return finished, reports


def _killed(task: GroupTask, how: str) -> str:
    return f"the worker of {task} was killed {MAX_ATTEMPTS} times ({how}), perhaps for want of memory: give it fewer --workers or points"


def _unexpected(task: GroupTask, error: BaseException) -> BackendError:
    where = " ".join(f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-1:])
    return BackendError(f"the worker of {task} failed with {type(error).__name__}: {error} ({where})")

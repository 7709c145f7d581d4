"""Runs that are killed, stopped and starved: small, complete, and with a digest of everything that must be the same in the end.

Each goes on in a forked child, which has all modules already; `spoil` is called in it first, to break things there and only there. The product has no
hooks for this: functions of `os` are replaced in the child.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
from tiny_config import TINY
from tiny_scenes import write_colmap

from learn2splat.bench import read_cells
from learn2splat.bench.lane import is_mark
from learn2splat.cli import main
from learn2splat.files import locked
from learn2splat.fitting.checkpoint import load_checkpoint
from learn2splat.meta import MetaConfig, resume, train
from learn2splat.meta import tasks as meta_tasks

LIMIT = 120.0  # s for one run on a busy machine


@dataclass(frozen=True)
class Job:
    """`run(out)` starts or goes on, and returns the exit code; `digest(out)`: name -> hash of what must not depend on what happened on the way."""

    name: str
    run: Callable[[Path], int]
    digest: Callable[[Path], dict[str, str]]


@dataclass(frozen=True)
class Ended:
    code: int  # negative: by a signal
    err: str
    seconds: float


def start(work: Callable[[], int], spoil: Callable[[], object] | None = None) -> tuple[int, Path]:
    """Fork; (process, file of what it says on stderr)."""
    said = Path(tempfile.mkstemp(prefix="l2s-said-")[1])
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid, said
    code = 70
    try:
        os.setpgid(0, 0)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(os.open(said, os.O_WRONLY | os.O_TRUNC), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)  # not those of a test runner
        torch.set_num_threads(1)
        if spoil is not None:
            spoil()
        code = work()
    except BaseException:
        traceback.print_exc()
        code = 71
    finally:
        sys.stderr.flush()
        os._exit(code)


def finish(pid: int, said: Path) -> Ended:
    """Wait for it; after `LIMIT` it is killed, which shows as -9."""
    began = time.monotonic()
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() - began > LIMIT:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    err = said.read_text(errors="replace")
    said.unlink()
    return Ended(os.waitstatus_to_exitcode(status), err, time.monotonic() - began)


def run(work: Callable[[], int], spoil: Callable[[], object] | None = None) -> Ended:
    return finish(*start(work, spoil))


def litter(out: Path) -> list[str]:
    """What was being written and should not be there."""
    return [str(path.relative_to(out)) for path in out.rglob("*") if ".partial" in path.name or path.name.startswith(".tmp")]


def _hash(data: bytes | str) -> str:
    return hashlib.blake2b(data if isinstance(data, bytes) else data.encode(), digest_size=8).hexdigest()


def _tensors(path: Path) -> str:
    tensors = safetensors.torch.load(path.read_bytes())
    return _hash("".join(f"{name}{_hash(t.contiguous().view(-1).view(torch.uint8).numpy().tobytes())}" for name, t in sorted(tensors.items())))


# fit --------------------------------------------------------------------------------------------------------------------------------


def fit_digest(out: Path) -> dict[str, str]:
    metrics = json.loads((out / "metrics.json").read_text())
    for point in metrics["curve"]:
        for name in [name for name in point if "seconds" in name]:
            del point[name]
    kept = {name: metrics[name] for name in ("curve", "photos", "renders", "num_gaussians", "steps", "psnr", "ssim", "ended")}
    changes = [{name: value for name, value in change.items() if "seconds" not in name} for change in metrics["changes"]]
    pictures = {f"renders/{p.name}": _hash(p.read_bytes()) for p in (out / "renders").iterdir()}
    state = load_checkpoint(out / "checkpoint")[1]["step"]
    return {
        "ply": _hash((out / "point_cloud.ply").read_bytes()),
        "metrics": _hash(json.dumps([kept, changes])),
        "step": str(state),
        **pictures,
        "state": _tensors(out / "checkpoint" / "state.safetensors"),
    }


def fit_job(scene: Path, optimizer: str, density: str, *, steps: int = 24, save_every: str = "0.0001", more: tuple[str, ...] = ()) -> Job:
    options = [
        "--optimizer",
        optimizer,
        "--steps",
        str(steps),
        "--densify",
        density,
        "--num-downscales",
        "1",
        "--views-per-step",
        "2",
        "--save-every",
        save_every,
    ]

    def work(out: Path) -> int:
        resuming = ["--resume"] if (out / "config.json").exists() else []
        return main(["fit", str(scene), "--out", str(out), *options, *more, *resuming])

    return Job(f"fit {optimizer}, {density}", work, fit_digest)


# train ------------------------------------------------------------------------------------------------------------------------------


def train_digest(out: Path) -> dict[str, str]:
    step = resume.latest_step(out)
    files = [out / "theta.safetensors", *sorted((out / "resume" / str(step)).rglob("*.safetensors"))]
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    log = [{name: value for name, value in line.items() if name != "seconds"} for line in lines]
    saves = sorted(path.name for path in (out / "resume").iterdir())
    return {"log": _hash(json.dumps(log)), "saves": " ".join(saves), **{str(path.relative_to(out)): _tensors(path) for path in files}}


def train_job(scene: Path) -> Job:
    config = replace(MetaConfig(**TINY), meta_steps=5)

    def work(out: Path) -> int:
        with locked(out, leftovers=("*.partial", ".*.partial", "resume/**/.*.partial")):
            result = train(config, out, data=[scene], resume=resume.has_save(out), save_every=0.0)
        return 0 if result.finished else 1

    return Job("train", work, train_digest)


# bench ------------------------------------------------------------------------------------------------------------------------------


def bench_digest(out: Path) -> dict[str, str]:
    """Points at marks of seconds are left out: when a second is over is not the same in two runs."""
    result = {}
    for cell in read_cells(out):
        name = f"{cell.scene}/{cell.label}/{cell.seed}"
        result[name] = _hash(
            json.dumps([cell.status, [(p.step, p.psnr, p.ssim, p.picture, p.num_gaussians) for p in cell.points if is_mark(p.step)]])
        )
    pictures = {
        str(path.relative_to(out)): _hash(path.read_bytes()) for path in out.rglob("*.png") if path.stem == "photo" or is_mark(int(path.stem[-6:]))
    }
    pages = {name: str((out / name).exists()) for name in ("report.html", "report.md", "results.csv")}
    return {**result, **pictures, **pages, "checkpoints": str(len(list(out.rglob("*.checkpoint"))))}


def bench_job(scenes: list[Path]) -> Job:
    options = "--optimizers nominal,adam --budget steps:8 --views-per-step 2 --max-points 30 --save-every 0.0001".split()

    def work(out: Path) -> int:
        return main(["bench", *map(str, scenes), "--out", str(out), *options])

    return Job("bench", work, bench_digest)


def all_jobs(folder: Path) -> list[Job]:
    """Those of the campaign, with their scenes written into `folder`."""
    scenes = [write_colmap(folder / name, 6, seed=i) for i, name in enumerate(("one", "two"))]
    kinds = (("learned", "error"), ("nominal", "mcmc"), ("adam", "default"), ("lm", "none"), ("sgd", "default-abs"))
    return [*(fit_job(scenes[0], *kind, steps=10 if kind[0] == "lm" else 24) for kind in kinds), train_job(scenes[0]), bench_job(scenes)]


def imported() -> None:
    """What the jobs import late, so that children have it: `scenes` of lenses, pages, plots."""
    import learn2splat.bench.lpips
    import learn2splat.bench.report  # noqa: F401

    assert meta_tasks is not None


def copied(out: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    return shutil.copytree(out, to)

"""Of the corpus: examples of what runs leave behind (weights, checkpoints, cells, results), and how each is read and sealed."""

from __future__ import annotations

import io
import json
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from made_cells import made_cell
from random_gaussians import random_gaussians
from tiny_scenes import tiny_scene

from learn2splat.bench.report import write_report
from learn2splat.bench.store import read_cells
from learn2splat.cli import main
from learn2splat.files import to_json
from learn2splat.fitting import FitRun, checkpoint, make_plan
from learn2splat.gaussians import Gaussians
from learn2splat.meta import resume as meta_resume
from learn2splat.meta.config import MetaConfig
from learn2splat.optimizers import make_optimizer
from learn2splat.optimizers import weights as weight_files


def good_gaussians(g: Gaussians) -> None:
    assert g.is_finite(), "Gaussians that are not finite"
    assert bool(g.quats.any(dim=1).all()), "a zero quaternion"


def write_weights(folder: Path) -> None:
    weight_files.save_weights(folder / "a.safetensors", make_optimizer("anchored", width=8, blocks=1), {"minutes": 1})
    weight_files.save_weights(folder / "b.safetensors", make_optimizer("paper", width=8, blocks=1, head_dim=8))
    weight_files.save_weights(folder / "c.safetensors", make_optimizer("g3r", width=8, blocks=1))


def write_published(folder: Path) -> None:
    rule = make_optimizer("paper", width=8, blocks=2, head_dim=8)
    names = {f"optimizer.{name}": tensor for name, tensor in rule.network.state_dict().items()}
    torch.save({"state_dict": names, "epoch": 3, "pytorch-lightning_version": "2"}, folder / "a.ckpt")


def read_weights(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        rule = weight_files.load_weights(path)
        assert all(bool(torch.isfinite(tensor).all()) for tensor in rule.network.state_dict().values()), "weights that are not finite"


def seal_weights(path: Path) -> None:
    """The digest of what the file holds now."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    if path.suffix != ".safetensors" or size > len(data):
        return
    try:
        header = json.loads(data[8 : 8 + size])
        tensors, _ = weight_files._read_safetensors(path)
        about = json.loads(header["__metadata__"][weight_files.METADATA_KEY])
        about["sha256"] = weight_files.digest(tensors, about if about["version"] > 1 else None)
    except Exception:  # damaged in another way: as it is
        return
    header["__metadata__"][weight_files.METADATA_KEY] = json.dumps(about)
    _repack(path, header, data[8 + size :])


def _repack(path: Path, header: dict, body: bytes) -> None:
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    path.write_bytes(len(packed).to_bytes(8, "little") + packed + body)


def a_run(folder: Path, resume: bool) -> FitRun:
    scene = tiny_scene(6)
    start = Gaussians(scene.points, *list(random_gaussians(len(scene.points)).tensors().values())[1:])
    plan = make_plan([scene.size(i) for i in scene.train_idx], len(start), steps=4, views_per_step=2, density="none")
    return FitRun(scene, start, make_optimizer("nominal"), plan, checkpoint=folder, resume=resume)


def save_a_checkpoint(folder: Path) -> None:
    run = a_run(folder, resume=False)
    while not run.finished:
        run.advance()
    run.save()


def read_checkpoint(folder: Path) -> None:
    run = a_run(folder, resume=True)
    good_gaussians(run.result().gaussians)


def seal_checkpoint(path: Path) -> None:
    """The CRC of what the file holds now."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
        from safetensors.torch import load

        header["__metadata__"]["crc32"] = checkpoint._checksum(header["__metadata__"]["json"], load(data))
    except Exception:  # damaged in another way: as it is
        return
    _repack(path, header, data[8 + size :])


def write_meta_save(folder: Path) -> None:
    meta_resume.save_theta(
        folder, 3, MetaConfig(), {"weights": {"a": torch.ones(2)}, "average": {"a": torch.ones(2)}}, meta_resume.Counts(1.0, 3, {})
    )
    meta_resume.complete(folder, 3)


def read_meta_save(folder: Path) -> None:
    step = meta_resume.latest_step(folder)
    meta_resume.load_theta(folder, step, MetaConfig(), {})


def write_cells(folder: Path) -> None:
    for label in ("adam", "learned"):
        cell = made_cell(label, "s", 0, {0: 10.0, 10: 15.0, 20: 18.0})
        path = folder / "steps-x" / "s" / label / "seed0.jsonl"
        path.parent.mkdir(parents=True)
        lines = [
            {"kind": "cell", "identity": {}, **cell.header},
            *({"kind": "point", **vars(p)} for p in cell.points),
            {"kind": "end", **cell.end, "peak_bytes": 1e6},
        ]
        path.write_text("".join(to_json(line) + "\n" for line in lines))


def read_report(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_cells(folder)
        write_report(folder)
    page = (folder / "report.html").read_text()
    assert "<!--<script>" not in page, "a text that ends the script"


def write_result(folder: Path) -> None:
    from tiny_scenes import write_colmap

    write_colmap(folder / "scene", 6)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        assert main(["fit", str(folder / "scene"), "--steps", "2", "--densify", "none", "--out", str(folder / "out"), "--no-report"]) == 0


def read_result(folder: Path) -> None:
    """`eval` of a result whose config.json, metrics.json or PLY is damaged: as a user sees it, with its exit code."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["eval", str(folder / "out"), "--json"])
    if code:
        raise SentenceError(code, err.getvalue())
    assert all(value is None or np.isfinite(value) for value in json.loads(out.getvalue()).values() if not isinstance(value, list)), "scores"


class SentenceError(Exception):
    """A command ended with a code and what it said."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(said)
        lines = [line for line in said.splitlines() if not line.startswith("note:")]
        assert code == 2 and len(lines) == 1 and lines[0].startswith("learn2splat: "), f"code {code}: {said[-500:]}"

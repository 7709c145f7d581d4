"""The published checkpoint of Learn2Splat (names in docs/method.md section 3): where it is, how it is read, and what it needs beside its numbers."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

from torch import Tensor

from ..errors import BackendError, CheckpointError
from ._inert import read_tensors
from .paper import PaperConfig
from .world import RELEASED_EPS2D

PREFIXES = ("scene_trainer.optimizer.", "optimizer.", "")
WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod)\.")  # of data-parallel and compiled modules
FIRST = "point_transformer.0.linear.weight"
PICKLED = (".ckpt", ".pt", ".pth")
HUB = re.compile(r"hf:/{1,2}(?P<repository>[^/@]+/[^/@]+)/(?P<path>[^@]+)(?:@(?P<revision>.+))?")  # one slash: what pathlib makes of two


def located(path: str | os.PathLike) -> Path:
    """`path` as a file of this machine; one as hf://organisation/repository/path@revision is fetched from the Hugging Face Hub, or its cache.

    Raises:
        BackendError: huggingface_hub is not installed.
        CheckpointError: there is no such file there, or no way to it.
    """
    match = HUB.fullmatch(os.fspath(path))
    if match is None:
        if os.fspath(path).startswith("hf:"):
            raise CheckpointError(f"{os.fspath(path)} does not name a file of the Hub: expected hf://organisation/repository/path@revision")
        return Path(path)
    try:
        import huggingface_hub
    except ImportError as error:
        raise BackendError("weights from hf:// need huggingface_hub: pip install 'learn2splat[hf]', or give the path of a file") from error
    where = {"repo_id": match["repository"], "revision": match["revision"]}
    try:
        file = Path(huggingface_hub.hf_hub_download(filename=match["path"], **where))
    except Exception as error:  # its own exceptions, those of its HTTP client, and OSError
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"cannot fetch {os.fspath(path)} ({reason}): check the name and the network, or give the path of a file") from error
    try:  # lies beside it then
        huggingface_hub.hf_hub_download(filename=str(Path(match["path"]).with_name("config.yaml")), **where)
    except Exception as error:  # most often there is none; but a network that failed must not change what the weights do without a word
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        warnings.warn(f"no config.yaml beside {os.fspath(path)} ({reason}): what it would say of neighbours is as published", stacklevel=2)
    return file


def read_pickled(path: Path) -> dict[str, Tensor]:
    """Tensors of a Lightning checkpoint; nothing in the file is run. Raises CheckpointError."""
    try:
        return read_tensors(path)
    except ValueError as error:
        raise CheckpointError(f"{path} is not a readable checkpoint ({' '.join(str(error).split())}): copy or download it again") from error


def released(tensors: dict[str, Tensor], path: Path) -> tuple[PaperConfig, dict[str, Tensor]]:
    """(sizes and surroundings, weights by our names) of a published network: prefixes are stripped, other parts of the checkpoint are left alone.

    Raises:
        CheckpointError: there is no such network in it.
    """
    tensors = {WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    for prefix in PREFIXES:
        weights = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if FIRST in weights:
            break
    else:
        raise CheckpointError(f"{path} holds no learned optimizer: no key ends in optimizer.{FIRST}, and it was not written by this project")
    if weights[FIRST].ndim != 2 or not weights[FIRST].numel():
        raise CheckpointError(f"{FIRST} in {path} must be a matrix, got shape {tuple(weights[FIRST].shape)}: it is of another network")
    width = weights[FIRST].shape[0]
    numbers = {match.group(1) for name in weights if (match := re.match(r"point_transformer\.1\.blocks\.(\d+)\.", name))}
    qkv, hidden = (weights.get(f"point_transformer.1.blocks.0.{name}.weight") for name in ("attn.qkv", "mlp.fc1"))
    # One head, as published; a missing or odd matrix keeps the published size here and is named when the weights are filled in.
    config = PaperConfig(
        width=width,
        blocks=len(numbers),  # a gap in the numbers is named then, too
        head_dim=PaperConfig.head_dim if qkv is None or qkv.ndim == 0 or len(qkv) < 3 else len(qkv) // 3,
        mlp_ratio=PaperConfig.mlp_ratio if hidden is None or hidden.ndim == 0 else max(1, len(hidden) // max(1, width)),
        state_proj=any(name.startswith("state_proj.") for name in weights),  # not in those for dense views
        world_frame="scene",
        eps2d=RELEASED_EPS2D,
        **{"refresh_every": 1, **_said_beside(path)},
    )
    return config, weights


def _said_beside(path: Path) -> dict[str, int]:
    """What a config.yaml beside the file says of neighbours. Two numbers: no reason to read YAML."""
    try:
        text = (path.parent / "config.yaml").read_text(errors="replace")
    except OSError:
        return {}
    names = {"knn_samples": "neighbours", "knn_idx_update_every": "refresh_every"}
    found = {names[m[1]]: int(m[2]) for m in re.finditer(rf"^\s*({'|'.join(names)}):\s*(\d{{1,6}})\s*(?:#.*)?$", text, re.MULTILINE)}
    return {name: value for name, value in found.items() if value > 0}

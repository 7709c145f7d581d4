"""Weights of the initializer: 16-bit files that are otherwise like those of the learned optimizers (optimizers/weights.py), and the packaged one."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from ..errors import CheckpointError
from ..files import atomic_produce, parse_json
from ..optimizers.weights import METADATA_KEY, WEIGHTS_FOLDER, _read_safetensors, digest
from .cascade import Cascade, CascadeConfig

ARCHITECTURE = "cascade"
FORMAT_VERSION = 1


def packaged_initializer() -> Path:
    """The file in the installed package."""
    return WEIGHTS_FOLDER / "initializer.safetensors"


def save_initializer(path: str | os.PathLike, network: Cascade, provenance: dict | None = None) -> None:
    """Writes weights and configuration, all or nothing. `provenance`: JSON-able.

    Raises:
        SaveError: the file could not be written.
    """
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in network.state_dict().items()}
    about = {"version": FORMAT_VERSION, "architecture": ARCHITECTURE, "config": asdict(network.config), "provenance": provenance or {}}
    about["sha256"] = digest(tensors, about)
    atomic_produce(Path(path), lambda temporary: save_file(tensors, temporary, metadata={METADATA_KEY: json.dumps(about)}))


def load_initializer(path: str | os.PathLike | None = None) -> Cascade:
    """The network in a file of `learn2splat train --stage initializer`; by default the packaged one.

    Raises:
        CheckpointError: the file is missing, unreadable, damaged, or of another network; the message says which.
    """
    path = packaged_initializer() if path is None else Path(path)
    if not path.is_file():
        raise CheckpointError(f"no weights of an initializer at {path}: give the initializer.safetensors of learn2splat train --stage initializer")
    tensors, metadata = _read_safetensors(path)
    try:
        about = parse_json(metadata[METADATA_KEY])
        version, architecture, config, sha256 = (about[key] for key in ("version", "architecture", "config", "sha256"))
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} holds no initializer ({error}): train one with learn2splat train --stage initializer") from error
    if architecture != ARCHITECTURE or version != FORMAT_VERSION:
        raise CheckpointError(f"{path} holds {architecture}, format {version}, not an initializer ({ARCHITECTURE}, format {FORMAT_VERSION})")
    if digest(tensors, about) != sha256:
        raise CheckpointError(f"{path} is damaged: its content does not have the checksum that was saved with it; copy it again")
    try:
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in Cascade(CascadeConfig(**config)).state_dict().items()}
        if shapes != {name: tensor.shape for name, tensor in tensors.items()}:
            raise ValueError("names or shapes differ")
        network = Cascade(CascadeConfig(**config))
        network.load_state_dict(tensors)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{path} does not fit to this version's network ({str(error).splitlines()[0]}): train one with this version") from error
    return network.eval()

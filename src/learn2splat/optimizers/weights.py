"""Weights of learned rules: files, the ones that ship with the package, and the published checkpoint.

A file of this project is safetensors with one JSON object in its metadata, under `learn2splat`: `version` of this format, `architecture`,
`config` (all sizes, bounds and constants of the rule, so that nothing has to be known to use it), `provenance` (what the trainer wants to be
remembered: data, seed, steps, commit) and `sha256` of names, shapes and numbers. The published checkpoint of Learn2Splat (names in docs/method.md
section 3) loads too, from safetensors or from a Lightning `.ckpt`, of which nothing can run (`_inert.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError, OptionError
from ..files import atomic_produce, parse_json
from ._released import PICKLED, located, read_pickled, released
from .anchored import Anchored, AnchoredConfig
from .g3r import G3R, G3RConfig
from .nominal import NominalConfig
from .paper import Paper, PaperConfig
from .resplat import ReSplat, ReSplatConfig

Rule = TypeVar("Rule", Anchored, Paper, G3R, ReSplat)
ARCHITECTURES = ("anchored", "paper", "g3r", "resplat")
FORMAT_VERSION = 2  # 1: the checksum was of the numbers alone.
METADATA_KEY = "learn2splat"
RUN_TIME = ("refresh_every",)  # Constants that may be set anew for weights from a file: how, not what, they compute.
PACKAGED_DEFAULT = "default"
_KINDS = {"anchored": (Anchored, AnchoredConfig), "paper": (Paper, PaperConfig), "g3r": (G3R, G3RConfig), "resplat": (ReSplat, ReSplatConfig)}
# Beside this file and not through importlib.resources: a package with a native module is always unpacked, and the folders of an editable install
# confuse the latter.
WEIGHTS_FOLDER = Path(__file__).resolve().parents[1] / "weights"


def make_learned(
    name: str = "learned", *, weights: str | os.PathLike | None = None, architecture: str | None = None, seed: int = 0, **config: object
) -> Anchored | Paper | G3R | ReSplat:
    """The learned rule called `name`.

    Args:
        name: `learned`, or the architecture itself: `anchored`, `paper`, `g3r`, `resplat`.
        weights: a file, or the name of a packaged one. By default `learned` takes the packaged weights called `default` and `resplat` those of
            its name, where the package has them; otherwise the rule is untrained: `anchored` then is `nominal`, the others move nothing.
        architecture: of an untrained `learned`.
        seed: for the first layers of an untrained network.
        config: fields of `AnchoredConfig`, `PaperConfig`, `G3RConfig` or `ReSplatConfig`, for an untrained network; a file brings its own.

    Raises:
        OptionError: options that contradict each other or the file.
        CheckpointError: see `load_weights`.
    """
    wanted = architecture if name == "learned" else name
    if wanted not in (None, *ARCHITECTURES):
        raise OptionError(f"unknown architecture {wanted!r}: choose one of {', '.join(ARCHITECTURES)}")
    if architecture not in (None, wanted):
        raise OptionError(f"optimizer {name} has its own architecture, but architecture={architecture} was given: use --optimizer learned with it")
    if weights is None and name == "learned" and wanted is None and not config:
        weights = packaged_weights()
    if weights is None and name == "resplat" and not config:
        weights = packaged_weights("resplat")
    if weights is None:
        make, config_of = _KINDS[wanted or "anchored"]
        rule = make(config_of(**config), seed=seed)
    else:
        if fixed := [name for name in config if name not in RUN_TIME]:
            raise OptionError(f"options {', '.join(fixed)} contradict weights={weights}: the file holds its own configuration, leave them out")
        rule = load_weights(packaged_weights(str(weights)) or weights)
        if config:
            rule = with_options(rule, **config)
        if wanted not in (None, rule.architecture):
            raise OptionError(f"{weights} holds weights of {rule.architecture}, not of {wanted}: use --optimizer {rule.architecture}")
    rule.name = name
    return rule


def with_options(rule: Anchored | Paper | G3R | ReSplat, **options: object) -> Anchored | Paper | G3R | ReSplat:
    """The same weights with other values of `RUN_TIME` constants.

    Raises:
        OptionError: the rule has no such constant, or the value makes no sense.
    """
    try:
        config = replace(rule.config, **options)
    except TypeError:
        raise OptionError(f"{rule.architecture} has no constant {', '.join(options)} of its own that could be set") from None
    return type(rule)(config, network=rule.network)


def packaged_weights(name: str = PACKAGED_DEFAULT) -> Path | None:
    """The file `learn2splat/weights/<name>.safetensors` of the installed package, or None where it has none of that name."""
    path = WEIGHTS_FOLDER / f"{name}.safetensors"
    return path if path.parent == WEIGHTS_FOLDER and path.is_file() else None


def save_weights(path: str | os.PathLike, rule: Anchored | Paper | G3R | ReSplat, provenance: dict | None = None) -> None:
    """Writes the weights and the configuration of `rule`, all or nothing. `provenance`: JSON-able.

    Raises:
        SaveError: the file could not be written.
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in rule.network.state_dict().items()}
    about = {
        "version": FORMAT_VERSION,
        "architecture": rule.architecture,
        "config": asdict(rule.config),
        "provenance": provenance or {},
    }
    about["sha256"] = digest(tensors, about)
    atomic_produce(path, lambda temporary: save_file(tensors, temporary, metadata={METADATA_KEY: json.dumps(about)}))


def load_weights(path: str | os.PathLike) -> Anchored | Paper | G3R | ReSplat:
    """The rule in a file of this project or in a published checkpoint (`.ckpt` or safetensors), here or as hf://organisation/repository/path@revision.

    Raises:
        CheckpointError: the file is missing, unreadable, damaged, of a newer format, or a weight is missing, unknown, mis-shaped or not finite;
            the message names it.
    """
    path = located(path)
    if not path.is_file():
        raise CheckpointError(f"no weights file at {path}: give the path of a .safetensors file or of the published .ckpt")
    tensors, metadata = (read_pickled(path), {}) if path.suffix in PICKLED else _read_safetensors(path)
    if METADATA_KEY not in metadata:
        config, tensors = released(tensors, path)
        return _filled(Paper, config, tensors, path)
    about = _about(metadata, path)
    if digest(tensors, about if about["version"] > 1 else None) != about["sha256"]:
        raise CheckpointError(f"{path} is damaged: its content does not have the checksum that was saved with it; copy or download it again")
    make, config_of = _KINDS[about["architecture"]]
    try:
        config = (_anchored_config if make is Anchored else config_of)(**about["config"])
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} has a configuration that this version cannot use ({error}): install the version that wrote it") from error
    return _filled(make, config, tensors, path)


def weights_info(path: str | os.PathLike) -> dict:
    """`version`, `architecture`, `config`, `provenance` and `sha256` of a file of this project. Raises CheckpointError."""
    _, metadata = _read_safetensors(Path(path))
    if METADATA_KEY not in metadata:
        raise CheckpointError(f"{path} was not written by this project: it has no {METADATA_KEY} entry in its metadata")
    return _about(metadata, path)


def digest(tensors: dict[str, Tensor], about: dict | None = None) -> str:
    """SHA-256 over architecture and configuration (not in files of format 1), then the sorted names, types, shapes and bytes of CPU tensors."""
    result = hashlib.sha256()
    if about is not None:
        result.update(json.dumps([about["architecture"], about["config"]], sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        result.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        result.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return result.hexdigest()


def _about(metadata: dict[str, str], path: str | os.PathLike) -> dict:
    """The JSON object of the metadata, with its keys checked."""
    try:
        about = parse_json(metadata[METADATA_KEY])
        known = isinstance(about, dict) and {"version", "architecture", "config", "provenance", "sha256"} <= about.keys()
        known = known and isinstance(about["config"], dict)
    except ValueError as error:
        raise CheckpointError(f"{path} has unreadable metadata ({error}): it is damaged, copy or download it again") from error
    if not known:
        raise CheckpointError(f"{path} has incomplete metadata: it is damaged, copy or download it again")
    if about["version"] not in (1, FORMAT_VERSION) or about["architecture"] not in ARCHITECTURES:
        raise CheckpointError(
            f"{path} is of format {about['version']}, architecture {about['architecture']}; this version reads formats 1 to {FORMAT_VERSION}, "
            f"one of {', '.join(ARCHITECTURES)}: install a newer version"
        )
    return about


def _anchored_config(**values: object) -> AnchoredConfig:
    return AnchoredConfig(**{**values, "features": tuple(values["features"]), "nominal": NominalConfig(**values["nominal"])})


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({error}): copy or download it again") from error


def _filled(make: Callable[..., Rule], config: object, tensors: dict[str, Tensor], path: Path) -> Rule:
    """The rule of `config` with the weights `tensors`. Nothing is allocated before they are known to be what the configuration says."""
    if config.blocks > len(tensors):
        raise CheckpointError(f"{path} lacks weights: {config.blocks} blocks are more than its {len(tensors)} tensors could fill")
    try:
        with torch.device("meta"):
            shapes = make(config).network.state_dict()
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} has a configuration that this version cannot use ({reason}): install the version that wrote it") from error
    _check(shapes, tensors, path)
    rule = make(config)
    for name, tensor in rule.network.state_dict().items():
        tensor.copy_(tensors[name])  # state_dict shares memory with the network
    return rule


def _check(own: dict[str, Tensor], tensors: dict[str, Tensor], path: Path) -> None:
    """Every key of `own` must be in `tensors`, with its shape and finite numbers, and no other. The numbers of `own` are not looked at."""
    for problem, names in (("lacks", own.keys() - tensors.keys()), ("has unknown", tensors.keys() - own.keys())):
        if names:
            raise CheckpointError(f"{path} {problem} weights: {', '.join(sorted(names))}; it is damaged or of another network")
    for name, tensor in own.items():
        found = tensors[name]
        if found.shape != tensor.shape or not found.is_floating_point():
            got = f"{found.dtype} of shape {tuple(found.shape)}"
            raise CheckpointError(f"{name} in {path} must be floating of shape {tuple(tensor.shape)}, got {got}: it is of another network")
        if not bool(torch.isfinite(found).all()):
            raise CheckpointError(f"{name} in {path} holds NaN or infinities: training diverged, or the file is damaged")

"""Splat files, in and out. Everything stays in the frame of the file; one module per format says what its bytes mean.

| format | suffix | bytes per Gaussian | keeps |
|---|---|---|---|
| `ply` | .ply | 248 | everything, to the bit |
| `compressed-ply` | .compressed.ply | 16, SH 45 | 8 to 11 bits, SH to 1/64 |
| `spz` | .spz | 20, SH 45, then gzip | 8 to 10 bits, positions 24, SH in [-1, 1] to 1/256 |
| `sog` | .sog | 20 to 60 | 8 bits, positions 16, SH by a palette of 65 536 |
| `splat` | .splat | 32 | 8 bits; no colours that depend on the view |
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

from ...errors import OptionError, PlyError
from ..record import Gaussians
from .compressed_ply import save_compressed_ply as save_compressed_ply
from .dot_splat import load_dot_splat, save_dot_splat
from .ply import load_cloud as load_cloud
from .ply import load_offset as load_offset
from .ply import load_ply as load_ply
from .ply import save_ply as save_ply
from .sog import META as SOG_META
from .sog import load_sog, save_sog
from .spz import GZIP, MAGIC, load_spz, save_spz

FormatName = Literal["ply", "compressed-ply", "spz", "sog", "splat"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)
_SAVERS = {"ply": save_ply, "compressed-ply": save_compressed_ply, "spz": save_spz, "sog": save_sog, "splat": save_dot_splat}
SUFFIXES = {name: f".{name.replace('-ply', '.ply')}" for name in FORMATS}


def load_splat(path: str | os.PathLike) -> Gaussians:
    """Gaussians of any splat file, float32 on the CPU, in the file's frame: by its first bytes; a `.splat`, which has none of its own, by its suffix.

    What can be mended or left out is, with a UserWarning.

    Raises:
        PlyError: it is missing, damaged, or no splat file.
        BackendError: SPZ of version 4 without the package zstandard.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if path.is_dir():
        if not (path / SOG_META).is_file():
            raise PlyError(f"{path} is a folder without {SOG_META}: expected a splat file, one of {', '.join(SUFFIXES.values())}")
        return load_sog(path)
    try:
        with open(path, "rb") as file:
            head = file.read(4)
    except FileNotFoundError as error:
        raise PlyError(f"no splat file at {path}: check the path") from error
    except OSError as error:
        raise PlyError(f"{path} cannot be read: {error.strerror or error}") from error
    if suffix == ".splat":
        return load_dot_splat(path)
    if head.startswith(b"ply"):
        return load_ply(path)
    if head.startswith(GZIP) or head == MAGIC:
        return load_spz(path)
    if head.startswith(b"PK") or path.name == SOG_META:
        return load_sog(path)
    if suffix == ".ply":
        return load_ply(path)  # which says what is wrong with it
    raise PlyError(f"{path} is no splat file that can be read: expected one of {', '.join(SUFFIXES.values())}")


def save_splat(path: str | os.PathLike, gaussians: Gaussians, format: FormatName | None = None) -> None:
    """Write `gaussians` in a format: by default that of the suffix of `path`. Atomic.

    Raises:
        OptionError: the format is unknown, or the suffix names none.
        SaveError: disk full, no permission, ...; no partial file stays.
        PlyError: some Gaussians hold NaN or infinite values, which no reader takes.
    """
    path = Path(path)
    chosen = format or format_of(path)
    if chosen not in _SAVERS:
        raise OptionError(f"format must be one of {', '.join(FORMATS)}, got {chosen}")
    _SAVERS[chosen](path, gaussians)


def format_of(path: Path) -> FormatName:
    """The format that the suffix of a path to be written names.

    Raises:
        OptionError: none.
    """
    name = path.name.lower()
    for known in sorted(FORMATS, key=lambda known: -len(SUFFIXES[known])):  # .compressed.ply before .ply
        if name.endswith(SUFFIXES[known]):
            return known
    raise OptionError(f"{path} names no splat format: expected one of {', '.join(SUFFIXES.values())}")

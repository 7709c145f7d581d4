"""Writing files so that a reader never sees half of one: into a temporary file beside it, onto the disk, then renamed. And strict JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

from ..errors import SaveError


def atomic_write(path: Path, data: bytes | str) -> None:
    """Replace the content of `path`. Whatever happens, `path` holds the old bytes or the new ones.

    Raises:
        SaveError: disk full, no permission, ...; the old file is intact and no temporary file stays.
    """
    raw = data.encode() if isinstance(data, str) else data

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())

    atomic_produce(path, write)


def atomic_produce(path: Path, produce: Callable[[Path], None]) -> None:
    """As `atomic_write`, for writers that want a path: `produce(temporary)` writes a file of the same suffix."""
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")  # one name per target: a killed run leaves at most one behind
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        produce(temporary)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise SaveError(f"could not write {path}: {reason}; free some space, or choose another place with --out") from error


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(value: object, *, indent: int | None = None) -> str:
    """Strict JSON: NaN and infinities, which JSON does not have, become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""Writing files so that a reader never sees half of one, locks so that two processes never write one folder, and strict JSON.

What is written goes into a hidden folder beside its place, `.<name>.<random>.partial/`, onto the disk, and is then renamed: every writer has its own,
so that two of them cannot mix. Whatever goes wrong (Ctrl-C included) it is removed; what a kill leaves is removed by the next `locked` of the folder.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from .errors import OptionError, SaveError

LOCK = ".lock"
WRITTEN_BY = "written_by"  # Key of the JSON file that says whose a folder is.
_PARTIAL = re.compile(r"\..+\.[0-9a-z_]{8}\.partial")
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}  # File systems without locks: go on without.


def atomic_write(path: Path, data: bytes | str) -> None:
    """Replace the content of `path`. Whatever happens, `path` holds the old bytes or the new ones.

    Raises:
        SaveError: disk full, no permission, ...; the old file is intact and nothing else stays.
    """
    raw = data.encode() if isinstance(data, str) else data
    atomic_produce(path, lambda temporary: temporary.write_bytes(raw))


def atomic_produce(path: Path, produce: Callable[[Path], object]) -> None:
    """As `atomic_write`, for writers that want a path: `produce(temporary)` writes a file of the same name, in a folder that is its own."""
    path = Path(path)
    hidden: Path | None = None
    try:
        new_folders = _make_folders(path.parent)
        hidden = Path(tempfile.mkdtemp(prefix=f".{path.name[:50]}.", suffix=".partial", dir=path.parent))
        temporary = hidden / path.name
        produce(temporary)
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:  # the latter: what its writer makes of a full disk
        reason = getattr(error, "strerror", None) or str(error)
        raise SaveError(f"could not write {path}: {reason}; free some space, or choose another place with --out") from error
    finally:
        if hidden is not None:
            shutil.rmtree(hidden, ignore_errors=True)
    for folder in (path.parent, *new_folders):
        _sync_folder(folder)


def _make_folders(folder: Path) -> list[Path]:
    """Create it; the folders that have new entries because of that, which a power cut could lose, deepest first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(exist_ok=True)  # another process may be doing the same
    return [each.parent for each in missing]


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself survive a power cut, where folders can be synced (not on Windows). The file is in place in any case: no error."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def locked(folder: Path, name: str = LOCK, leftovers: Sequence[str] = ("**/.*.partial",), wait: float = 0.0) -> Iterator[None]:
    """Have `folder` (created where it is missing) for oneself; released in any case, also by a kill.

    Args:
        name: of the lock file, where several share a folder and each has a part of it.
        leftovers: where in it what a killed writer has left is removed.
        wait: seconds until another process that has it is an error.

    Raises:
        OptionError: another process has it.
        SaveError: nothing can be written there.
    """
    lock = FileLock(folder / name, timeout=wait)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise OptionError(f"another process is writing into {folder}: wait for its end, or choose another --out") from None
    except NotImplementedError:
        pass  # no locks on this platform: as on file systems without them (_NO_LOCKS), one process at a time is then up to the user (docs/files.md)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise SaveError(f"could not write into {folder}: {error.strerror or error}; choose another place with --out") from error
    try:
        for left in [path for pattern in leftovers for path in folder.glob(pattern)]:
            if _PARTIAL.fullmatch(left.name):
                shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        lock.release()


def is_ours(folder: Path, marker: str, writer: str) -> bool:
    """Whether `folder` holds results of `writer`, as its JSON file `marker` says; False where it is empty or does not exist.

    Raises:
        OptionError: it is a file, or a folder of somebody else: nothing may be written or removed there.
    """
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"--out must be a folder, and {folder} is a file")
    if not folder.exists():
        return False
    with suppress(OSError, ValueError):
        content = read_json(folder / marker)
        if isinstance(content, dict) and content.get(WRITTEN_BY) == writer:
            return True
    if any(entry.name != LOCK and not _PARTIAL.fullmatch(entry.name) for entry in folder.iterdir()):
        raise OptionError(f"{folder} holds files that {writer} did not write: choose an empty folder, or one that does not exist yet, for --out")
    return False


def file_name(text: str) -> str:
    """`text` with everything but letters, digits, dot, underscore, at, plus and minus replaced."""
    return re.sub(r"[^\w.@+-]+", "_", text).lstrip(".") or "_"


def clashing(names: Sequence[str]) -> list[str]:
    """Those of `names` that would share a file name with another, also where the file system does not tell capitals apart."""
    short = [file_name(name).casefold() for name in names]
    return [name for name, own in zip(names, short) if short.count(own) > 1]


def to_json(value: object, *, indent: int | None = None) -> str:
    """Strict JSON: NaN and infinities, which JSON does not have, become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def read_json(path: Path) -> object:
    """The content of a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8 or not strict JSON, nested too deeply, or has a number that float64 and int64 cannot hold.
    """
    return parse_json(path.read_bytes())


def parse_json(text: bytes | str) -> object:
    """As `read_json`."""
    try:
        text = text if isinstance(text, str) else text.decode("utf-8-sig")
        return json.loads(text, parse_constant=_parse_float, parse_float=_parse_float, parse_int=_parse_int)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


def _parse_int(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"{text[:40]} is beyond 64 bits")
    return int(text)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

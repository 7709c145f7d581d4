"""Reading whole files and writing them so that nobody ever sees half of one; and how large what a file unpacks to may be."""

from __future__ import annotations

from pathlib import Path

from ...errors import PlyError
from ...files import atomic_produce

# Packed splats shrink to a fifth of their bytes, made-up ones of one colour to a hundredth. What claims more is no splat but a bomb.
MAX_RATIO = 100
ALWAYS_ALLOWED = 64 << 20  # bytes: however small the file


def read_bytes(path: Path) -> bytes:
    """
    Raises:
        PlyError: no such file, or it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise PlyError(f"no splat file at {path}: check the path") from error
    except OSError as error:
        raise PlyError(f"{path} cannot be read: {error.strerror or error}") from error


def brief(error: Exception) -> str:
    """What a library says, cut to what fits into a sentence: some repeat the bytes of the file."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 120 else text[:120] + "..."


def require_justified(path: Path, unpacked: int, packed: int) -> None:
    """A file of `packed` bytes may not make us allocate `unpacked` bytes that it could not have held.

    Raises:
        PlyError: it claims more than `MAX_RATIO` times its size.
    """
    if unpacked > max(ALWAYS_ALLOWED, MAX_RATIO * packed):
        raise PlyError(f"{path} is damaged: its {packed} bytes claim to unpack to {unpacked}")


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Replace the content of `path` by `parts`. Whatever happens, it holds the old bytes or all of the new ones.

    Raises:
        SaveError: disk full, no permission, ...; no partial file stays.
    """

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            for part in parts:
                file.write(part)

    atomic_produce(path, write)

"""Text files of other programs: their encoding, their JSON, their numbers. Whatever is in them, the outcome is a value or one SceneError."""

from __future__ import annotations

import codecs
import json
import math
from pathlib import Path
from typing import Any

from ..errors import SceneError

_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_LONGEST_INTEGER = 18  # digits; what is longer becomes a float, which may be infinite, and is then refused like one


def decode_text(data: bytes) -> str:
    """UTF-8, UTF-16 with a byte order mark (PowerShell), else the code page of a Western Windows.

    Raises:
        UnicodeDecodeError: a file with the mark of an encoding is not of it.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data.decode(encoding)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def read_text(path: Path) -> str:
    """
    Raises:
        SceneError: the file cannot be read.
    """
    try:
        return decode_text(path.read_bytes())
    except (OSError, UnicodeDecodeError, MemoryError) as error:
        raise SceneError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def read_json(path: Path, what: str, *, top: type = dict) -> Any:
    """The JSON in a file, an object or (`top`) a list. Keys whose value is null are left out: exporters write null for what they do not know.

    Raises:
        SceneError: the file cannot be read, is not JSON, or is nested beyond any use; `what` says what it should have been.
    """
    try:
        content = json.loads(read_text(path), parse_int=_integer)
        content = _without_null(content)
    except (ValueError, RecursionError, MemoryError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise SceneError(f"{path} is not a readable {what} ({reason})") from error
    if not isinstance(content, top):
        expected = "a JSON object" if top is dict else "a list"
        raise SceneError(f"{path} is not a readable {what}: expected {expected}, got {type(content).__name__}")
    return content


def number(text: str) -> float:
    """A number as C or C++ programs print it, "-nan(ind)" and "1.#INF" of old Windows runtimes included.

    Raises:
        ValueError: it is none.
    """
    try:
        return float(text)
    except ValueError:
        lowered = text.lower()
        if "nan" in lowered or "#" in lowered or "inf" in lowered:
            return math.nan
        raise


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else float(digits)


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_null(item) for item in value]
    return value

"""Any PLY file as tables, through plyfile. Before it allocates anything, the counts of the header are held against the bytes of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyParseError

from ...errors import PlyError
from ._file import brief

_SIZES = {"char": 1, "uchar": 1, "short": 2, "ushort": 2, "int": 4, "uint": 4, "float": 4, "double": 8}
_SIZES |= {"int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "float32": 4, "float64": 8}
_MAX_HEADER = 1 << 20  # bytes


def read_tables(path: Path) -> dict[str, np.ndarray]:
    """The elements of a PLY by name, as structured arrays: any encoding, any byte order.

    Raises:
        PlyError: the file is missing, truncated or no PLY, or its header promises more rows than the file can hold.
    """
    try:
        _check_counts(path)
        ply = PlyData.read(str(path))
    except FileNotFoundError as error:
        raise PlyError(f"no PLY file at {path}: check the path") from error
    except (PlyParseError, OSError, ValueError, MemoryError, OverflowError, KeyError, IndexError, TypeError) as error:
        if isinstance(error, PlyError):
            raise
        raise PlyError(f"{path} is not a readable PLY file ({brief(error)}): it may be truncated, or not a PLY at all; write it again") from error
    return {element.name: element.data for element in ply.elements}


def _check_counts(path: Path) -> None:
    """plyfile fills the whole table of an element with lists before it looks for its rows: a header of 100 bytes could take all memory."""
    with open(path, "rb") as file:
        head = file.read(_MAX_HEADER)
        size = file.seek(0, 2)
    end = head.find(b"end_header")
    if not head.startswith(b"ply") or end < 0:
        raise ValueError("expected a header from 'ply' to 'end_header'")
    text, least = False, 0
    count = 0
    for line in head[:end].splitlines():
        words = line.decode("ascii", "replace").split()
        if words[:1] == ["format"]:
            text = words[1:2] == ["ascii"]
        elif words[:1] == ["element"]:
            count = int(words[2]) if len(words) > 2 else 0
            if count < 0:
                raise ValueError(f"it has {count} rows of {words[1]}")
        elif words[:1] == ["property"] and len(words) > 2:
            least += count * (2 if text else _SIZES.get(words[2] if words[1] == "list" else words[1], 1))  # in text: a digit and a blank
    if least > size - end:
        raise ValueError(f"its header promises at least {least} bytes of rows, and {size - end} follow")

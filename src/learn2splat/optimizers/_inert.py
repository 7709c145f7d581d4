"""Tensors out of a `torch.save` file (a zip with a pickle in it) without running anything of it.

A Lightning checkpoint pickles whatever its program had: configurations, paths, numbers of NumPy. torch's own safe reader refuses such files. Here the
pickle is read by an unpickler that knows how tensors are described and makes an inert placeholder of every other class and function: it takes any
arguments, any state and any items, and does nothing with them. No code of the file, and none of an installed package, is called.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

STORAGE_TYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}  # fmt: skip
MAX_PICKLE = 64 * 2**20  # bytes: names and shapes of a few thousand tensors are a hundredth of that


@dataclass(frozen=True)
class Stored:
    """A tensor that was described and is not read yet."""

    key: object
    dtype: torch.dtype | None  # None: it says so itself (_rebuild_tensor_v3)
    offset: object = 0
    size: object = ()
    stride: object = ()


class Inert:
    """What stands for everything that is no tensor."""

    def __new__(cls, *_args: object, **_options: object) -> Inert:
        return object.__new__(cls)

    def __init__(self, *_args: object, **_options: object) -> None:
        pass

    def __call__(self, *_args: object, **_options: object) -> Inert:
        return self

    def __setstate__(self, _state: object) -> None:
        pass

    def __setitem__(self, _key: object, _value: object) -> None:
        pass

    def append(self, _item: object) -> None:
        """As for a list; likewise `extend` and, for a set, `add`."""

    extend = add = append


def _storage(dtype: torch.dtype) -> type:
    return type("Storage", (Inert,), {"dtype": dtype})


def _rebuilt(storage: object, offset: object, size: object, stride: object, *more: object) -> object:
    if not isinstance(storage, Stored):
        return Inert()
    own = next((value for value in more if isinstance(value, torch.dtype)), storage.dtype)
    return Stored(storage.key, own, offset, size, stride)


def _rebuilt_parameter(data: object, *_more: object) -> object:
    return data


KNOWN = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuilt,
    ("torch._utils", "_rebuild_parameter"): _rebuilt_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuilt_parameter,
    ("torch", "Size"): tuple,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch.storage", "UntypedStorage"): _storage(None),
}
KNOWN |= {("torch", name): _storage(dtype) for name, dtype in STORAGE_TYPES.items()}
KNOWN |= {("torch", str(dtype).removeprefix("torch.")): dtype for dtype in STORAGE_TYPES.values()}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        return KNOWN.get((module, name), Inert)

    def persistent_load(self, pid: object) -> object:
        if isinstance(pid, tuple) and len(pid) >= 3 and pid[0] == "storage":
            return Stored(pid[2], getattr(pid[1], "dtype", None))
        return Inert()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """{name: tensor} of the `state_dict` in the file, or of the dictionary that it is; other entries are left out.

    Raises:
        ValueError: it is no such file, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (pickled,) = [info for info in archive.infolist() if info.filename.rpartition("/")[2] == "data.pkl"]
            folder = pickled.filename.rpartition("/")[0]
            if pickled.file_size > MAX_PICKLE:
                raise ValueError("its index is implausibly large")
            content = _Unpickler(io.BytesIO(archive.read(pickled))).load()
            weights = content.get("state_dict", content) if isinstance(content, dict) else {}
            weights = weights if isinstance(weights, dict) else {}
            found = {name: tensor for name, tensor in weights.items() if isinstance(name, str) and isinstance(tensor, Stored)}
            return {name: _read(archive, f"{folder}/data/{tensor.key}", tensor) for name, tensor in found.items()}
    except ValueError:
        raise
    except Exception as error:  # the unpickler raises whatever a cut or made-up file provokes
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _read(archive: zipfile.ZipFile, name: str, tensor: Stored) -> Tensor:
    """The tensor's numbers; its extent is checked against what the file has before anything is allocated."""
    info = archive.getinfo(name)
    numbers = [tensor.offset, *tensor.size, *tensor.stride]
    plain = isinstance(tensor.dtype, torch.dtype) and len(tensor.size) == len(tensor.stride) and all(type(n) is int and n >= 0 for n in numbers)
    if not plain or info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is not described as a tensor is")
    empty = 0 in tensor.size
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride))
    if empty or (last + 1) * tensor.dtype.itemsize > info.file_size:
        if empty:
            return torch.zeros(tuple(tensor.size), dtype=tensor.dtype)
        raise ValueError(f"{name} has fewer numbers than its tensor")
    flat = torch.frombuffer(bytearray(archive.read(info)), dtype=tensor.dtype)
    return flat.as_strided(tuple(tensor.size), tuple(tensor.stride), tensor.offset).clone()

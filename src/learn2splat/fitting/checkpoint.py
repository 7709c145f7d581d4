"""Checkpoints of a run: one safetensors file whose header holds JSON, so that tensors and numbers can never be of two different moments.

    <folder>/state.safetensors
        __metadata__.json    step, seconds, curve, the fingerprint of the run, versions of this package and of torch
        __metadata__.crc32   of the JSON and of every tensor, because safetensors itself does not notice a flipped bit
        gaussians.*  average.*  optimizer.*  sampler.*

Nothing is ever unpickled. The file is replaced atomically: kill the run at any moment, and the last complete checkpoint is there.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import warnings
import zlib
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import atomic_produce
from ..gaussians.record import Gaussians
from ..optimizers import UpdateRule
from ..scenes import Scene

FORMAT = 1
# Hashes and long lists in a fingerprint: an error names them without their values.
OPAQUE = ("photos or cameras", "initial Gaussians", "constants of the optimizer", "weights of the optimizer", "code of the optimizer")
FILE_NAME = "state.safetensors"


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], info: dict) -> None:
    """Write `tensors` (moved to the CPU) and the JSON-able `info` into `folder`, atomically.

    Raises:
        SaveError: the disk is full or not writable; the previous checkpoint is intact.
    """
    tensors = _apart({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    text = json.dumps({"format": FORMAT, "versions": versions(), **info})
    metadata = {"json": text, "crc32": _checksum(text, tensors)}
    atomic_produce(folder / FILE_NAME, lambda temporary: safetensors.torch.save_file(tensors, temporary, metadata))  # from memory: no copy of it


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict]:
    """The inverse of `save_checkpoint`; tensors on the CPU.

    Raises:
        CheckpointError: there is none, or it is truncated, changed, or of another version.
    """
    path = folder / FILE_NAME
    try:
        # Read once, at one moment: safe_open opens the file again for its tensors, which a running fit may have replaced by then.
        data = path.read_bytes()
        tensors = safetensors.torch.load(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        text = metadata["json"]
        info = json.loads(text)
        intact = metadata["crc32"] == _checksum(text, tensors)
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint in {folder}: expected {FILE_NAME}, run without --resume to start") from None
    except (safetensors.SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(_damaged(path)) from error
    if not intact or not isinstance(info, dict):
        raise CheckpointError(_damaged(path))
    if info.get("format") != FORMAT:
        raise CheckpointError(f"{path} has checkpoint format {info.get('format')}, this version reads {FORMAT}: start again with --overwrite")
    saved, here = info.get("versions"), versions()
    if isinstance(saved, dict) and saved != here:
        changes = ", ".join(f"{name} {saved.get(name)} there and {here[name]} here" for name in here if saved.get(name) != here[name])
        warnings.warn(f"{path} was written under other versions ({changes}): the run goes on, but not to the same bits", stacklevel=3)
    return tensors, info


def versions() -> dict[str, str]:
    """What decides the bits of a run besides its options."""
    return {"learn2splat": version("learn2splat"), "torch": torch.__version__}


def remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoint, and the folder if nothing else is in it."""
    with suppress(OSError):
        (folder / FILE_NAME).unlink(missing_ok=True)
        folder.rmdir()


def has_checkpoint(folder: Path) -> bool:
    """Whether a checkpoint was ever completed in `folder`."""
    return (folder / FILE_NAME).exists()


def group(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors named `prefix.<name>`, by `<name>`."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + ".")}


def named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `group`."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def fingerprint(scene: Scene, gaussians: Gaussians) -> dict[str, object]:
    """What must be the same for a resumed run to be the same run, in the words that an error message can use."""
    sizes = sorted({scene.size(i) for i in range(len(scene))})
    return {
        "scene": scene.name,
        "number of photos": len(scene),
        "photo size": " and ".join(f"{width}x{height}" for width, height in sizes[:4]),
        "number of held-out photos": len(scene.test_idx),
        "number of Gaussians": len(gaussians),
        "photos or cameras": scene_digest(scene),
        "initial Gaussians": _digest(list(gaussians.tensors().values()), ""),
    }


def scene_digest(scene: Scene) -> str:
    """A short hash of photos, their masks, names and cameras, and which photos are held out."""
    cameras = (scene.camtoworlds, scene.Ks, scene.background, torch.tensor(scene.train_idx), torch.tensor(scene.test_idx))
    tensors = [*scene.images, *(scene.masks or ()), *cameras]
    return _digest(tensors, "\n".join(scene.image_names))


def rule_fingerprint(rule: UpdateRule) -> dict[str, object]:
    """The same for the update rule: its name, its constants, its weights if it has learned ones, and its code if it is not of this package."""
    network = getattr(rule, "network", None)
    weights = "" if network is None else _digest(list(network.state_dict().values()), "")
    constants, code = repr(getattr(rule, "config", None)), ""
    if type(rule).__module__.split(".")[0] != __name__.split(".")[0]:  # the version says which code the rules of this package have
        constants, code = _describe({name: value for name, value in vars(rule).items() if name != "network"}), _source_digest(type(rule))
    return {"optimizer": rule.name, "constants of the optimizer": constants, "weights of the optimizer": weights, "code of the optimizer": code}


def _describe(value: object) -> str:
    """`repr`, but with tensors and networks by their numbers and without addresses, which are others in every process."""
    if isinstance(value, torch.nn.Module):
        value = value.state_dict()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_describe(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_describe, value)) + "]"
    return _digest([value], "") if isinstance(value, Tensor) else re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _source_digest(kind: type) -> str:
    """A hash of the whole file that a class is in: a constant or a function beside it decides what it does, too."""
    try:
        source = Path(inspect.getfile(kind)).read_bytes()
    except (OSError, TypeError):  # typed into an interpreter
        source = kind.__qualname__.encode()
    return hashlib.blake2b(source, digest_size=8).hexdigest()


def check_same_run(saved: dict[str, object], current: dict[str, object], folder: Path) -> None:
    """
    Raises:
        CheckpointError: `saved` and `current` differ; names the first difference.
    """
    for key in [*current, *(key for key in saved if key not in current)]:
        there, here = saved.get(key), current.get(key)
        if there != here:
            values = f"the {key} are not the same" if key in OPAQUE else f"{key} is {there} there and {here} here"
            raise CheckpointError(f"the checkpoint in {folder} belongs to another run: {values}; give the options of its start, or another --out")


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each with memory of its own, as safetensors wants: of those that share some, all but the first are copied."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        alone = storage.data_ptr() not in seen and storage.nbytes() == tensor.nbytes
        seen.add(storage.data_ptr())
        result[name] = tensor if alone else tensor.clone()
    return result


def _digest(tensors: list[Tensor], text: str) -> str:
    """A short hash of values, shapes and text."""
    digest = hashlib.blake2b(text.encode(), digest_size=12)
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor.detach().cpu()))
    return digest.hexdigest()


def _checksum(text: str, tensors: dict[str, Tensor]) -> str:
    """CRC-32 of the JSON, then of names, shapes and bytes of the tensors in the order of their names."""
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        crc = zlib.crc32(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(_bytes(tensor), crc)
    return f"{crc:08x}"


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.contiguous().view(-1)
    return memoryview(flat.as_strided(flat.shape, (1,)).view(torch.uint8).numpy())  # of a single number torch leaves the stride as it was


def _damaged(path: Path) -> str:
    return f"{path} is truncated or damaged, so this run cannot go on from it: start again with --overwrite, or choose another --out"

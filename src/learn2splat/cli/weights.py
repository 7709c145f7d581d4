"""`learn2splat weights import|info|export FILE`: weights of the official release into files of this project and back, and what a file holds."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..errors import OptionError
from ..files import atomic_produce
from ..optimizers._released import HUB, PREFIXES
from ..optimizers.paper import Paper
from ..optimizers.weights import digest, load_weights, packaged_weights, save_weights, weights_info, with_options
from .common import Command, Flag, MaybePath, Settings, settings, to_json

Action = Annotated[Literal["import", "info", "export"], tyro.conf.Positional, tyro.conf.arg(metavar="{import,info,export}", help_behavior_hint="")]
File = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
Out = Annotated[MaybePath, tyro.conf.arg(aliases=["-o"])]


@dataclass(frozen=True)
class Weights(Command):
    """Look at weights, take over those of the official release, or write them as it names them."""

    action: Action
    """import: a published .ckpt becomes a .safetensors file of this project. info: what is in a file. export: weights of the published network
    under the names of the release, as safetensors."""
    file: File
    """A .safetensors or .ckpt file, hf://organisation/repository/path@revision, or the name of packaged weights (default, paper, greedy, g3r)."""
    out: Out = None
    """The file to write, .safetensors."""
    set: Settings = ()
    """For import: constants of the rule, as refresh_every=100."""
    json: Flag = False
    """For info: one line of JSON."""

    def run(self) -> None:
        if self.action == "info":
            if self.out is not None or self.set:
                raise OptionError("--out and --set do not go with info: it writes nothing")
            self._print()
            return
        if self.out is None or self.out.suffix != ".safetensors":
            raise OptionError(f"say with --out which .safetensors file to write, got {self.out}")
        rule = load_weights(self._path)
        if self.set:
            rule = with_options(rule, **settings(self.set))
        if self.action == "import":
            save_weights(self.out, rule, {"imported from": self.file if HUB.fullmatch(self.file) else Path(self.file).name, **self._checksum()})
        else:
            self._export(rule)
        print(f"{self.out}: {_describe(rule)}")

    @property
    def _path(self) -> str | Path:
        return packaged_weights(self.file) or self.file

    def _checksum(self) -> dict[str, str]:
        path = Path(self.file)
        return {"sha256 of that file": hashlib.sha256(path.read_bytes()).hexdigest()} if path.is_file() else {}

    def _export(self, rule: object) -> None:
        from safetensors.torch import save_file

        if not isinstance(rule, Paper):
            raise OptionError(f"{self.file} holds weights of {rule.architecture}: only those of paper have a published form")
        if self.set:
            raise OptionError("--set does not go with export: the published form has no place for constants")
        tensors = {f"{PREFIXES[1]}{name}": tensor.contiguous() for name, tensor in rule.network.state_dict().items()}
        atomic_produce(self.out, lambda path: save_file(tensors, path))

    def _print(self) -> None:
        rule = load_weights(self._path)
        tensors = {name: tensor.cpu() for name, tensor in rule.network.state_dict().items()}
        about = {
            "architecture": rule.architecture,
            "numbers": sum(tensor.numel() for tensor in tensors.values()),
            "frame": rule.world.frame,
            "eps2d": rule.world.eps2d,
            "config": asdict(rule.config),
            "sha256 of the numbers": digest(tensors),
        }
        path = Path(self._path)
        if path.suffix == ".safetensors" and path.is_file():
            try:
                about["provenance"] = weights_info(path)["provenance"]
            except ValueError:
                about["provenance"] = {}  # a published file as safetensors
        print(to_json(about) if self.json else to_json(about, indent=1))


def _describe(rule: object) -> str:
    numbers = sum(tensor.numel() for tensor in rule.network.state_dict().values())
    frame = "in the units of the files" if rule.world.frame == "scene" else "scale-free" if rule.architecture == "anchored" else "normalised frame"
    return f"{rule.architecture}, {numbers} numbers, {frame}"

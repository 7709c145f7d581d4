"""What the subcommands share: the base class, devices, signals."""

from __future__ import annotations

import abc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from ..errors import BackendError, OptionError
from ..files import to_json as to_json
from ..machine import machine as machine
from ..machine import portable_command as portable_command
from ..optimizers.weights import packaged_weights, weights_info

DeviceName = Literal["cpu", "cuda"]

# How options look in --help: a short name for the value, and no "(default: None)", because the text says what the default does.
ScenePath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SCENE", help_behavior_hint="")]
ResultPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
SplatPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SPLAT", help_behavior_hint="")]
MaybePath = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
MaybeText = Annotated[str | None, tyro.conf.arg(metavar="STR", help_behavior_hint="")]
MaybeInt = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
MaybeFloat = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")]
MaybeText = Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")]
Settings = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE", help_behavior_hint="")]
Flag = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]


class Interrupted(Exception):
    """Ctrl-C or a termination signal, after everything was saved. The message says how to go on."""


@dataclass(frozen=True, kw_only=True)
class Command(abc.ABC):
    """Options of every subcommand."""

    debug: Flag = False
    """Show the whole trace when something goes wrong."""

    @abc.abstractmethod
    def run(self) -> None:
        """Do it; raises Learn2SplatError or Interrupted with one sentence for the user."""


def require_device(name: DeviceName) -> torch.device:
    """
    Raises:
        BackendError: CUDA is asked for and cannot be used.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise BackendError(f"--device cuda needs a CUDA device, and torch {torch.__version__} finds none: use --device cpu, or a CUDA build of torch")
    return torch.device(name)


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a flag, so that the step under way is finished and saved. A second one stops at once."""
    received: list[int] = []

    def handler(number: int, _frame: object) -> None:
        received.append(number)
        restore()

    def restore() -> None:
        for number, previous in before.items():
            signal.signal(number, previous)

    # Python delivers signals to the main thread only, and lets no other thread set handlers.
    in_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)} if in_main else {}
    try:
        yield lambda: bool(received)
    finally:
        restore()


class Terminated(KeyboardInterrupt):
    """SIGTERM, treated as Ctrl-C is: whatever is being written is removed, and one sentence says that nothing is lost."""


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Outside of `stop_on_signals`, such as while a scene is loaded: SIGTERM raises `Terminated`."""

    def handler(number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, before)
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def machine_text(here: dict) -> str:
    """What `machine` found, for reports: the processor and how much of it is used."""
    gpu = f", {here['gpu']}" if here.get("gpu") else ""
    return f"{here['cpu']}{gpu}, {here['threads']} of {here['cores']} cores"


def versions_text(here: dict) -> str:
    """The versions that `machine` found."""
    return f"learn2splat {here['learn2splat']}, torch {here['torch']}, Python {here['python']}, {here['system']}"


def weights_text(optimizer: str, weights: str | None = None) -> str:
    """Which weights an optimizer has; empty where it has none, or none that were trained."""
    if weights is not None:
        return Path(weights).name
    packaged = packaged_weights() if optimizer == "learned" else None
    return "" if packaged is None else f"of the package ({weights_info(packaged)['sha256'][:12]})"


def settings(given: tuple[str, ...]) -> dict[str, int | float | str]:
    """What `--set name=value` means: whole numbers, numbers, else text.

    Raises:
        OptionError: one is not of that form, or a name comes twice.
    """
    values: dict[str, int | float | str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name.isidentifier() or name in values:
            raise OptionError(f"--set takes name=value, each name once, got {text!r}")
        for kind in (int, float, str):
            try:
                values[name] = kind(value.strip())
                break
            except ValueError:
                continue
    return values


def note(text: str) -> None:
    """A line for the user on stderr; stdout is for results."""
    print(text, file=sys.stderr, flush=True)

"""The command line: one file per subcommand, each a dataclass that parses, calls and prints.

Exit codes: 0 done; 2 the user can mend it (one sentence on stderr; the trace with --debug); 130 stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

from .. import _openmp as _openmp  # isort: skip  # first: before torch is loaded

import io
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from .. import __version__
from ..errors import Learn2SplatError
from .ablate import Ablate
from .bench import Bench
from .common import Command, Interrupted
from .demo import Demo
from .eval import Eval
from .export import Export
from .fit import Fit
from .init import Init
from .render import Render
from .report import Report
from .train import Train
from .weights import Weights

Commands = (
    Annotated[Fit, tyro.conf.subcommand("fit")]
    | Annotated[Init, tyro.conf.subcommand("init")]
    | Annotated[Eval, tyro.conf.subcommand("eval")]
    | Annotated[Render, tyro.conf.subcommand("render")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Weights, tyro.conf.subcommand("weights")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Ablate, tyro.conf.subcommand("ablate")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)

STOPPED = 130  # As shells have it.


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; `argv` without the program name (default: the process's). Returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name that the terminal has no letters for must not end a run
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        print(f"learn2splat {__version__}")
        return 0
    try:
        command: Command = tyro.cli(
            Commands,
            prog="learn2splat",
            description="Fit 3D Gaussian Splatting scenes with a learned optimizer, on a CPU or a GPU. --version: which one this is.",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except SystemExit as parsed:  # tyro has printed the help, or what is wrong with the arguments
        return int(parsed.code or 0)
    try:
        command.run()
    except (Learn2SplatError, OSError) as error:
        return _fail(str(error), error, command.debug)
    except Interrupted as error:
        return _fail(str(error), error, command.debug, STOPPED)
    except KeyboardInterrupt as error:
        return _fail("stopped by Ctrl-C; what had been saved before is intact", error, command.debug, STOPPED)
    return 0


def _fail(message: str, error: BaseException, debug: bool, code: int = 2) -> int:
    """One sentence for the user, or everything for whoever looks for a bug."""
    if debug:
        raise error
    print("learn2splat: " + " ".join(message.split()), file=sys.stderr)
    return code

"""The command line: one file per subcommand, each a dataclass that parses, calls and prints.

Exit codes: 0 done; 2 the user can mend it (one sentence on stderr; the trace with --debug); 130 stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

from .. import _openmp as _openmp  # isort: skip  # first: before torch is loaded

import difflib
import io
import re
import sys
from collections.abc import Sequence
from typing import Annotated, get_args

import tyro

from .. import __version__
from ..errors import Learn2SplatError
from .ablate import Ablate
from .bench import Bench
from .common import Command, Interrupted, Terminated, sigterm_as_ctrl_c
from .demo import Demo
from .eval import Eval
from .export import Export
from .fit import Fit
from .index import MakeIndex
from .init import Init
from .render import Render
from .report import Report
from .sfm import Sfm
from .train import Train
from .view import View
from .weights import Weights

Commands = (
    Annotated[Fit, tyro.conf.subcommand("fit")]
    | Annotated[Init, tyro.conf.subcommand("init")]
    | Annotated[Sfm, tyro.conf.subcommand("sfm")]
    | Annotated[Eval, tyro.conf.subcommand("eval")]
    | Annotated[Render, tyro.conf.subcommand("render")]
    | Annotated[View, tyro.conf.subcommand("view")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Weights, tyro.conf.subcommand("weights")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Ablate, tyro.conf.subcommand("ablate")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
    | Annotated[MakeIndex, tyro.conf.subcommand("index")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)

NAMES = [get_args(kind)[1].name for kind in get_args(Commands)]
# Functions name their arguments; here they are options.
OPTIONS = re.compile(r"(?<![\w/.'-])(long_side|data_factor|test_every|max_seconds|views_per_step|save_every|max_points)(?![\w/.'=])")
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
            description="Fit 3D Gaussian Splatting scenes with a learned optimizer, on a CPU. --version: which one this is.",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except SystemExit as parsed:  # tyro has printed the help, or what is wrong with the arguments
        if parsed.code and arguments and (near := difflib.get_close_matches(arguments[0], NAMES, 1)) and arguments[0] not in NAMES:
            print(f"learn2splat: there is no command {arguments[0]}: did you mean {near[0]}?", file=sys.stderr)
        return int(parsed.code or 0)
    try:
        with sigterm_as_ctrl_c():
            command.run()
    except (Learn2SplatError, OSError) as error:
        return _fail(str(error), error, command.debug)
    except Interrupted as error:
        return _fail(str(error), error, command.debug, STOPPED)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        message = "there is not enough memory: fewer Gaussians (--max-gaussians, --max-points) or pixels (--long-side, --width) need less"
        return _fail(message, error, command.debug)
    except KeyboardInterrupt as error:
        by = "SIGTERM" if isinstance(error, Terminated) else "Ctrl-C"
        return _fail(f"stopped by {by}; what had been saved before is intact", error, command.debug, STOPPED)
    return 0


def _as_option(match: re.Match) -> str:
    return "--" + match[1].replace("_", "-")


def _fail(message: str, error: BaseException, debug: bool, code: int = 2) -> int:
    """One sentence for the user, or everything for whoever looks for a bug."""
    if debug:
        raise error
    message = OPTIONS.sub(_as_option, message)
    print("learn2splat: " + " ".join(message.split()), file=sys.stderr)
    return code

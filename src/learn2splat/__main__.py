"""`python -m learn2splat`, and what the command `learn2splat` runs: the command line, with Ctrl-C answered also while it is being imported."""

import sys

from . import __version__


def main() -> int:
    """The exit code; see cli/__init__.py."""
    if sys.argv[1:] == ["--version"]:  # without waiting for torch
        print(f"learn2splat {__version__}")
        return 0
    try:
        from .cli import main as run

        return run()
    except KeyboardInterrupt:
        print("learn2splat: stopped by Ctrl-C", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

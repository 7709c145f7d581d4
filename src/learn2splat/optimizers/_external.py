"""Factories of optimizers that live outside this package, found by `module:factory` or `path/to/file.py:factory`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from ..errors import OptionError


def import_factory(where: str) -> Callable:
    """The object that `where` names. Importing runs the code of the module or file.

    Raises:
        OptionError: there is no such module, file or name, or it cannot be imported.
    """
    place, _, name = where.rpartition(":")
    try:
        module = _import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:  # whatever the code of that module may raise
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise OptionError(f"cannot import {place!r} for the optimizer {where} ({reason}): give module:factory or path/to/file.py:factory") from error
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise OptionError(f"optimizer {where}: {error}") from error


def _import_file(path: Path) -> object:
    """The module in the file `path`; read again every time, so that an edited file counts in a notebook too."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    name = f"learn2splat_external_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module

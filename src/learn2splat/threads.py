"""How many threads the native core may use."""

from __future__ import annotations

import os

import torch

from .errors import OptionError


def num_threads() -> int:
    """LEARN2SPLAT_NUM_THREADS if set, else what `torch.set_num_threads` says. Results never depend on it.

    Raises:
        OptionError: the variable is not a positive integer.
    """
    text = os.environ.get("LEARN2SPLAT_NUM_THREADS")
    if text is None:
        return torch.get_num_threads()
    if not text.isdecimal() or int(text) < 1:
        raise OptionError(f"LEARN2SPLAT_NUM_THREADS must be a positive integer, got {text!r}")
    return int(text)

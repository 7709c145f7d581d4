"""What every configuration of a rule is checked for."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from numbers import Real

from ..errors import OptionError


def require_finite(config: object) -> None:
    """
    Raises:
        OptionError: a field of the dataclass that should be a number is none, or is NaN or infinite.
    """
    assert is_dataclass(config)
    for field in fields(config):
        value = getattr(config, field.name)
        if field.type in ("float", "int", "bool") and not (isinstance(value, Real) and math.isfinite(value)):
            raise OptionError(f"{field.name} must be a finite number, got {value!r}")
        if field.type == "int" and value != int(value):
            raise OptionError(f"{field.name} must be a whole number, got {value!r}")

"""`make_density`: the table of names."""

from __future__ import annotations

import pytest

from learn2splat.density import DENSITY_CONTROLS, DensityControl, make_density
from learn2splat.errors import OptionError


@pytest.mark.parametrize("name", DENSITY_CONTROLS)
def test_every_name_makes_a_control_of_that_name(name):
    control = make_density(name)
    assert isinstance(control, DensityControl) and control.name == name


def test_an_unknown_name_is_told_the_others():
    with pytest.raises(OptionError, match=r"unknown density control 'mcmcm': choose one of none, .*default"):
        make_density("mcmcm")

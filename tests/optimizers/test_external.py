"""Optimizers from a file of somebody's own: whatever goes wrong in it is one sentence that says where."""

import sys

import pytest

from learn2splat.bench.protocol import Contender
from learn2splat.errors import OptionError
from learn2splat.optimizers import make_optimizer

BROKEN = ["undefined", "{}['key']", "1 / 0", "raise RuntimeError('own')", "assert False", "def f(:", "import nothing_of_that_name", "raise Exception"]


@pytest.mark.parametrize("code", BROKEN)
def test_a_file_that_cannot_be_run(tmp_path, code):
    path = tmp_path / "broken_rule.py"
    path.write_text(code)
    with pytest.raises(OptionError, match="cannot import"):
        make_optimizer(f"{path}:Rule")
    assert "learn2splat_external_broken_rule" not in sys.modules


def test_a_file_without_that_name(tmp_path):
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(OptionError, match="Rule"):
        make_optimizer(f"{tmp_path}/empty.py:Rule")


@pytest.mark.parametrize(
    ("spec", "label", "optimizer"),
    [
        ("adam", "adam", "adam"),
        ("learned@dir/w.safetensors", "learned@w", "learned@dir/w.safetensors"),
        ("me@home+x/rule.py:Mine", "Mine", "me@home+x/rule.py:Mine"),
        ("me@home/rule.py:Mine@w.safetensors+mcmc+full", "Mine@w+mcmc+full", "me@home/rule.py:Mine@w.safetensors"),
    ],
)
def test_a_path_may_hold_what_separates(spec, label, optimizer):
    contender = Contender.parse(spec)
    assert (contender.label, contender.optimizer) == (label, optimizer)

"""What a comparison is made by: budgets, keys, marks and contenders."""

from dataclasses import replace

import pytest

from learn2splat.bench.protocol import Budget, Contender, Protocol, file_name, is_mark, marks_up_to, parse_contenders, passed_mark
from learn2splat.errors import OptionError


@pytest.mark.parametrize(
    ("text", "budget", "protocol"),
    [
        ("adam:1000", Budget("adam", 1000), "paper"),
        ("adam-tuned:5", Budget("adam-tuned", 5), "paper"),
        ("my.module:rule:7", Budget("my.module:rule", 7), "paper"),
        ("steps:300", Budget(None, 300), "steps"),
        ("seconds:1.5", Budget(seconds=1.5), "seconds"),
    ],
)
def test_budgets(text, budget, protocol):
    assert Budget.parse(text) == budget
    assert (str(budget), budget.protocol) == (text, protocol)


@pytest.mark.parametrize("text", ["", "adam", "adam:", ":10", "steps:0", "steps:-3", "steps:1.5", "seconds:0", "seconds:nan", "seconds:inf", "10"])
def test_budgets_that_make_no_sense(text):
    with pytest.raises(OptionError, match="a budget is OPTIMIZER:STEPS"):
        Budget.parse(text)


def test_every_rule_is_part_of_the_key():
    base = Protocol()
    others = [
        replace(base, **change)
        for change in (
            {"budget": Budget.parse("adam:1001")}, {"budget": Budget.parse("steps:1000")}, {"long_side": 128}, {"long_side": None},
            {"max_points": None}, {"views_per_step": 4}, {"test_every": 7}, {"context_views": 8}, {"device": "cuda"},
        )
    ]  # fmt: skip
    keys = [protocol.key for protocol in (base, *others)]
    assert len(set(keys)) == len(keys) and Protocol().key == base.key
    assert all(file_name(key) == key for key in keys)
    assert replace(base, context_views=8).key.startswith("adam_1000-sparse8-256px-")


def test_marks():
    assert [step for step in range(101) if is_mark(step)] == [0, 1, 2, 3, 5, 10, 20, 30, 50, 100]
    assert marks_up_to(0.5, start=0.1) == [0.1, 0.2, 0.3, 0.5]
    assert passed_mark(0.0, 0.1) and passed_mark(0.15, 0.3) and passed_mark(4.9, 5.0)
    assert not passed_mark(0.0, 0.09) and not passed_mark(0.2, 0.29) and not passed_mark(5.0, 5.2)


def test_labels():
    specs = ["adam", "learned@runs/a/theta.safetensors", "my.module:rule", "path/to/file.py:make"]
    assert [Contender.parse(spec).label for spec in specs] == ["adam", "learned@theta", "rule", "make"]


def test_the_reference_comes_first():
    labels = [contender.label for contender in parse_contenders(["nominal", "sgd", "adam"], Budget.parse("adam:10"))]
    assert labels == ["adam", "nominal", "sgd"]
    assert [c.label for c in parse_contenders(["nominal", "adam"], Budget.parse("steps:10"))] == ["nominal", "adam"]


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        ([], "no optimizers to compare"),
        (["adam", "adam"], "two optimizers would be called adam"),
        (["nominal"], "adam"),
        (["adam", "adamm"], "unknown optimizer 'adamm'"),
        (["adam", "no.such.module:rule"], "cannot import"),
        (["adam", "sgd@theta.safetensors"], "sgd"),
    ],
)
def test_contenders_that_cannot_be(specs, words):
    with pytest.raises(OptionError, match=words):
        parse_contenders(specs, Budget.parse("adam:10"))


def test_file_names_stay_inside_their_folder():
    assert file_name("../../etc/passwd") == "_.._etc_passwd" and file_name("..") == "_" and file_name("a b/c:d") == "a_b_c_d"

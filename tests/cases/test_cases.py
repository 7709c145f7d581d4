"""What users bring: a few of the inputs in `../shared/cases`, end to end, where that folder is there. `benchmarks/cases.py` runs all of them.

The kinds of fault have their tests in tests/scenes, on inputs made there; this makes sure that the cases as they were reported stay mended.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT.parent / "shared" / "cases"
SOME = ("01", "08", "10", "13", "44b", "46")


@pytest.fixture(scope="module")
def cases():
    spec = importlib.util.spec_from_file_location("cases", ROOT / "benchmarks" / "cases.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["cases"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not in this checkout")
@pytest.mark.parametrize("number", SOME)
def test_a_case_does_what_it_should(cases, number, tmp_path):
    script = next(CASES.glob(f"{number}_*.py"))
    did = cases.run_case(script, cases.SHOULD[number], tmp_path)
    assert cases.meets(cases.SHOULD[number], did), did


def test_every_case_has_its_expectation(cases):
    if CASES.is_dir():
        assert {path.stem.partition("_")[0] for path in CASES.glob("[0-9]*_*.py")} == set(cases.SHOULD)


@pytest.mark.parametrize(
    "code, psnr, notes, good",
    [
        (0, 23.5, "", True),
        (0, 22.0, "", False),
        (0, 23.5, "note: something", False),
        (2, None, "", False),
        ("KeyError", None, "", False),
    ],
)
def test_the_judgement_itself(cases, code, psnr, notes, good):
    assert cases.meets(cases.Should(silent=True), cases.Did(code, psnr, notes, None, 1.0)) == good


def test_errors_and_eval_are_judged_too(cases):
    should = cases.Should(None, says="unpack")
    assert cases.meets(should, cases.Did(2, None, "learn2splat: unpack it first", None, 1.0))
    assert not cases.meets(should, cases.Did(0, 20.0, "unpack", None, 1.0)) and not cases.meets(should, cases.Did(2, None, "no", None, 1.0))
    assert not cases.meets(cases.Should(eval_agrees=True), cases.Did(0, 23.8, "", 10.0, 1.0))

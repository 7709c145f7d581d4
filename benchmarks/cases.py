"""Fits every input of `../shared/cases` (what users bring) and prints, case by case, what should happen and what did.

    python benchmarks/cases.py [--cases ../shared/cases] [--only 01 10 27] [--keep DIR]

Each case is a script that builds its input in a folder; it is then fitted as its README says: `--long-side 128 --max-points 1000 --steps 20`.
Exit code 1 if a case does not do what it should.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from learn2splat.cli import main as learn2splat

HERE = Path(__file__).resolve().parents[1]
USUAL = ("--long-side", "128", "--steps", "20")
FERN, KITCHEN, BUST = 23.8, 19.1, 22.8  # dB of the unmodified scenes
WITHIN = 1.0  # dB
RANDOM = 14.0  # dB; a start at random cannot do more in 20 steps


@dataclass(frozen=True)
class Should:
    """What a case should end with. `psnr`: at least about this; None: an error, exit code 2. `says`: a pattern on stderr. `silent`: no note."""

    psnr: float | None = FERN
    says: str | None = None
    silent: bool = False
    args: tuple[str, ...] = ("--max-points", "1000")
    eval_agrees: bool = False
    init: bool = False  # the case is a file for --init, the scene is fern


@dataclass(frozen=True)
class Did:
    """What it did."""

    code: int | str
    psnr: float | None
    notes: str
    eval_psnr: float | None
    seconds: float


LEFT_OUT = r"left out (photo|\d+ photos)"
FALLBACK = "under another path or spelling"
SHOULD = {
    "01": Should(says=r"2 models \(0 with 3, 1 with 17 photos\)"),
    "02": Should(),
    "04": Should(says=LEFT_OUT),
    "05": Should(),
    "06": Should(),
    "06b": Should(),
    "06c": Should(),
    "07": Should(RANDOM, args=("--max-points", "1000", "--init", "random")),
    "08": Should(says=LEFT_OUT),
    "09": Should(BUST, says="EXIF"),
    "09b": Should(BUST, silent=True),
    "09c": Should(17.0),
    "10": Should(says="local frame", eval_agrees=True),
    "11": Should(says="masks hide", eval_agrees=True),
    "11b": Should(says="masks hide", eval_agrees=True),
    "12b": Should(says="transparent pixels hide", eval_agrees=True),
    "13": Should(says=FALLBACK),
    "13b": Should(says=FALLBACK),
    "13c": Should(silent=True),
    "13e": Should(silent=True),
    "14": Should(silent=True),
    "15": Should(silent=True),
    "15c": Should(silent=True),
    "15d": Should(silent=True),
    "15e": Should(silent=True),
    "16": Should(),
    "17": Should(),
    "18": Should(silent=True),
    "19": Should(says=FALLBACK),
    "20": Should(),
    "21": Should(says=FALLBACK),
    "21c": Should(says=FALLBACK),
    "22": Should(None, says="HEIC.*convert"),
    "23": Should(),
    "23b": Should(None, says="expected 8 bits"),
    "23c": Should(),
    "23d": Should(),
    "23e": Should(),
    "24": Should(),
    "25": Should(16.0),
    "25b": Should(18.0),
    "25c": Should(19.0),
    "26": Should(22.0, silent=True),
    "27a": Should(23.0, args=(), init=True),
    "27b": Should(26.0, args=(), says="opacities", init=True),
    "27c": Should(0.0, args=(), init=True),
    "27e": Should(23.0, args=(), init=True),
    "27f": Should(20.0, args=(), init=True),
    "27g": Should(20.0, args=(), init=True),
    "27h": Should(23.0, init=True),
    "30": Should(says="names no point cloud: took"),
    "32": Should(silent=True),
    "32b": Should(silent=True),
    "34": Should(),
    "35": Should(says="007.jpg.*not the one of the model"),
    "36": Should(None, says="OPENCV_FISHEYE .* is not supported"),
    "36b": Should(silent=True),
    "37": Should(KITCHEN, args=("--max-points", "1000", "--data-factor", "4")),
    "38": Should(),
    "40": Should(silent=True),
    "41": Should(),
    "42": Should(),
    "42b": Should(),
    "43": Should(says=FALLBACK),
    "44": Should(says="normalised the rotation"),
    "44b": Should(None, says="QW QX QY QZ"),
    "44c": Should(KITCHEN, says="normalised the rotation"),
    "44d": Should(KITCHEN),
    "46": Should(None, says="unpack it first"),
    "50": Should(19.0, says="more than ten times as far", args=("--max-points", "1000", "--optimizer", "adam-auto")),
    "51": Should(),
}


def main() -> int:
    """Build, fit, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, default=HERE.parent / "shared" / "cases")
    parser.add_argument("--only", nargs="*", help="numbers of cases, as 01 or 27a")
    parser.add_argument("--keep", type=Path, help="a folder for inputs and results; default: a temporary one")
    args = parser.parse_args()
    scripts = {path.stem.partition("_")[0]: path for path in sorted(args.cases.glob("[0-9]*_*.py"))}
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        print(f"{'case':<32} {'should':<42} did")
        for number in args.only or scripts:
            script, should = scripts[number], SHOULD.get(number, Should())
            did = run_case(script, should, (args.keep or Path(temporary)) / script.stem)
            good = meets(should, did)
            failed += not good
            print(f"{script.stem:<32} {_wanted(should):<42} {'ok  ' if good else 'NOT '} {_done(did)}", flush=True)
    print(f"{len(args.only or scripts) - failed} of {len(args.only or scripts)} as they should")
    return int(failed > 0)


def run_case(script: Path, should: Should, folder: Path) -> Did:
    """Build the input of a case in `folder` and fit it."""
    built = build(script, folder / "input")
    scene = script.parent.parent / "scenes" / "fern" if should.init else built
    init = ("--init", str(built)) if should.init else ()
    out = folder / "out"
    began = time.perf_counter()
    code, text, notes = call("fit", str(scene), *USUAL, *should.args, *init, "--out", str(out), "--overwrite", "--json")
    seconds = time.perf_counter() - began
    eval_psnr = None
    if code == 0 and should.eval_agrees:
        eval_psnr = _psnr(call("eval", str(out), "--json")[1])
    return Did(code, _psnr(text) if code == 0 else None, notes, eval_psnr, seconds)


def build(script: Path, folder: Path) -> Path:
    """The input that a script of the cases makes: what it prints last."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, script.name, str(folder.absolute())]
    done = subprocess.run(command, cwd=script.parent, env=environment, capture_output=True, text=True, check=True)
    return Path(done.stdout.strip().splitlines()[-1])


def call(*args: str) -> tuple[int | str, str, str]:
    """(exit code or the name of an exception, stdout, stderr) of a command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = learn2splat(list(args))
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:
            code = type(error).__name__
    lines = [line for line in err.getvalue().splitlines() if line.startswith(("note", "learn2splat"))]
    return code or 0, out.getvalue(), "\n".join(lines)


def meets(should: Should, did: Did) -> bool:
    """Whether a case did what it should."""
    said = should.says is None or re.search(should.says, did.notes) is not None
    quiet = not (should.silent and did.notes)
    if should.psnr is None:
        return did.code == 2 and said
    agrees = did.eval_psnr is None or did.psnr is None or abs(did.eval_psnr - did.psnr) < 0.05
    return did.code == 0 and did.psnr is not None and did.psnr > should.psnr - WITHIN and said and quiet and agrees


def _psnr(text: str) -> float | None:
    lines = text.strip().splitlines()
    return json.loads(lines[-1])["psnr"] if lines else None


def _wanted(should: Should) -> str:
    number = "an error" if should.psnr is None else f">= {should.psnr - WITHIN:.1f} dB"
    more = f", says {should.says!r}" if should.says else ", no note" if should.silent else ""
    return (number + more + (", eval = fit" if should.eval_agrees else ""))[:42]


def _done(did: Did) -> str:
    number = f"{did.psnr:.2f} dB" if did.psnr is not None else f"code {did.code}"
    again = f", eval {did.eval_psnr:.2f}" if did.eval_psnr is not None else ""
    return f"{number}{again} in {did.seconds:.1f} s  {' | '.join(did.notes.splitlines())[:300]}"


if __name__ == "__main__":
    sys.exit(main())

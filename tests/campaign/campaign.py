"""The campaign: what is done to the product to find out what breaks it. `make campaign` runs all of it, in slices, and writes docs/reliability.md.

    python tests/campaign/campaign.py fuzz --count 100000      go on until there were so many cases in all
    python tests/campaign/campaign.py fuzz --minutes 5         or for so long
    python tests/campaign/campaign.py fuzz --again             the cases that had failed, once more
    python tests/campaign/campaign.py kills --count 300        runs that are killed
    python tests/campaign/campaign.py trouble                  full disks, read-only folders, signals, two processes
    python tests/campaign/campaign.py soak --minutes 30        each of fit, bench and loading for so long
    bash tests/campaign/native.sh address,undefined TESTS      the core under ASan and UBSan (thread: TSan)
    python tests/campaign/report.py                            the tables of docs/reliability.md

Results are kept in runs/campaign/results.json (--results), so a campaign may be stopped at any moment. Every case has a number that makes it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "LEARN2SPLAT_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # workers are forked, and tensors are tiny
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[0] / folder) for folder in ("campaign", ".", "scenes", "bench", "cli", "meta")]

from results import DEFAULT, Results  # noqa: E402

SLICE = 60.0  # s of a format before the next: a stopped campaign has seen all


def fuzz(results: Results, minutes: float, count: int, again: bool) -> None:
    """Shares of all formats in turn."""
    from corpus import FORMATS
    from fuzz import run_cases

    part, until = results.part("fuzz"), time.monotonic() + 60 * minutes
    if again:
        for form in FORMATS:
            about = part.get(form.name, {})
            cases = [case for case, *_ in about.get("found", [])]
            tally = run_cases(form, cases, keep=results.path.parent / "bad")
            about["left"] = tally.failures
            print(f"{form.name}: {len(cases)} cases had failed, now {len(tally.failures)}", *tally.failures, sep="\n  ", flush=True)
        results.save()
        return
    whole = sum(form.share for form in FORMATS)
    rounds = 20  # so that a stopped campaign has seen all formats
    for done in range(1, rounds + 1):
        for form in FORMATS:
            about = part.setdefault(form.name, {"next": 0, "counts": {}, "found": []})
            goal = int(count * form.share / whole * done / rounds) + 1
            if about["next"] >= goal:
                continue
            began = about["next"]
            tally = run_cases(form, range(began, goal), until=until, keep=results.path.parent / "bad")
            about["next"] += sum(tally.counts.values())
            for outcome, number in tally.counts.items():
                about["counts"][outcome] = about["counts"].get(outcome, 0) + number
            about["found"] += tally.failures
            for failure in tally.failures:
                print(form.name, *failure, flush=True)
            results.save()
            if time.monotonic() > until:
                print(f"{sum(a['next'] for a in part.values())} cases so far", flush=True)
                return
    print(f"{sum(a['next'] for a in part.values())} cases", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("fuzz", "kills", "trouble", "soak"))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long (soak: each)")
    parser.add_argument("--count", type=int, help="cases or kills in all")
    parser.add_argument("--again", action="store_true", help="fuzz: the cases that had failed, once more")
    parser.add_argument("--results", type=Path, default=DEFAULT)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    results = Results(options.results)
    if options.part == "fuzz":
        fuzz(results, options.minutes, options.count or 100_000, options.again)
    elif options.part == "kills":
        from kills import campaign

        campaign(results, options.minutes, options.count or 300)
    elif options.part == "trouble":
        from trouble import campaign

        campaign(results)
    else:
        from soak import campaign

        campaign(results, 30.0 if options.minutes == float("inf") else options.minutes)


if __name__ == "__main__":
    main()

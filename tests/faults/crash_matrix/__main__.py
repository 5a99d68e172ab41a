"""`python -m tests.faults.crash_matrix`: every step of a move, under every fault; a table in Markdown.

    --faults WORD ...    only those whose names begin so
    --steps WORD ...     likewise
    --at-once N          stores that move in one round, each standing at another step

On a throw-away cluster of its own. Exits with 1 where anything is wrong.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time

from tests.faults.crash_matrix.faults import FAULTS
from tests.faults.crash_matrix.ground import ground
from tests.faults.crash_matrix.rounds import Outcome, play
from tests.faults.crash_matrix.steps import FORTH, shares


def main() -> int:
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, _interrupt)  # servers end with it
    faults = [fault for fault in FAULTS if fault.name.startswith(tuple(options.faults))]
    steps = [step for step in FORTH if step.title.startswith(tuple(options.steps))]
    outcomes: list[Outcome] = []
    began = time.monotonic()
    with ground() as place:
        for share in shares(steps, options.at_once):
            for number, fault in enumerate(faults):
                began_round = time.monotonic()
                played = play(place, fault, share, odd=number % 2 == 1)
                outcomes += played
                _tell(played, time.monotonic() - began_round)
    print(f"\n{len(outcomes)} in {time.monotonic() - began:.0f} s")
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    return 1 if wrong else 0


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _tell(played: list[Outcome], seconds: float) -> None:
    for each in played:
        told = ", ".join(f"{number} {what}" for what, number in sorted(each.told.items()))
        print(
            f"{each.fault:28} {each.step:24} {each.state:11} {each.attempts} {each.converged_seconds:6.1f} s"
            f" {each.writes_seconds:6.1f} s {each.slowest_seconds:5.1f} s {each.placed:5} {told:20}"
            f" {each.error} {'; '.join(each.wrong)[:600]}",
            flush=True,
        )
    print(f"  {seconds:.0f} s", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.crash_matrix", description=__doc__)
    parser.add_argument("--faults", nargs="+", default=[""])
    parser.add_argument("--steps", nargs="+", default=[""])
    parser.add_argument("--at-once", type=int, default=9)
    return parser


if __name__ == "__main__":
    sys.exit(main())

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

from tests.faults.crash_matrix import report
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
                for line in map(report.line, played):
                    print(line, file=sys.stderr)
                print(f"  {time.monotonic() - began_round:.0f} s", file=sys.stderr)
    print(report.tables(outcomes))
    print(f"\n{len(outcomes)} moves in {time.monotonic() - began:.0f} s")
    return 1 if any(outcome.wrong for outcome in outcomes) else 0


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.crash_matrix", description=__doc__)
    parser.add_argument("--faults", nargs="+", default=[""])
    parser.add_argument("--steps", nargs="+", default=[""])
    parser.add_argument("--at-once", type=int, default=9)
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.faults.consistency`: run the sessions under faults drawn from a seed, or check a kept history again.

    check FILE...          hold kept histories against the rules
    run --seed N           on a throw-away cluster: draw a schedule, carry it out, check
    run --schedule FILE    the same schedule as a kept history's, once more

Exits with 1 where something is found.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.faults.consistency.checker import check
from tests.faults.consistency.history import History
from tests.faults.consistency.nemesis import Schedule
from tests.faults.consistency.run import run, under_test, verdict


def main() -> int:
    options = _parser().parse_args()
    checking = options.command == "check"
    histories = [History.load(file) for file in options.file] if checking else [_run(options)]
    wrong = 0
    for history in histories:
        findings = check(history)
        wrong += len(findings)
        if checking:
            print("\n".join(map(str, findings)) or "nothing is wrong")
        else:
            print(verdict(history, findings))
    return 1 if wrong else 0


def _run(options: argparse.Namespace) -> History:
    with under_test() as (servers, service):
        if options.schedule is not None:
            made = History.load(options.schedule).made
            return run(servers, service, Schedule.of(made["schedule"]), made["seed"])
        shards = [options.shard] if options.shard else servers.cluster.topology.shard_names
        schedule = Schedule.draw(options.seed, shards, acts=options.acts, holds=options.holds)
        return run(servers, service, schedule, options.seed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.consistency", description=__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="hold kept histories against the rules")
    checking.add_argument("file", type=Path, nargs="+")
    running = commands.add_parser("run", help="carry a schedule out on a throw-away cluster, and check")
    what = running.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="draw the schedule from this")
    what.add_argument("--schedule", type=Path, metavar="FILE", help="take a kept history's")
    running.add_argument(
        "--acts", type=int, default=6, help="faults of servers, one after the other (%(default)s)"
    )
    running.add_argument(
        "--holds", type=int, default=400, help="operations that one lasts at most (%(default)s)"
    )
    running.add_argument("--shard", help="the shard that suffers; drawn where left out")
    return parser


if __name__ == "__main__":
    sys.exit(main())

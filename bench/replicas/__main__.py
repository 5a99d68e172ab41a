"""What reading from replicas and failing over promise, as figures of a running `make up`.

    make up                                                  # in another terminal
    .venv/bin/python -m bench.replicas pairs                 # write, then read: 0 stale
    .venv/bin/python -m bench.replicas kills --times 20      # kill -9 of a primary: 0 orders lost
    .venv/bin/python -m bench.replicas freezes --times 20    # SIGSTOP, failover, SIGCONT: nothing acknowledged
    .venv/bin/python -m bench.replicas switchovers           # 0 errors, and the pause
    .venv/bin/python -m bench.replicas lost --times 100      # a lost write is reported and never called replayed
    .venv/bin/python -m bench.replicas spread                # reads by node
    .venv/bin/python -m bench.replicas delay                 # what a token and a guard cost at 10 ms round trip

Tables in Markdown; progress goes to standard error. Exits with 1 where a promise was not kept. It breaks servers:
leave your own data out of the data folder it is used on (VAR).
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

import config
from lab.servers import Servers

# Name, module, what for.
PROGRAMS = (
    ("pairs", "pairs", "write, then read: is it there?"),
    ("kills", "failovers", "kill -9 of a primary, failover, return"),
    ("freezes", "failovers", "SIGSTOP of a primary, failover, SIGCONT"),
    ("switchovers", "failovers", "failover of a primary that is well"),
    ("lost", "lost", "a write that a promotion loses"),
    ("spread", "spread", "which nodes answer reads"),
    ("delay", "delay", "what tokens and guards cost over a slow network"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    # What was started is stopped and what was changed is put back, also when this is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    module = next(module for name, module, _ in PROGRAMS if name == options.program)
    run: Callable[[Servers, argparse.Namespace], bool] = getattr(
        import_module(f"bench.replicas.{module}"), options.program
    )
    kept = run(Servers(config.load().var), options)
    print("kept" if kept else "NOT KEPT")
    return 0 if kept else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.replicas", description=__doc__.splitlines()[0])
    programs = parser.add_subparsers(dest="program", required=True)
    made = {name: programs.add_parser(name, help=about) for name, _, about in PROGRAMS}
    made["pairs"].add_argument("--pairs", type=int, default=100_000, help="in all (%(default)s)")
    made["pairs"].add_argument("--clients", type=int, default=16, help="at one time (%(default)s)")
    made["pairs"].add_argument(
        "--restart-workers", action="store_true", help="end a worker every few seconds"
    )
    made["pairs"].add_argument(
        "--delays", type=float, nargs="+", default=[0, 1, 45], help="of the replicas, s (0 1 45)"
    )
    for name, times in (("kills", 20), ("freezes", 20), ("switchovers", 10), ("lost", 100)):
        made[name].add_argument("--times", type=int, default=times, help="(%(default)s)")
        made[name].add_argument("--shard", help="always this one, else each in turn")
    for name in ("kills", "freezes", "switchovers"):
        made[name].add_argument("--clients", type=int, default=6, help="on each shard (%(default)s)")
        made[name].add_argument("--pause-ms", type=float, default=5.0, help="of a client (%(default)s)")
    made["spread"].add_argument(
        "--reads", type=int, default=10_000, help="of each kind, on each shard (%(default)s)"
    )
    made["spread"].add_argument("--clients", type=int, default=8, help="at one time (%(default)s)")
    made["delay"].add_argument("--count", type=int, default=300, help="requests of each kind (%(default)s)")
    made["delay"].add_argument("--round-trip-ms", type=float, default=10.0, help="(%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())

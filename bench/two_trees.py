"""What this tree's service costs a request beside another tree's: processor time of the worker.

    git worktree add ../before COMMIT
    make up                                            # in another terminal
    .venv/bin/python -m bench.two_trees ../before    # prints a table in Markdown

Two services of one worker before the running servers, asked in turns, a block of requests each, as `bench/load_cost.py`
does; the difference of each pair of blocks is taken. Both are run by this tree's Python.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

import config
from bench.layer_requests import open_store
from bench.load_cost import Side, compare, kinds
from bench.service import service
from bench.table import table
from config import ROOT
from lab.servers import Servers


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.two_trees", description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="the other tree")
    parser.add_argument("--count", type=int, default=100, help="requests in a block (%(default)s)")
    parser.add_argument("--pairs", type=int, default=40, help="blocks of each kind and tree (%(default)s)")
    arguments = parser.parse_args()
    servers = Servers(config.load().var)
    with ExitStack() as opened:
        sides = [
            Side(served.address, served.pid)
            for served in (
                opened.enter_context(service(servers.var, root=str(root), WORKERS="1"))
                for root in (ROOT, arguments.before.resolve())
            )
        ]
        store = open_store(sides[0].wire, servers.operator)
        servers.await_whole(store.shard)
        rows = [compare(kind, store, sides, arguments.count, arguments.pairs) for kind in kinds()]
    print(table(["request", "this tree, CPU ms", "the other", "median difference", "its quartiles"], rows))


if __name__ == "__main__":
    main()

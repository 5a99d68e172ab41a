"""What counting by store, and sharing a pool between stores, cost a request: processor time of the worker.

    make up                                       # in another terminal
    .venv/bin/python -m bench.load_cost           # prints two tables in Markdown

First each step alone, called over and over. Then whole requests: two services of one worker before the running servers,
one as it is and one that does neither; one client asks both in turns, a block of requests each, and the difference of
each pair of blocks is taken. What a worker does while nobody asks, its reports among it, is in both tables as it comes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count, cycle
from pathlib import Path
from statistics import median, quantiles
from uuid import UUID

import psutil

import config
from bench.layer_requests import KINDS, Kind, Store, open_store
from bench.replicas.stores import good
from bench.service import service
from bench.table import table
from flags import Flags
from lab.servers import Servers
from lab.wire import Wire
from operations.load import CAPACITY, REPORT_SECONDS, WorkerLoad
from pools import NodePool, PoolRegistry
from routing.catalog import Catalog
from routing.route import Route
from routing.scope import Scope

ROUNDS, CALLS = 15, 2000
# A list of 20, the commonest request: docs/performance.md.
REQUEST_MICROSECONDS = 740
UNCOUNTED = "bench.uncounted:create_app()"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.load_cost", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100, help="requests in a block (%(default)s)")
    parser.add_argument("--pairs", type=int, default=40, help="blocks of each kind and service (%(default)s)")
    arguments = parser.parse_args()
    servers = Servers(config.load().var)
    print(steps(), end="\n\n")
    print(requests(servers, arguments.count, arguments.pairs))


# Each step alone.


def steps() -> str:
    busy, crowded = _loaded(stores=200), _loaded(stores=CAPACITY)
    known = cycle([_scope(number) for number in range(200)])
    # With a table that is full of as many stores as it holds, every one that is new takes another's place.
    new = (_scope(number) for number in count(10**6))
    reported = _loaded(stores=CAPACITY)
    registry = PoolRegistry(config.load(), "bench")
    registry.apply([])
    pool = registry.catalog()
    rows = [
        ("count a request of a store that is in the table", microseconds(lambda: busy.count(next(known)))),
        ("of one that is not, the table being full", microseconds(lambda: crowded.count(next(new)))),
        (
            f"a report of {CAPACITY} stores, over the requests of {REPORT_SECONDS:.0f} s at 500 a second",
            microseconds(lambda: json.dumps(reported.take()), 20) / (500 * REPORT_SECONDS),
        ),
        (
            "take a connection and return it, for a store",
            microseconds(lambda: _take(pool, 1)) - microseconds(lambda: _take(pool, None)),
        ),
    ]
    registry.close()
    return table(
        ["CPU µs a request", "", "of a list of 20"],
        [(name, f"{cost:.2f}", f"{cost / REQUEST_MICROSECONDS:.2%}") for name, cost in rows],
    )


def _loaded(stores: int) -> WorkerLoad:
    def nowhere() -> object:
        raise AssertionError("nothing is reported here")

    load = WorkerLoad(Catalog(nowhere), lambda _scope, _store: "shard-0")  # type: ignore[arg-type]
    for number in range(stores):
        load.count(_scope(number))
    return load


def _scope(number: int) -> Scope:
    store = UUID(int=number)
    scope = Scope(Flags(), store_id=store, route=Route(store, "shard-0", "ring", 1), statements=1)
    scope.spent("db", 0.001)
    return scope


def _take(pool: NodePool, store: int | None) -> None:
    with pool.connection(store=store):
        pass


def microseconds(work: Callable[[], object], calls: int = CALLS) -> float:
    """Processor time of one call, of the round that took least."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(calls):
            work()
        rounds.append((time.process_time() - began) / calls * 1e6)
    return min(rounds)


# Whole requests.


class Side:
    """One of the two services."""

    def __init__(self, address: str, pid: int) -> None:
        self.wire = Wire(address)
        (worker,) = [child for child in psutil.Process(pid).children() if _is_worker(child)]
        self._tasks = Path(f"/proc/{worker.pid}/task")

    def block(self, kind: Kind, store: Store, count: int) -> float:
        """Milliseconds of the worker's processor a request."""
        asked = kind.requests(store)
        before = self._cpu_ms()
        for _ in range(count):
            good(self.wire, *next(asked))
        return (self._cpu_ms() - before) / count

    def _cpu_ms(self) -> float:
        return sum(int((task / "schedstat").read_text().split()[0]) for task in self._tasks.iterdir()) / 1e6


def _is_worker(process: psutil.Process) -> bool:
    return "gunicorn" in " ".join(process.cmdline())


def requests(servers: Servers, count: int, pairs: int) -> str:
    with ExitStack() as opened:
        sides = [
            Side(served.address, served.pid)
            for served in (
                opened.enter_context(service(servers.var, WORKERS="1")),
                opened.enter_context(
                    service(servers.var, application=UNCOUNTED, WORKERS="1", STORE_POOL_SHARE="0")
                ),
            )
        ]
        store = open_store(sides[0].wire, servers.operator)
        servers.await_whole(store.shard)
        rows = [compare(kind, store, sides, count, pairs) for kind in kinds()]
    return table(["request", "with, CPU ms", "without", "median difference", "its quartiles"], rows)


def kinds() -> Iterator[Kind]:
    """Without a cache, there is one kind of list."""
    return (kind for kind in KINDS if kind.x_cache != "miss")


def compare(kind: Kind, store: Store, sides: list[Side], count: int, pairs: int) -> tuple[str, ...]:
    for side in sides:
        side.block(kind, store, count)
    blocks: list[tuple[float, float]] = []
    for number in range(pairs):
        order = sides if number % 2 else sides[::-1]
        taken = {id(side): side.block(kind, store, count) for side in order}
        blocks.append((taken[id(sides[0])], taken[id(sides[1])]))
        print(f"{kind.name} {number + 1}/{pairs}", end="\r", file=sys.stderr)
    lower, middle, upper = quantiles((100 * (on - off) / off for on, off in blocks), n=4)
    on, off = (median(column) for column in zip(*blocks, strict=True))
    return kind.name, f"{on:.3f}", f"{off:.3f}", f"{middle:+.1f} %", f"{lower:+.1f} … {upper:+.1f} %"


if __name__ == "__main__":
    main()

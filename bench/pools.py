"""Measure what a pool costs a request: beside psycopg's own pool and its own way of waiting.

    VAR=var .venv/bin/python -m bench.pools

Prints a table of docs/pools.md, from the catalog of a running cluster: processor microseconds of this process, the
least of several rounds, as a gevent worker would spend them.
"""

# ruff: noqa: E402 - before psycopg is imported, which chooses then how it waits
from gevent import monkey

monkey.patch_all()

from collections.abc import Callable
from contextlib import AbstractContextManager
from time import process_time
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool

from config import load
from pools import PoolRegistry, ShardConnection
from pools.flight import flight

ROUNDS = 15
USES = 400

Connection = psycopg.Connection[tuple[Any, ...]]


def microseconds(work: Callable[[], object], uses: int = USES) -> float:
    """Processor time of one call."""
    for _ in range(100):
        work()
    rounds = []
    for _ in range(ROUNDS):
        began = process_time()
        for _ in range(uses):
            work()
        rounds.append((process_time() - began) / uses * 1e6)
    return min(rounds)


def take(pool: Any) -> None:
    with pool.connection():
        pass


def read(connection: Connection) -> None:
    connection.execute("SELECT %s::int", (1,), prepare=True).fetchone()


def write(connection: Connection, together: Callable[[Any], AbstractContextManager[object]]) -> None:
    """The shape of a write: begin, fence, statement, commit, position."""
    with together(connection):
        connection.execute("BEGIN", prepare=True)
        connection.execute("SELECT %s::int", (1,), prepare=True)
        connection.execute("SELECT %s::int", (2,), prepare=True)
        connection.execute("COMMIT", prepare=True)
        position = connection.execute("SELECT %s::int", (3,), prepare=True)
    position.fetchone()


def main() -> None:
    settings = load()
    registry = PoolRegistry(settings, "bench")
    ours = registry.catalog()
    theirs = ConnectionPool(settings.catalog_dsn, kwargs={"autocommit": True}, min_size=2, open=True)
    theirs.wait()
    plain: Connection = psycopg.connect(settings.catalog_dsn, autocommit=True)
    shard: ShardConnection = ours.getconn()
    rows = [
        ("take a connection and return it", lambda: take(theirs), lambda: take(ours)),
        ("a prepared statement", lambda: read(plain), lambda: read(shard)),
        (
            "a write's five statements",
            lambda: write(plain, psycopg.Connection.pipeline),
            lambda: write(shard, flight),
        ),
    ]
    print("| CPU µs | psycopg, psycopg_pool | pools/ |\n| --- | ---: | ---: |")
    for name, with_theirs, with_ours in rows:
        print(f"| {name} | {microseconds(with_theirs):.1f} | {microseconds(with_ours):.1f} |")
    ours.putconn(shard)
    plain.close()
    theirs.close()
    registry.close()


if __name__ == "__main__":
    main()

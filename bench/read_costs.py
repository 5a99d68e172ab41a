"""What a read pays for its position and for a guard: processor time of the server's process and of this one.

    VAR=var .venv/bin/python -m bench.read_costs

On one replica of a running cluster, with the service's own connections: a page of twenty products bare, with its
position as a column, with the position as a second statement in the same packet, and behind a guard that finds the
replica far enough already. The least of several rounds, in microseconds, and its share of what a request takes
(docs/performance.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from time import process_time

import psutil

import config
import sql
from commands.cluster import open_cluster
from pools import PoolRegistry, ShardConnection
from pools.flight import flight

ROUNDS, READS = 7, 1500
# A list of twenty took 0.74 ms of the service and 0.18 ms of PostgreSQL.
REQUEST_MICROSECONDS = 920

LIST = sql.query("list_products").text
BARE = re.sub(r", node_position\(\)", "", LIST)
AWAIT = sql.query("await_replay").text
POSITION = "SELECT node_position()"


def main() -> None:
    settings = config.load()
    snapshot = open_cluster().snapshot()
    registry = PoolRegistry(settings, "bench")
    node = next(node for node in snapshot.map.nodes if node.name.endswith("-b"))
    connection = registry.connect(node)
    row = connection.execute(
        "SELECT store_id FROM products GROUP BY store_id ORDER BY count(*) DESC LIMIT 1"
    ).fetchone()
    assert row is not None, "no products: make up with its demo data"
    page = {"store_id": row[0], "before": "ffffffff-ffff-7fff-bfff-ffffffffffff", "limit": 20}
    ways: dict[str, Callable[[], object]] = {
        "bare": lambda: connection.execute(BARE, page, prepare=True).fetchall(),
        "with its position as a column": lambda: connection.execute(LIST, page, prepare=True).fetchall(),
        "with it as a second statement of the packet": lambda: together(
            connection, (BARE, page), (POSITION, {})
        ),
        "behind a guard, with its position": lambda: together(
            connection, (AWAIT, {"wanted": 1, "patience_ms": 10}), (LIST, page)
        ),
    }
    least = {name: measure(connection, way) for name, way in ways.items()}
    bare = sum(least["bare"])
    print(
        f"on {node.name}, µs\n\n| read | server | client | more | of a request |\n| --- | ---: | ---: | ---: | ---: |"
    )
    for name, (server, client) in least.items():
        more = server + client - bare
        print(f"| {name} | {server:.0f} | {client:.0f} | {more:.0f} | {more / REQUEST_MICROSECONDS:.1%} |")


def together(connection: ShardConnection, *statements: tuple[str, dict[str, object]]) -> object:
    cursors = [connection.cursor() for _ in statements]
    with flight(connection):
        for cursor, (text, values) in zip(cursors, statements, strict=True):
            cursor.execute(text, values, prepare=True)
    return [cursor.fetchall() for cursor in cursors]


def measure(connection: ShardConnection, way: Callable[[], object]) -> tuple[float, float]:
    """Microseconds of the server's process and of this one, each of the round in which both took least."""
    backend = psutil.Process(connection.info.backend_pid)
    rounds = []
    for _ in range(ROUNDS):
        server, client = sum(backend.cpu_times()[:2]), process_time()
        for _ in range(READS):
            way()
        spent = sum(backend.cpu_times()[:2]) - server, process_time() - client
        rounds.append(tuple(seconds / READS * 1e6 for seconds in spent))
    server, client = min(rounds, key=sum)
    return server, client


if __name__ == "__main__":
    main()

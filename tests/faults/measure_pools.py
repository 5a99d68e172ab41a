"""Measure how soon a pool of ten serves again after its server was away; prints a table of docs/pools.md.

    .venv/bin/python -m tests.faults.measure_pools

"Back" is when a new connection, tried every millisecond, first gets an answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from statistics import median

import psycopg

from errors import Unavailable
from pools import NodePool, PoolRegistry
from tests.shard_servers import Servers, running_servers, until

TIMES = 7


def first_answer(ask: Callable[[], object], pause_seconds: float = 0.001) -> float:
    """When it first answers, on the monotonic clock."""
    while True:
        try:
            ask()
        except (Unavailable, psycopg.Error):
            time.sleep(pause_seconds)
        else:
            return time.monotonic()


def after(servers: Servers, pool: NodePool, leave: Callable[[], None], return_: Callable[[], None]) -> float:
    """Seconds from the server being back to the pool's first answer."""
    until(lambda: pool.gauge().available == 10)
    settings = servers.settings()
    node = servers.node("shard-0-a")
    target = f"host={node.host} port={node.port} dbname=marketplace user={settings.database_user} connect_timeout=60"

    def straight() -> None:
        with psycopg.connect(target, password=settings.database_password) as connection:
            connection.execute("SELECT 1")

    def through_the_pool() -> None:
        with pool.connection() as connection:
            connection.execute("SELECT 1")

    leave()
    until(lambda: not answers(through_the_pool))
    found: dict[str, float] = {}
    clocks = [
        threading.Thread(target=lambda: found.update(back=first_answer(straight))),
        threading.Thread(target=lambda: found.update(served=first_answer(through_the_pool))),
    ]
    for clock in clocks:
        clock.start()
    return_()
    for clock in clocks:
        clock.join()
    return found["served"] - found["back"]


def answers(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except (Unavailable, psycopg.Error):
        return False
    return True


def main() -> None:
    with running_servers() as servers:
        registry = PoolRegistry(servers.settings(statement_timeout_seconds=1.0), "measured")
        registry.apply(servers.nodes)
        pool, name = registry.primary("shard-0"), "shard-0-a"
        restarts = [
            after(servers, pool, lambda: servers.stop(name), lambda: servers.start(name))
            for _ in range(TIMES)
        ]
        thaws = [
            after(servers, pool, lambda: servers.freeze(name), lambda: servers.thaw(name))
            for _ in range(TIMES)
        ]
        registry.close()
    print("| ms from the server being back to the first answer | median | worst |\n| --- | ---: | ---: |")
    for title, seconds in (("restarted", restarts), ("frozen and thawed", thaws)):
        print(f"| {title}, {TIMES} times | {median(seconds) * 1e3:.0f} | {max(seconds) * 1e3:.0f} |")


if __name__ == "__main__":
    main()

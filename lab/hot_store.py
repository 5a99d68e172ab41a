"""One store that asks for more than its shard has to give: how long the others wait for a connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from typing import Any

from psycopg_pool import ConnectionPool, PoolTimeout

import config
from errors import PoolExhausted
from lab.arrivals import Arrivals, Ask, percentile, steadily
from lab.experiment import Experiment, Figures, Variant
from lab.ground import Ground
from lab.picture import bars
from lab.servers import wait_for
from pools import PoolRegistry

# Each asks again as soon as it has its answer. A statement of theirs holds a connection and no processor, so that the
# figures are of the line alone.
WHALE, WHALES_CLIENTS, WHALES_SECONDS = 1, 60, 0.02
OTHERS = range(2, 12)
PER_SECOND, SECONDS = 50, 2.0
CLIENTS = 40

# A connection for a request of this store, as long as the block lasts.
Lend = Callable[[int], AbstractContextManager[Any]]


def _in_line(ground: Ground) -> Figures:
    """psycopg's own pool: who came first is first."""
    settings, shard = config.load(), ground.servers.shards[0]
    conninfo = ground.servers.conninfo(ground.primary(shard))
    with ConnectionPool(
        conninfo,
        kwargs={"autocommit": True},
        min_size=settings.pool_size,
        timeout=settings.pool_timeout_seconds,
        max_waiting=settings.pool_max_waiting,
    ) as pool:
        pool.wait()
        return _beside_a_whale(lambda _store: pool.connection(), settings.pool_size)


def _in_turns(ground: Ground) -> Figures:
    settings, shard = config.load(), ground.servers.shards[0]
    registry = PoolRegistry(settings, "lab")
    ground.undo.callback(registry.close)
    registry.apply(ground.servers.nodes_of(shard))
    pool = registry.primary(shard)
    wait_for(lambda: pool.gauge().available == settings.pool_size, "the pool is full")
    return _beside_a_whale(lambda store: pool.connection(store=store), settings.pool_size)


def _beside_a_whale(lend: Lend, connections: int) -> Figures:
    stores = count()

    def new_client() -> Ask:
        def ask() -> bool:
            try:
                with lend(OTHERS[next(stores) % len(OTHERS)]) as connection:
                    connection.execute("SELECT 1")
            except (PoolTimeout, PoolExhausted):
                return False
            return True

        return ask

    with _whale(lend) as served:
        began = time.monotonic()
        load = Arrivals(new_client, CLIENTS, steadily(PER_SECOND, SECONDS))
        with load.running():
            pass
        whales = len(served) / (time.monotonic() - began)
    return {
        "p99_ms": percentile(load.ended, 99),
        "p50_ms": percentile(load.ended, 50),
        "refused": sum(not each.good for each in load.ended),
        "whale_served_per_second": whales,
        "connections": connections,
    }


@contextmanager
def _whale(lend: Lend) -> Iterator[list[None]]:
    """Gives a list that grows by one with each request of the whale's that was served."""
    over, served = threading.Event(), list[None]()

    def ask() -> None:
        while not over.is_set():
            try:
                with lend(WHALE) as connection:
                    connection.execute("SELECT pg_sleep(%s)", [WHALES_SECONDS])
            except (PoolTimeout, PoolExhausted):
                continue
            served.append(None)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(WHALES_CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(served) >= WHALES_CLIENTS, "the whale is at work")
        served.clear()
        yield served
    finally:
        over.set()
        for thread in threads:
            thread.join()


EXPERIMENT = Experiment(
    name="hot-store",
    shows="one store that asks for everything leaves the others their turns",
    story=(
        "A shard's pool is shared by the stores that live there. One of them has a sale: sixty of its requests want a"
        " connection at any moment. Where who came first is first, each request of another store waits behind all of"
        " them, though it would take no time itself. Here stores take turns, so that it waits for one statement and not"
        " for sixty; and while others use the pool the whale never has the last connection, so that mostly it does not"
        " wait at all. That one connection is what the whale gives for it."
    ),
    figure="p99_ms",
    naive=(Variant("first come, first served", _in_line),),
    cure=Variant("in turns", _in_turns),
    held=lambda without, cured: cured < without / 2,
    picture=bars("p99_ms", "ms until others had their answer, p99"),
)

"""One burst of orders and pools of several sizes: how long an order takes, its wait for a connection included."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache, partial
from statistics import fmean, median
from typing import Any

from psycopg.sql import SQL, Identifier
from psycopg_pool import ConnectionPool

import config
from lab.arrivals import Arrival, Arrivals, Ask, percentile
from lab.experiment import Experiment, Figures, Variant
from lab.ground import Ground
from lab.picture import bars
from lab.servers import wait_for
from pools import PoolRegistry

# As many as come at once: everybody has a connection. The shard's primary takes 100.
MANY = 64
# Of a server whose statements need the processor, and wait for the disk or a replica in between.
CONNECTIONS_PER_CORE = 2
BURSTS = 8
_PAGES = 40_000

_TABLES = SQL("""
CREATE TABLE IF NOT EXISTS lab.sold (pages bigint);
TRUNCATE lab.sold;
GRANT USAGE ON SCHEMA lab TO {role};
GRANT INSERT ON lab.sold TO {role}
""")
# A few milliseconds of a processor, then a commit that waits for the log, here and on a replica.
_ORDER = "INSERT INTO lab.sold SELECT count(*) FROM generate_series(1, %s) AS page WHERE sqrt(page) > 1"

Lend = Callable[[], AbstractContextManager[Any]]


def _of(pool: str) -> Callable[[Ground], Figures]:
    return lambda ground: _compared(ground)[pool]


@cache
def _compared(ground: Ground) -> dict[str, Figures]:
    """Of all pools. Bursts go to them in turns: whatever else the machine does meanwhile falls on all alike."""
    shard = _shelf(ground)
    fitting = CONNECTIONS_PER_CORE * (os.cpu_count() or 1)
    lends = {
        "many": (MANY, _of_psycopg(ground, shard, MANY)),
        "one": (1, _of_psycopg(ground, shard, 1)),
        "fitting": (fitting, _as_served(ground, shard, fitting)),
    }
    bursts: dict[str, list[list[Arrival]]] = {name: [] for name in lends}
    for number in range(-1, BURSTS):
        for name, (_, lend) in lends.items():
            load = Arrivals(partial(_new_client, lend), MANY, [0.0] * MANY)
            with load.running():
                pass
            if number >= 0:  # before, statements are prepared
                bursts[name].append(load.ended)
    return {name: _figures(size, bursts[name]) for name, (size, _) in lends.items()}


def _of_psycopg(ground: Ground, shard: str, size: int) -> Lend:
    """psycopg's own pool."""
    settings = config.load()
    conninfo = ground.servers.conninfo(
        ground.primary(shard), user=settings.database_user, password=settings.database_password
    )
    pool = ConnectionPool(conninfo, kwargs={"autocommit": True}, min_size=size, open=False)
    ground.undo.callback(pool.close)
    pool.open(wait=True)
    return pool.connection


def _as_served(ground: Ground, shard: str, size: int) -> Lend:
    """The service's own pool."""
    registry = PoolRegistry(replace(config.load(), pool_size=size, pool_timeout_seconds=30.0), "lab")
    ground.undo.callback(registry.close)
    registry.apply(ground.servers.nodes_of(shard))
    pool = registry.primary(shard)
    wait_for(lambda: pool.gauge().available == size, "the pool is full")
    return pool.connection


def _shelf(ground: Ground) -> str:
    """A table on the first shard; the shard."""
    shard = ground.servers.shards[0]
    role = Identifier(config.load().database_user)
    ground.sandbox(shard).execute(_TABLES.format(role=role))
    return shard


def _new_client(lend: Lend) -> Ask:
    def ask() -> bool:
        with lend() as connection:
            connection.execute(_ORDER, [_PAGES])
        return True

    return ask


def _figures(size: int, bursts: Sequence[Sequence[Arrival]]) -> Figures:
    together = [each for burst in bursts for each in burst]
    return {
        "mean_ms": median(fmean(each.milliseconds for each in burst) for burst in bursts),
        "p50_ms": percentile(together, 50),
        "p99_ms": percentile(together, 99),
        "connections": size,
        "orders_at_once": MANY,
    }


EXPERIMENT = Experiment(
    name="pool-size",
    shows="a pool of what the server can do at once is faster than one for everybody",
    story=(
        f"A sale begins: {MANY} orders come at once, again and again. Each takes a few milliseconds of the database's"
        " processors, then waits for its commit. With a connection for each of them all run at once and share the"
        " processors, so that hardly one ends long before the last. With a single one all processors but one stand"
        " idle, and that one too at every commit. With two for each processor these are always at work on something"
        " that will soon be done; the rest waits in the pool's line, where it costs nothing, and on average half as"
        " long as the whole takes."
    ),
    figure="mean_ms",
    naive=(
        Variant(f"{MANY} connections", _of("many")),
        Variant("1 connection", _of("one")),
    ),
    cure=Variant("2 for each processor", _of("fitting")),
    held=lambda without, cured: cured < 0.9 * without,
    picture=bars("mean_ms", "ms an order, on average"),
)

"""One burst of orders and pools of several sizes: how long an order takes, its wait for a connection included."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from statistics import fmean
from typing import Any

from psycopg.sql import SQL, Identifier
from psycopg_pool import ConnectionPool

import config
from lab.arrivals import Arrivals, Ask, percentile
from lab.experiment import Experiment, Figures, Variant
from lab.ground import Ground
from lab.picture import bars
from lab.servers import wait_for
from pools import PoolRegistry

# As many as come at once: everybody has a connection. The shard's primary takes 100.
MANY = 64
# Of a server whose statements need the processor, and wait for the disk or a replica in between.
CONNECTIONS_PER_CORE = 2
BURSTS, APART_SECONDS = 6, 0.8
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


def _many(ground: Ground) -> Figures:
    return _of_psycopg(ground, MANY)


def _one(ground: Ground) -> Figures:
    return _of_psycopg(ground, 1)


def _of_psycopg(ground: Ground, size: int) -> Figures:
    """psycopg's own pool."""
    settings, shard = config.load(), _shelf(ground)
    conninfo = ground.servers.conninfo(
        ground.primary(shard), user=settings.database_user, password=settings.database_password
    )
    with ConnectionPool(conninfo, kwargs={"autocommit": True}, min_size=size) as pool:
        pool.wait()
        return _under_bursts(pool.connection, size)


def _as_served(ground: Ground) -> Figures:
    """The service's own pool."""
    size = CONNECTIONS_PER_CORE * (os.cpu_count() or 1)
    settings, shard = replace(config.load(), pool_size=size, pool_timeout_seconds=30.0), _shelf(ground)
    registry = PoolRegistry(settings, "lab")
    ground.undo.callback(registry.close)
    registry.apply(ground.servers.nodes_of(shard))
    pool = registry.primary(shard)
    wait_for(lambda: pool.gauge().available == size, "the pool is full")
    return _under_bursts(pool.connection, size)


def _shelf(ground: Ground) -> str:
    """A table on the first shard; the shard."""
    shard = ground.servers.shards[0]
    role = Identifier(config.load().database_user)
    ground.sandbox(shard).execute(_TABLES.format(role=role))
    return shard


def _under_bursts(lend: Lend, size: int) -> Figures:
    def new_client() -> Ask:
        def ask() -> bool:
            with lend() as connection:
                connection.execute(_ORDER, [_PAGES])
            return True

        return ask

    # As many at once as the largest pool has connections.
    dues = [burst * APART_SECONDS for burst in range(BURSTS) for _ in range(MANY)]
    load = Arrivals(new_client, MANY, dues)
    with load.running():
        pass
    rest = [each for each in load.ended if each.due > min(each.due for each in load.ended)]
    return {
        "mean_ms": fmean(each.milliseconds for each in rest),
        "p50_ms": percentile(rest, 50),
        "p99_ms": percentile(rest, 99),
        "connections": size,
    }


EXPERIMENT = Experiment(
    name="pool-size",
    shows="a pool of what the server can do at once is faster than one for everybody",
    story=(
        f"A sale begins: {MANY} orders come at once, again and again. Each takes a few milliseconds of the database's"
        " processors, then waits for its commit. With a connection for each of them all run at once, share the"
        " processors, and so all end together, at the end. With a single one the processors stand idle at every commit,"
        " and all but one. With twice as many as there are processors these are always at work on something that will"
        " soon be done: the rest waits in the pool's line, where it costs nothing, and half of the orders are answered"
        " before half of the time is over."
    ),
    figure="mean_ms",
    naive=(
        Variant(f"{MANY} connections", _many),
        Variant("1 connection", _one),
    ),
    cure=Variant("2 for each processor", _as_served),
    held=lambda without, cured: cured < 0.8 * without,
    picture=bars("mean_ms", "ms an order, on average"),
)

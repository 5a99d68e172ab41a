"""Greenlets that are timed out and killed at random while they use a pool; run by test_pools_greenlets.py.

Reads `{"settings": {...}, "nodes": [[name, shard, host, port]], "interruptions": n, "seed": n}` from standard input;
writes `{"interrupted": {where: times}, "size", "available", "waiting", "served", "backends"}` to
standard output.
"""

# ruff: noqa: E402 - before psycopg is imported, which chooses then how it waits
from gevent import monkey

monkey.patch_all()

import json
import random
import sys
from collections import Counter

import gevent

from config import load
from errors import PoolExhausted
from pools import Node, NodePool, PoolRegistry

GREENLETS = 15
SIZE = 5
LONGEST_SECONDS = 0.015


def use(pool: NodePool, chance: random.Random, where: dict[str, str]) -> None:
    """One use of the pool, of one of four kinds; `where` says how far it has come."""
    where["now"] = "in line"
    # Of three stores one has most of the requests, so that it is often at its limit.
    with pool.connection(store=chance.choice((1, 1, 1, 1, 2, 3))) as connection:
        kind = chance.randrange(8)
        where["now"] = "in a statement"
        if kind == 0:
            connection.execute("SELECT pg_sleep(0.002)")
        elif kind == 1:
            where["now"] = "in a transaction"
            connection.execute("BEGIN")
            connection.execute("SELECT pg_sleep(0.001)")
        elif kind in (2, 3):
            where["now"] = "in a pipeline"
            with connection.pipeline():
                connection.execute("SELECT 1", prepare=True)
                connection.execute("SELECT pg_sleep(0.001)", prepare=True)
        else:
            gevent.sleep(chance.uniform(0, 0.002))
        where["now"] = "on the way back"


def shopper(pool: NodePool, chance: random.Random, left: list[int], interrupted: Counter[str]) -> None:
    while left[0] > 0:
        where = {"now": ""}
        if chance.random() < 0.5:
            try:
                with gevent.Timeout(chance.uniform(0, LONGEST_SECONDS)):
                    use(pool, chance, where)
                continue
            except gevent.Timeout:
                pass
            except PoolExhausted:
                continue
        else:
            victim = gevent.spawn(use, pool, chance, where)
            victim.join(timeout=chance.uniform(0, LONGEST_SECONDS))
            if victim.ready():
                continue
            victim.kill()
        interrupted[where["now"]] += 1
        left[0] -= 1


def backends(pool: NodePool) -> int:
    """How many connections of this pool the server has."""
    with pool.connection() as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = current_setting('application_name')"
        ).fetchone()
    return row[0] if row else 0


def main() -> None:
    told = json.load(sys.stdin)
    registry = PoolRegistry(load(told["settings"]), "greenlets")
    registry.apply([Node(*node) for node in told["nodes"]])
    pool = registry.primary("shard-0")
    left, interrupted = [told["interruptions"]], Counter[str]()
    seeds = random.Random(told["seed"])
    shoppers = [
        gevent.spawn(shopper, pool, random.Random(seeds.random()), left, interrupted)
        for _ in range(GREENLETS)
    ]
    gevent.joinall(shoppers, raise_error=True)
    with gevent.Timeout(20):
        while pool.gauge().available < SIZE:
            gevent.sleep(0.01)
        while backends(pool) > SIZE:  # the server ends what was abandoned when it next looks
            gevent.sleep(0.01)
    taken = [pool.getconn() for _ in range(SIZE)]
    served = sum(connection.execute("SELECT 1").fetchone() == (1,) for connection in taken)
    for connection in taken:
        pool.putconn(connection)
    gauge = pool.gauge()
    report = {"size": gauge.size, "available": gauge.available, "waiting": gauge.waiting, "served": served}
    print(json.dumps({"interrupted": interrupted, "backends": backends(pool), **report}))
    registry.close()


main()

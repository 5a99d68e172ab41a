"""What a stage finds: the stores where its flags want them, the same rows, an empty Redis."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import redis

from bench.replicas.stores import good
from bench.run.ground import Ground
from bench.run.integrity import Holdings
from lab.servers import wait_for
from lab.wire import Wire

_MOVES_SECONDS, _LOOK_SECONDS = 300.0, 0.3

# `flask seed` dates all it makes in 2025.
_ORDERS_MADE = (
    """
    DELETE FROM order_items AS i USING orders AS o
    WHERE o.store_id = i.store_id AND o.id = i.order_id AND o.created_at >= '2026-01-01'
    """,
    "DELETE FROM orders WHERE created_at >= '2026-01-01'",
    "DELETE FROM idempotency_keys",
)
_STOCK_BACK = """
UPDATE products AS p SET stock = b.stock
FROM unnest(%s::uuid[], %s::uuid[], %s::bigint[]) AS b(store_id, id, stock)
WHERE p.store_id = b.store_id AND p.id = b.id AND p.stock <> b.stock
"""
_STOCK = "SELECT store_id::text, id::text, stock FROM products"
_SOLD = """
SELECT i.store_id::text, i.product_id::text, sum(i.quantity)::bigint FROM order_items AS i
JOIN orders AS o ON o.store_id = i.store_id AND o.id = i.order_id
WHERE o.created_at >= '2026-01-01' AND o.status <> 'cancelled' GROUP BY 1, 2
"""
_ORDERS = "SELECT id::text FROM orders WHERE created_at >= '2026-01-01'"
_LIVING = """
SELECT DISTINCT store_id::text FROM products UNION SELECT DISTINCT store_id::text FROM orders
UNION SELECT store_id::text FROM stores UNION SELECT DISTINCT store_id::text FROM idempotency_keys
"""
_AT_WORK = """
SELECT count(*) FROM pg_stat_activity
WHERE usename = 'app' AND datname = current_database() AND state <> 'idle' AND pid <> pg_backend_pid()
"""


def spread(store_ids: Sequence[str], shares: Sequence[float], shards: Sequence[str]) -> dict[str, str]:
    """A shard for each store, so that each shard gets about the same load: the largest first, to where least is."""
    load = dict.fromkeys(shards, 0.0)
    homes = {}
    for store_id, share in sorted(zip(store_ids, shares, strict=True), key=lambda each: -each[1]):
        homes[store_id] = min(shards, key=lambda shard: load[shard])
        load[homes[store_id]] += share
    return homes


def zipf(count: int) -> list[float]:
    """As k6/draw.js has it: of `count` stores the k-th gets a part of 1/k."""
    weights = [1 / k for k in range(1, count + 1)]
    return [weight / sum(weights) for weight in weights]


def place(ground: Ground, *, sharding: bool) -> None:
    """Every store on the first shard, or all spread over the shards, always in the same way.."""
    shards = ground.servers.shards
    ids = ground.store_ids
    homes = spread(ids, zipf(len(ids)), shards) if sharding else dict.fromkeys(ids, shards[0])
    with Wire(ground.servers.address) as wire:
        operator = ground.servers.operator
        begun = []
        for store_id, shard in homes.items():
            route = good(wire, "GET", f"/v1/admin/stores/{store_id}/route", operator)
            if route["shard"] != shard:
                body = {"store_id": store_id, "to_shard": shard}
                begun.append(good(wire, "POST", "/v1/admin/moves", operator, body)["id"])
        deadline = time.monotonic() + _MOVES_SECONDS
        for move_id in begun:
            while (move := good(wire, "GET", f"/v1/admin/moves/{move_id}", operator))["finished_at"] is None:
                if time.monotonic() > deadline:
                    raise SystemExit(f"a move does not end: {move}")
                time.sleep(_LOOK_SECONDS)
            if move["state"] != "done":
                raise SystemExit(f"a move has failed: {move}")
    while begun and _is_tidying(ground):
        if time.monotonic() > deadline:
            raise SystemExit("what the stores have left behind does not go")
        time.sleep(_LOOK_SECONDS)


def switch(ground: Ground, flags: Mapping[str, bool]) -> None:
    for name, enabled in flags.items():
        ground.servers.switch(name, enabled=enabled)


def holdings(ground: Ground) -> Holdings:
    """What all primaries hold, once nothing is under way."""
    wait_for(lambda: not any(_ask(ground, shard, _AT_WORK)[0][0] for shard in ground.servers.shards), "rest")
    found = Holdings({}, {}, set(), {})
    for shard in ground.servers.shards:
        for store_id, product_id, stock in _ask(ground, shard, _STOCK):
            found.stock[store_id, product_id] = found.stock.get((store_id, product_id), 0) + stock
        for store_id, product_id, units in _ask(ground, shard, _SOLD):
            found.sold[store_id, product_id] = found.sold.get((store_id, product_id), 0) + units
        found.orders.update(order_id for (order_id,) in _ask(ground, shard, _ORDERS))
        for (store_id,) in _ask(ground, shard, _LIVING):
            found.homes.setdefault(store_id, set()).add(shard)
    return found


def reset(ground: Ground, seeded: Holdings) -> None:
    """The rows as they were seeded, but for prices; Redis as it was started. No request may be under way."""
    ids = list(seeded.stock)
    back = ([store for store, _ in ids], [product for _, product in ids], list(seeded.stock.values()))
    for shard in ground.servers.shards:
        with ground.servers.connect(ground.servers.primary(shard)) as connection:
            with connection.transaction():
                for statement in _ORDERS_MADE:
                    connection.execute(statement)
                connection.execute(_STOCK_BACK, back)
            connection.execute("VACUUM (ANALYZE) products, orders, order_items, idempotency_keys")
        ground.servers.await_whole(shard)
    # What is remembered there of who has written what is before what every replica has by now.
    with redis.Redis.from_url(ground.redis_url()) as client:
        client.flushall()


def _is_tidying(ground: Ground) -> bool:
    """Whether rows of a store are still on a shard that it has left."""
    homes: dict[str, int] = {}
    for shard in ground.servers.shards:
        for (store_id,) in _ask(ground, shard, _LIVING):
            homes[store_id] = homes.get(store_id, 0) + 1
    return any(count > 1 for count in homes.values())


def _ask(ground: Ground, shard: str, text: str) -> list[tuple[Any, ...]]:
    return ground.servers.sql(ground.servers.primary(shard), text)

"""Copies that are changed before they are compared, and copies that are not: see move_proofs.py."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from bench.moved import MovedStore
from bench.moves.load import ORDERS_ONLY, Load
from bench.replicas.stores import Audit, audit
from lab.servers import Servers
from lab.wire import Wire

_ROWS = 200
_FILL = """
INSERT INTO customers SELECT %(store)s, gen_random_uuid(), n || '@example.com', 'Ada ' || n, 'x' || n, now()
FROM generate_series(1, %(rows)s) AS n;
INSERT INTO products (store_id, id, title, description, price, stock, attributes, created_at, updated_at)
SELECT %(store)s, gen_random_uuid(), 'Mug ' || n, 'blue ' || n, n, 0, jsonb_build_object('n', n), now(), now()
FROM generate_series(1, %(rows)s) AS n;
INSERT INTO orders (store_id, id, customer_id, status, currency, total, created_at, updated_at)
SELECT %(store)s, id, id, 'pending', 'EUR', 5, now(), now() FROM customers WHERE store_id = %(store)s;
INSERT INTO order_items
SELECT %(store)s, id, 1, id, 'Mug ' || name, 5, 1 FROM customers WHERE store_id = %(store)s;
INSERT INTO idempotency_keys
SELECT %(store)s, id, email, decode(repeat('00', 32), 'hex'), id, '', '{"id": 1}', now() + interval '1 day'
FROM customers WHERE store_id = %(store)s;
INSERT INTO revoked_sessions SELECT %(store)s, id, now() + interval '1 day' FROM customers WHERE store_id = %(store)s;
"""
# What the audit of orders must not count.
_EMPTY = """
SET session_replication_role = replica;
DELETE FROM order_items WHERE store_id = %(store)s AND title LIKE 'Mug Ada%%';
DELETE FROM orders AS o USING customers AS c
WHERE o.store_id = %(store)s AND c.id = o.id AND c.store_id = o.store_id;
DELETE FROM idempotency_keys WHERE store_id = %(store)s AND key LIKE '%%@example.com';
"""


def _of(text: str, **names: str) -> str:
    """The statement, with names of tables and columns put in; `{one}` is one row of the table, drawn by lot."""
    one = (
        "ctid = (SELECT ctid FROM {table} WHERE store_id = %(store)s"
        " ORDER BY hashtextextended({table}::text, %(lot)s) LIMIT 1)"
    )
    return text.replace("{one}", one).format(**names)


_FLIPPED = [
    _of(
        "UPDATE {table} SET {column} = overlay({column} placing chr(ascii(substr({column}, 2)) # 1) from 2)"
        " WHERE {one}",
        table=table,
        column=column,
    )
    for table, column in (
        ("customers", "name"),
        ("products", "description"),
        ("products", "title"),
        ("order_items", "title"),
        ("idempotency_keys", "key"),
    )
]
_MISSING = [
    _of("DELETE FROM {table} WHERE {one}", table=table)
    for table in ("customers", "products", "orders", "order_items", "idempotency_keys", "revoked_sessions")
]
_EXTRA = [
    _of("INSERT INTO {table} SELECT {columns} FROM {table} WHERE {one}", table=table, columns=columns)
    for table, columns in (
        ("order_items", "store_id, order_id, 77, product_id, title, unit_price, quantity"),
        ("customers", "store_id, gen_random_uuid(), 'another-' || email, name, password_hash, created_at"),
        ("revoked_sessions", "store_id, gen_random_uuid(), expires_at"),
        (
            "orders",
            "store_id, gen_random_uuid(), NULL, NULL, status, currency, total, created_at, updated_at",
        ),
    )
]
_SWAPPED = [
    _of(
        "WITH two AS (SELECT {key}, {content}, row_number() OVER () AS n FROM (SELECT * FROM {table}"
        " WHERE store_id = %(store)s AND {chosen} ORDER BY hashtextextended({table}::text, %(lot)s) LIMIT 2) AS t)"
        " UPDATE {table} AS p SET ({content}) = (SELECT {content} FROM two AS o WHERE o.n <> mine.n)"
        " FROM two AS mine WHERE p.store_id = %(store)s AND p.{key} = mine.{key}",
        table=table,
        key=key,
        content=content,
        chosen=chosen,
    )
    for table, key, content, chosen in (
        ("products", "id", "title, description, price, attributes", "title LIKE 'Mug %%'"),
        ("customers", "id", "name, password_hash", "true"),
        ("order_items", "order_id", "title, product_id", "title LIKE 'Mug Ada%%'"),
    )
]
# As by a client that goes past the fence; also at the source, where it is not sent on.
_SNEAKED = [
    _of("UPDATE products SET price = price + 1, version = version + 1 WHERE {one}", table="products"),
    _of("UPDATE orders SET status = 'cancelled', updated_at = now() WHERE {one}", table="orders"),
    "INSERT INTO revoked_sessions VALUES (%(store)s, gen_random_uuid(), now() + interval '1 day')",
]
CORRUPTIONS: Mapping[str, Sequence[str]] = {
    "a flipped byte": _FLIPPED,
    "a missing row": _MISSING,
    "an extra row": _EXTRA,
    "two rows swapped": _SWAPPED,
    "a write that sneaked in": _SNEAKED,
}


def corrupted_moves(servers: Servers, times: int, clean: int, random_seed: int) -> int:
    """Each corruption so many times, and so many moves without one."""
    lot, failed = random.Random(random_seed), list[str]()  # noqa: S311 - nothing secret is drawn
    with Wire(servers.address) as wire:
        moved = MovedStore(servers, wire)
        values = {"store": moved.store.store_id, "rows": _ROWS}
        _run(moved, moved.home, _FILL, values)
        print(
            "| what was done to the copy | moves | stopped | store as it was |\n| --- | ---: | ---: | ---: |"
        )
        for name, statements in CORRUPTIONS.items():
            reasons = [_corrupted_move(moved, name, lot.choice(statements), lot) for _ in range(times)]
            stopped = reasons.count("")
            failed += [f"{name}: {reason}" for reason in reasons if reason]
            print(f"| {name} | {times} | {stopped} | {stopped} |", flush=True)
        done, checked, requests = _clean_moves(moved, clean, failed, values)
        print(f"| nothing, under {requests:,} orders | {clean} | {clean - done} | {done} |")
    print(f"\n{checked}")
    for reason in failed:
        print(reason)
    return 0 if not failed and checked.clean and done == clean else 1


def _corrupted_move(moved: MovedStore, name: str, statement: str, lot: random.Random) -> str:
    """Why the promise did not hold; empty where it did."""
    source, target = moved.home, moved.elsewhere
    at = lot.choice((source, target)) if name == "a write that sneaked in" else target
    values = {"store": moved.store.store_id, "lot": lot.getrandbits(60)}
    with _held(moved, source):
        path = moved.begin(target)
        moved.until(path, "verifying")
        if (changed := _run(moved, at, statement, values, unsent=True)) == 0:
            return f"nothing was changed by: {statement}"
        before = moved.content(source)
    move = moved.ended(path)
    if move["state"] != "failed" or "the copies differ" not in str(move["error"]):
        return f"{move['state']}, {move['error']} after {changed} rows on {at}: {statement}"
    moved.tidied(path)
    if moved.home != source or moved.content(source) != before:
        return f"the store is not as it was after: {statement}"
    if left := moved.left_over():
        return f"left over: {left}"
    return f"{moved.rows(target)} rows stayed on {target}" if moved.rows(target) else ""


def _clean_moves(
    moved: MovedStore, moves: int, failed: list[str], values: Mapping[str, Any]
) -> tuple[int, Audit, int]:
    """How many went through, what became of the orders, and how many those were."""
    load = Load(moved.store, moved.servers.address, 3, per_second=20.0, shares=ORDERS_ONLY)
    load.start()
    done, path = 0, ""
    try:
        for number in range(moves):
            path = moved.begin(moved.elsewhere)
            move = moved.ended(path)
            done += move["state"] == "done"
            if move["state"] != "done":
                failed.append(f"a clean move: {move['state']}, {move['error']}")
            print(f"{number + 1}: {move['state']}", file=sys.stderr)
    finally:
        load.stop()
    failed += load.failed
    home, old = moved.home, moved.elsewhere
    if path:
        moved.tidied(path)
    if rows := moved.rows(old):
        failed.append(f"{rows} rows stayed on {old}")
    failed += moved.left_over()
    _run(moved, home, _EMPTY, values)
    return done, audit(moved.servers, [moved.at(home)], load.placed), len(load.placed)


@contextmanager
def _held(moved: MovedStore, shard: str) -> Iterator[None]:
    """A write that has passed the fence and does not end: the copies are not compared before it does."""
    with moved.servers.connect(moved.servers.primary(shard)) as connection, connection.transaction():
        fence = "SELECT pg_advisory_xact_lock_shared(uuid_hash_extended(%s::uuid, 0))"
        connection.execute(fence, [moved.store.store_id])
        yield


def _run(moved: MovedStore, shard: str, text: str, values: Mapping[str, Any], *, unsent: bool = False) -> int:
    """Run statements on a shard's primary; how many rows the last one changed. `unsent`: as if they had come by
    replication, so that they are not sent on."""
    conninfo = moved.servers.conninfo(moved.servers.primary(shard))
    with psycopg.connect(conninfo, autocommit=True) as connection, psycopg.ClientCursor(connection) as cursor:
        if unsent:
            cursor.execute("SET session_replication_role = replica")
            cursor.execute("SELECT pg_replication_origin_create('corruption')")
            cursor.execute("SELECT pg_replication_origin_session_setup('corruption')")
        cursor.execute(text.encode(), values)
        changed = cursor.rowcount
        if unsent:
            cursor.execute("SELECT pg_replication_origin_session_reset()")
            cursor.execute("SELECT pg_replication_origin_drop('corruption')")
        return changed

"""Stores on the move, for tests: a store with something in every table, a mover, and what there is on each shard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
from psycopg.sql import SQL, Identifier, Literal

import ids
import sql
from moves.mover import Mover
from moves.record import Move
from operations.marketplace import Marketplace
from operations.moves import find_move, move_store
from routing.scope import Scope
from tests.cluster_fixtures import Databases
from tests.shard_servers import until

CREATE_STORE = sql.query("create_store")
CREATE_PRODUCT = sql.query("create_product")
TABLES = (
    "stores",
    "api_keys",
    "products",
    "customers",
    "orders",
    "order_items",
    "idempotency_keys",
    "revoked_sessions",
)
FILL = """
INSERT INTO customers SELECT %(store)s, gen_random_uuid(), n || '@example.com', 'Ada ' || n, 'x', now()
FROM generate_series(1, %(rows)s) AS n;
INSERT INTO products (store_id, id, title, description, price, stock, attributes, created_at, updated_at)
SELECT %(store)s, gen_random_uuid(), 'Mug ' || n, repeat('blue ', 20), n, 1000000, jsonb_build_object('n', n), now(),
    now()
FROM generate_series(1, %(rows)s) AS n;
INSERT INTO orders (store_id, id, customer_id, status, currency, total, created_at, updated_at)
SELECT %(store)s, id, id, 'pending', 'EUR', 5, now(), now() FROM customers WHERE store_id = %(store)s;
INSERT INTO order_items SELECT %(store)s, id, 1, id, 'Mug', 5, 1 FROM customers WHERE store_id = %(store)s;
INSERT INTO idempotency_keys
SELECT %(store)s, id, email, decode(repeat('00', 32), 'hex'), id, '', '{}', now() + interval '1 day'
FROM customers WHERE store_id = %(store)s;
INSERT INTO revoked_sessions SELECT %(store)s, id, now() + interval '1 day' FROM customers WHERE store_id = %(store)s;
"""
# Whatever a move makes, by node or database.
MADE = """
SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database()
UNION ALL SELECT 'subscription ' || subname FROM pg_subscription AS s JOIN pg_database AS d ON d.oid = s.subdbid
    WHERE d.datname = current_database()
UNION ALL SELECT 'publication ' || pubname FROM pg_publication
UNION ALL SELECT 'standing ' || id FROM moving_stores
UNION ALL SELECT 'mark ' || id FROM move_marks
"""


class Stage:
    """One worker and the shards below it, where stores are made and moved."""

    def __init__(self, databases: Databases, market: Marketplace) -> None:
        self.databases = databases
        self.market = market
        self.settings = databases.settings
        self.shards = databases.cluster.topology.shard_names

    def scope(self, **fields: Any) -> Scope:
        return Scope(self.market.maps.current().flags, **fields)

    def new_store(self, rows: int = 20, store_id: UUID | None = None) -> tuple[UUID, str]:
        """A store with so many rows in every table, and its shard."""
        scope, store_id = self.scope(), store_id or ids.new_id()
        values = {"name": "Shop", "currency": "EUR", "key_id": ids.new_id(), "secret_hash": bytes(32)}
        self.market.router.create(
            scope, store_id, CREATE_STORE, values | {"created_at": ids.timestamp(store_id)}
        )
        assert scope.route is not None
        with self.connect(scope.route.shard) as connection, psycopg.ClientCursor(connection) as cursor:
            cursor.execute(FILL, {"store": store_id, "rows": rows})
        return store_id, scope.route.shard

    def add_product(self, store_id: UUID, scope: Scope | None = None) -> UUID:
        """A write as the service does it."""
        product_id = ids.new_id()
        values: dict[str, Any] = {
            "title": "New",
            "description": "",
            "price": 1,
            "stock": 1,
            "attributes": "{}",
        }
        values |= {"product_id": product_id, "created_at": ids.timestamp(product_id)}
        scope = scope or self.scope()
        assert self.market.router.write(scope, store_id, CREATE_PRODUCT, values) is not None
        return product_id

    def other(self, shard: str) -> str:
        return next(name for name in self.shards if name != shard)

    def connect(self, shard: str) -> psycopg.Connection[Any]:
        """As the administrator."""
        return psycopg.connect(self.databases.dsn(shard, administrator=True), autocommit=True)

    def sql(self, shard: str, text: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self.connect(shard) as connection:
            cursor = connection.execute(text, parameters)
            return cursor.fetchall() if cursor.description else []

    def catalog_connection(self) -> psycopg.Connection[Any]:
        """As the administrator."""
        return psycopg.connect(self.databases.catalog_dsn(administrator=True), autocommit=True)

    def catalog_sql(self, text: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self.catalog_connection() as connection:
            cursor = connection.execute(text, parameters)
            return cursor.fetchall() if cursor.description else []

    def rows(self, shard: str, store_id: UUID) -> dict[str, list[str]]:
        """All of the store's rows there, but for its epoch."""
        found = {}
        with self.connect(shard) as connection:
            for table in TABLES:
                statement = SQL(
                    "SELECT (to_jsonb(t) - 'epoch')::text FROM {} AS t WHERE store_id = {} ORDER BY 1"
                )
                rows = connection.execute(statement.format(Identifier(table), Literal(store_id)))
                found[table] = [row for (row,) in rows]
        return found

    def count(self, shard: str, store_id: UUID) -> int:
        return sum(map(len, self.rows(shard, store_id).values()))

    def ask(self, store_id: UUID, to_shard: str, *, undo_seconds: float = 0.0) -> Move:
        return move_store(self.market.catalog, store_id, to_shard, undo_seconds)

    def found(self, move: Move) -> Move:
        return find_move(self.market.catalog, move.id)

    def move(self, store_id: UUID, to_shard: str, **options: float) -> Move:
        """A whole move, with all that it leaves tidied up."""
        move = self.ask(store_id, to_shard, **options)
        assert Mover(self.settings).run()
        return self.found(move)

    def home(self, store_id: UUID) -> str:
        """Where the store lives by the catalog."""
        snapshot = self.market.catalog.load()
        return snapshot.map.route(store_id, sharding=snapshot.flags.sharding).shard

    def left_over(self) -> list[str]:
        """What moves have made on the shards and not taken away."""
        made = [row[0] for shard in self.shards for row in self.sql(shard, MADE)]
        registered = self.catalog_sql("SELECT 'registered ' || name FROM move_resources")
        return sorted([*made, *(row[0] for row in registered)])

    @contextmanager
    def mover(self) -> Iterator[threading.Thread]:
        """A mover beside the test; it is waited for at the end."""
        mover = Mover(self.settings)
        thread = threading.Thread(target=mover.run)
        thread.start()
        try:
            yield thread
        finally:
            mover.stop()
            thread.join()


@contextmanager
def stage(databases: Databases, **settings: Any) -> Iterator[Stage]:
    # Without the administrator's role it starts no mover of its own: tests have theirs.
    market = Marketplace(replace(databases.settings, admin_user="", **settings))
    market.start("worker-1")
    try:
        nodes = len(market.maps.current().map.nodes)
        until(lambda: sum(state.healthy for state in market.replay.states().values()) == nodes)
        until(lambda: all(pool.gauge().available for pool in market.pools.pools()))
        yield Stage(databases, market)
    finally:
        market.stop()


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


@contextmanager
def writing(place: Stage, store_id: UUID, writers: int = 3) -> Iterator[list[UUID]]:
    """Clients that write all the time, as the service does it: the products that they were told they have."""
    made: list[UUID] = []
    failed: list[BaseException] = []
    over = threading.Event()

    def write() -> None:
        try:
            while not over.is_set():
                made.append(place.add_product(store_id))
        except BaseException as error:
            failed.append(error)
            raise

    threads = [in_thread(write) for _ in range(writers)]
    try:
        until(lambda: len(made) > writers or failed)
        yield made
    finally:
        over.set()
        for thread in threads:
            thread.join()
        assert failed == []


@contextmanager
def slow_write(place: Stage, shard: str, store_id: UUID) -> Iterator[psycopg.Connection[Any]]:
    """A write that has passed the fence and does not end: a switch waits for it, up to a moment."""
    with place.connect(shard) as connection, connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock_shared(uuid_hash_extended(%s, 0))", [store_id])
        yield connection


def until_state(place: Stage, move: Move, *states: str) -> Move:
    until(lambda: place.found(move).state in states)
    return place.found(move)


def finish(place: Stage) -> None:
    """Drive whatever is under way to its end; what could be undone can be no more."""
    place.catalog_sql("UPDATE moves SET undo_until = now() WHERE undo_until > now()")
    with place.mover():
        until(lambda: not place.catalog_sql("SELECT id FROM moves WHERE tidied_at IS NULL"))

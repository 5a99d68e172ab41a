"""The fence and the flight: a stale map writes nothing in a store's old home, and one write is one round trip."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic
from typing import Any

import psycopg
import pytest

import ids
import sql
from config import Settings
from ephemeral.client import connect
from ephemeral.locks import Lease
from ephemeral.round_trip import RoundTrips
from errors import NotFound
from pools.node import Node
from routing.map_cache import MapCache
from routing.memory import SessionMemory
from routing.replica_reads import ReplicaReads
from routing.router import Router
from routing.scope import Scope
from tests.cluster_fixtures import Databases
from tests.counting_proxy import CountingProxy
from tests.shop import eventually
from tests.watched_pools import WatchedPools

READ_STORE = sql.query("read_store")
CREATE_STORE = sql.query("create_store")
CREATE_PRODUCT = sql.query("create_product")

WAITING_FOR_THE_FENCE = """
SELECT FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
WHERE l.locktype = 'advisory' AND NOT l.granted AND d.datname = current_database()
"""

# Longer than any test: what the map says is only looked at again when the router asks for it.
NEVER = 3600.0


@contextmanager
def worker(settings: Settings, nodes: Mapping[str, Node] | None = None) -> Iterator[tuple[Router, MapCache]]:
    """The routing of one worker, with some nodes reached another way."""
    pools = WatchedPools(settings, "worker-1")
    maps = MapCache([lambda: pools.catalog().connection()], settings.catalog_poll_seconds)
    maps.on_change(
        lambda snapshot: pools.apply([(nodes or {}).get(node.name, node) for node in snapshot.map.nodes])
    )
    maps.start()
    assert maps.wait_until_loaded(30)
    memory = SessionMemory(
        RoundTrips(connect(settings.redis_url)), settings.position_ttl_seconds, pools.replay
    )
    replica_reads = ReplicaReads(pools, pools.replay, weights={}, wait_seconds=settings.replica_wait_seconds)
    try:
        yield Router(pools, maps, pools.replay, replica_reads, memory), maps
    finally:
        maps.close()
        pools.close()


@pytest.fixture
def stale_worker(databases: Databases) -> Iterator[tuple[Router, MapCache]]:
    with worker(replace(databases.settings, catalog_poll_seconds=NEVER)) as parts:
        yield parts


def new_store(router: Router, maps: MapCache, store_id: uuid.UUID | None = None) -> tuple[uuid.UUID, str]:
    """A store, and the shard it lives on."""
    store_id = store_id or ids.new_id()
    scope = Scope(maps.current().flags)
    values = {"name": "Shop", "currency": "EUR", "key_id": ids.new_id(), "secret_hash": bytes(32)}
    router.create(scope, store_id, CREATE_STORE, values | {"created_at": ids.timestamp(store_id)})
    assert scope.route is not None
    return store_id, scope.route.shard


def add_product(
    router: Router,
    maps: MapCache,
    store_id: uuid.UUID,
    *,
    scope: Scope | None = None,
    lease: Lease | None = None,
) -> Scope:
    scope = scope or Scope(maps.current().flags)
    product_id = ids.new_id()
    values: dict[str, Any] = {"title": "Mug", "description": "", "price": 1, "stock": 1, "attributes": "{}"}
    values |= {"product_id": product_id, "created_at": ids.timestamp(product_id)}
    assert router.write(scope, store_id, CREATE_PRODUCT, values, lease) is not None
    return scope


def products(databases: Databases, shard: str, store_id: uuid.UUID) -> int:
    with psycopg.connect(databases.dsn(shard, administrator=True)) as connection:
        row = connection.execute("SELECT count(*) FROM products WHERE store_id = %s", [store_id]).fetchone()
        return int(row[0]) if row else -1


def other_shard(databases: Databases, shard: str) -> str:
    return next(name for name in databases.cluster.topology.shard_names if name != shard)


def move_away(databases: Databases, store_id: uuid.UUID, source: str) -> int:
    """What a move leaves behind: the store on the other shard, its old home fenced; the map's new epoch."""
    epoch = copy_away(databases, store_id, source)
    with psycopg.connect(databases.dsn(source, administrator=True)) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(uuid_hash_extended(%s, 0))", [store_id])
        connection.execute("UPDATE stores SET epoch = %s WHERE store_id = %s", [epoch, store_id])
    return epoch


def copy_away(databases: Databases, store_id: uuid.UUID, source: str) -> int:
    """The same, but for the fence."""
    target = other_shard(databases, source)
    with psycopg.connect(databases.catalog_dsn(administrator=True)) as catalog:
        catalog.execute("INSERT INTO pins (store_id, shard) VALUES (%s, %s)", [store_id, target])
        row = catalog.execute("UPDATE map_state SET epoch = epoch + 1 RETURNING epoch").fetchone()
        assert row is not None
    copied = "INSERT INTO stores VALUES (%s, 'Shop', 'EUR', %s, now())"
    with psycopg.connect(databases.dsn(target, administrator=True)) as connection:
        connection.execute(copied, [store_id, row[0]])
    return int(row[0])


def test_a_write_by_a_stale_map_is_refused_and_goes_to_the_new_home(
    databases: Databases, stale_worker: tuple[Router, MapCache]
) -> None:
    router, maps = stale_worker
    store_id, source = new_store(router, maps)
    add_product(router, maps, store_id)
    epoch = move_away(databases, store_id, source)
    scope = add_product(router, maps, store_id)
    assert scope.route is not None
    assert (scope.route.shard, scope.route.reason, scope.route.epoch) == (
        other_shard(databases, source),
        "pin",
        epoch,
    )
    assert scope.served_by == (databases.cluster.primary(scope.route.shard).name,)
    assert products(databases, source, store_id) == 1
    assert products(databases, other_shard(databases, source), store_id) == 1


def test_a_write_that_waited_for_a_switch_is_refused_after_it(
    databases: Databases, stale_worker: tuple[Router, MapCache]
) -> None:
    """The interleaving a fence is for: routed before the switch, run after it."""
    router, maps = stale_worker
    store_id, source = new_store(router, maps)
    with psycopg.connect(databases.dsn(source, administrator=True)) as mover:
        mover.execute("SELECT pg_advisory_xact_lock(uuid_hash_extended(%s, 0))", [store_id])
        scopes: list[Scope] = []
        writer = threading.Thread(target=lambda: scopes.append(add_product(router, maps, store_id)))
        writer.start()
        with psycopg.connect(databases.dsn(source, administrator=True), autocommit=True) as watcher:
            eventually(lambda: watcher.execute(WAITING_FOR_THE_FENCE).fetchone() is not None)
        # The writer holds its place in the queue, and its statement has begun: now the store moves.
        with psycopg.connect(databases.catalog_dsn(administrator=True)) as catalog:
            target = other_shard(databases, source)
            catalog.execute("INSERT INTO pins (store_id, shard) VALUES (%s, %s)", [store_id, target])
            row = catalog.execute("UPDATE map_state SET epoch = epoch + 1 RETURNING epoch").fetchone()
            assert row is not None
        with psycopg.connect(databases.dsn(target, administrator=True)) as connection:
            connection.execute("INSERT INTO stores VALUES (%s, 'Shop', 'EUR', %s, now())", [store_id, row[0]])
        mover.execute("UPDATE stores SET epoch = %s WHERE store_id = %s", [row[0], store_id])
    writer.join(30)
    assert len(scopes) == 1
    assert products(databases, source, store_id) == 0
    assert products(databases, target, store_id) == 1


def test_a_map_that_is_newer_and_not_new_enough_denies_no_store(
    databases: Databases, stale_worker: tuple[Router, MapCache]
) -> None:
    """Two stores move at one time: who is refused finds the map with the first of them, and is refused again."""
    router, maps = stale_worker
    store_id, source = new_store(router, maps)
    with psycopg.connect(databases.dsn(source, administrator=True)) as mover:
        mover.execute("SELECT pg_advisory_xact_lock(uuid_hash_extended(%s, 0))", [store_id])
        scopes: list[Scope] = []
        writer = threading.Thread(target=lambda: scopes.append(add_product(router, maps, store_id)))
        writer.start()
        with psycopg.connect(databases.dsn(source, administrator=True), autocommit=True) as watcher:
            eventually(lambda: watcher.execute(WAITING_FOR_THE_FENCE).fetchone() is not None)
        before = maps.current().map.epoch
        with psycopg.connect(databases.catalog_dsn(administrator=True)) as catalog:
            catalog.execute("UPDATE map_state SET epoch = epoch + 1")
        assert maps.refresh(before, timeout_seconds=30).map.epoch == before + 1
        epoch = copy_away(databases, store_id, source)
        mover.execute("UPDATE stores SET epoch = %s WHERE store_id = %s", [epoch, store_id])
    writer.join(30)
    assert len(scopes) == 1
    assert products(databases, other_shard(databases, source), store_id) == 1


def test_a_store_that_is_nowhere_is_not_found_after_one_look_at_the_catalog(
    stale_worker: tuple[Router, MapCache],
) -> None:
    router, maps = stale_worker
    with pytest.raises(NotFound):
        add_product(router, maps, ids.new_id())
    with pytest.raises(NotFound):
        router.read(Scope(maps.current().flags), ids.new_id(), READ_STORE, {})


def test_a_read_by_a_stale_map_finds_the_store_in_its_new_home(
    databases: Databases, stale_worker: tuple[Router, MapCache]
) -> None:
    router, maps = stale_worker
    store_id, source = new_store(router, maps)
    move_away(databases, store_id, source)
    with psycopg.connect(databases.dsn(source, administrator=True)) as connection:
        connection.execute("DELETE FROM api_keys WHERE store_id = %s", [store_id])
        connection.execute("DELETE FROM stores WHERE store_id = %s", [store_id])
    scope = Scope(maps.current().flags)
    assert router.read(scope, store_id, READ_STORE, {})
    assert scope.route is not None
    assert scope.route.shard == other_shard(databases, source)


def test_a_write_leaves_its_position_behind_its_commit(
    databases: Databases, stale_worker: tuple[Router, MapCache]
) -> None:
    router, maps = stale_worker
    store_id, shard = new_store(router, maps)
    scope = add_product(router, maps, store_id)
    (position,) = scope.positions.values()
    with psycopg.connect(databases.dsn(shard, administrator=True)) as connection:
        identity = "SELECT system_identifier FROM pg_control_system()"
        assert connection.execute(identity).fetchone() == (position.system_identifier,)
        # Everything up to there was written by then: the product's commit is in what a replica has replayed to.
        flushed = "SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint >= %s"
        assert connection.execute(flushed, [position.lsn]).fetchone() == (True,)
    later = add_product(router, maps, store_id, scope=scope)
    assert later.positions[position.system_identifier].lsn > position.lsn


def test_a_read_and_a_write_are_one_round_trip_each(databases: Databases) -> None:
    proxies = {
        node.name: CountingProxy("127.0.0.1", node.port)
        for shard in databases.cluster.topology.shard_names
        for node in [databases.cluster.primary(shard)]
    }
    through = {
        name: Node(name, name.rpartition("-")[0], "127.0.0.1", proxy.port) for name, proxy in proxies.items()
    }
    settings = replace(databases.settings, catalog_poll_seconds=NEVER, pool_size=1)
    with worker(settings, through) as (router, maps):
        store_id, shard = new_store(router, maps)
        proxy = proxies[databases.cluster.primary(shard).name]
        add_product(router, maps, store_id)  # prepares the statements

        def counted(ask: Any) -> int:
            # The probes go through the proxy too; they are rare, and the least of several runs has none.
            found = []
            for _ in range(5):
                before = proxy.round_trips
                ask()
                found.append(proxy.round_trips - before)
            return min(found)

        assert counted(lambda: add_product(router, maps, store_id)) == 1
        eventually(
            lambda: router._replay.shard(shard).primary is not None
        )  # whose clock a lease is checked by
        lease = Lease([], NEVER, [], monotonic())
        assert counted(lambda: add_product(router, maps, store_id, lease=lease)) == 1
        assert counted(lambda: router.read(Scope(maps.current().flags), store_id, READ_STORE, {})) == 1
    for each in proxies.values():
        each.close()

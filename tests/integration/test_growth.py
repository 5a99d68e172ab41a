"""`flask shards remove` and `flask shards add --node`: the ring shrinks and grows while stores are written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from commands.cluster import Cluster
from config import Settings
from devcluster.topology import HOST
from errors import Conflict, NodeUnavailable
from operations.flags import set_flag
from operations.growth import forget_shard, join_ring, leave_ring
from operations.moves import pin_store
from operations.placement import one_at_a_time
from pools.node import Node
from pools.pool import NodePool
from routing.catalog import NewShard
from sql import query
from tests.cluster_fixtures import Databases
from tests.commandline import assert_refused, flask
from tests.moving import TABLES, Stage, stage, writing
from tests.shard_servers import until

READ_STORE, LIST_STORES, CREATE_PRODUCT = query("read_store"), query("list_stores"), query("create_product")


@pytest.fixture(scope="module")
def place(databases: Databases) -> Iterator[Stage]:
    with stage(databases) as found:
        yield found


@pytest.fixture
def settings(place: Stage, tmp_path: Path) -> Settings:
    """Without the embedded cluster's data folder: its servers are somebody else's here."""
    return replace(place.settings, var=tmp_path)


@pytest.fixture
def stores(place: Stage) -> list[UUID]:
    """Two on each shard at least."""
    await_map(place)
    found = [place.new_store(rows=2) for _ in range(4)]
    while min([shard for _, shard in found].count(shard) for shard in place.shards) < 2:
        found.append(place.new_store(rows=2))
    return [store for store, _ in found]


def server(place: Stage, name: str, host: str = HOST) -> tuple[str, str]:
    """A server of the cluster as an option of the command."""
    (port,) = (node.port for node in place.databases.cluster.topology.nodes() if node.name == name)
    return "--node", f"postgresql://{host}:{port}"


def stores_of(place: Stage, shard: str) -> list[UUID]:
    return [store for (store,) in place.sql(shard, query("list_store_ids").text)]


def await_map(place: Stage) -> None:
    """Until the worker has the newest map."""
    epoch = place.market.catalog.epoch()
    until(lambda: place.market.maps.current().map.epoch >= epoch)


def map_shards(place: Stage) -> list[str]:
    return place.market.router.shards()  # type: ignore[return-value]


@contextmanager
def without_shard_1(place: Stage) -> Iterator[list[Node]]:
    """The catalog without it, and all stores on the other; its nodes. Afterwards it is a shard as before."""
    catalog = place.market.catalog
    nodes = [node for node in catalog.load().map.nodes if node.shard == "shard-1"]
    read = partial(stores_of, place)
    leave_ring(catalog, "shard-1", read)
    for store in read("shard-1"):
        place.move(store, "shard-0")
    forget_shard(catalog, "shard-1", read)
    try:
        yield nodes
    finally:
        if not any(shard.name == "shard-1" for shard in catalog.load().map.shards):
            join_ring(catalog, NewShard("shard-1", 1.0, nodes), read)
        await_map(place)


def test_a_shard_leaves_and_joins_while_its_stores_are_written(
    place: Stage, settings: Settings, stores: list[UUID]
) -> None:
    written = next(store for store in stores if place.home(store) == "shard-1")
    pinned = next(store for store in stores if place.home(store) == "shard-0")
    move = pin_store(place.market.catalog, pinned, "shard-1", 0.0)
    assert move is not None
    low, high = UUID(int=1), UUID(int=9)
    place.catalog_sql("INSERT INTO ranges VALUES (%s, %s, 'shard-1')", low, high)
    place.catalog_sql("INSERT INTO pins VALUES (%s, 'shard-1')", UUID(int=7))  # of no store
    with place.mover():
        until(lambda: place.found(move).tidied_at is not None)

    with writing(place, written, writers=1) as made:
        answer = flask(settings, "shards", "remove", "shard-1")
        assert answer.returncode == 0, answer.stderr
        assert "shard-1 has left the ring" in answer.stdout
        assert f"the range {low} to {high} is given up" in answer.stderr
        shard_map = place.market.catalog.load().map
        assert [shard.name for shard in shard_map.shards] == ["shard-0"]
        assert {node.shard for node in shard_map.nodes} == {"shard-0"}
        assert shard_map.ranges == ()
        assert shard_map.pins == {}
        assert place.left_over() == []
        for table in TABLES:
            statement = SQL("SELECT count(*) FROM {}").format(Identifier(table)).as_string()
            assert place.sql("shard-1", statement) == [(0,)], table
        until(lambda: not connections(place, "shard-1"))
        before = len(made)
        until(lambda: len(made) > before)

        nodes = [server(place, name) for name in ("shard-1-c", "shard-1-a", "shard-1-b")]
        answer = flask(settings, "shards", "add", "shard-1", *(word for node in nodes for word in node))
        assert answer.returncode == 0, answer.stderr
        first, second = answer.stdout.splitlines()
        assert first == "shard-1 (shard-1-a, shard-1-c, shard-1-b) owns 50.0% of the ring."
        shard_map = place.market.catalog.load().map
        staying = [store for store in stores_of(place, "shard-0") if store in shard_map.pins]
        assert second.startswith(f"{len(staying)} store")
        assert all(shard_map.pins[store].stays for store in staying)
        until(lambda: len(map_shards(place)) == 2)
        while place.new_store(rows=1)[1] != "shard-1":
            pass
        until(lambda: sum(state.healthy for state in place.market.replay.states().values()) == 6)
    scope = place.scope()
    listed = place.market.router.on_every_shard(
        scope, LIST_STORES, {"before": UUID(int=2**128 - 1), "limit": 100}
    )
    assert {store for rows in listed.values() for store, _ in rows} >= set(stores)
    assert all(place.home(store) == "shard-0" for store in stores)


def connections(place: Stage, shard: str) -> list[Any]:
    text = (
        "SELECT application_name FROM pg_stat_activity WHERE datname = %s AND application_name LIKE '%%/%%'"
    )
    return place.sql(shard, text, place.settings.database_name)


def test_servers_that_are_not_fit_are_refused_in_one_line(place: Stage, settings: Settings) -> None:
    add = partial(flask, settings, "shards", "add", "shard-9")
    a, b, c = (server(place, f"shard-1-{letter}") for letter in "abc")
    with without_shard_1(place):
        assert_refused(add(), "no embedded cluster", "--node")
        assert_refused(add(*b), "accept writes: none")
        assert_refused(add(*a, *server(place, "shard-0-a", "localhost")), "accept writes:", ",")
        assert_refused(add(*server(place, "shard-0-a", "localhost")), "is a server of shard-0")
        assert_refused(add(*a, *server(place, "shard-0-b", "localhost")), "is no replica of")
        assert_refused(add(*a, *server(place, "shard-0-b")), "is shard-0-b already")
        assert_refused(add(*a, *a), "named twice")
        assert_refused(add(*a, "--node", "host=127.0.0.1 port=1"), "127.0.0.1:1 cannot be asked")
        assert_refused(add("--node", "nonsense"), "--node takes a DSN")
        wrong = replace(settings, database_password="wrong")
        assert_refused(flask(wrong, "shards", "add", "shard-9", *a, *b), "role app cannot use")
        shop = "INSERT INTO stores (store_id, name, currency, created_at, epoch) VALUES (%s, 'x', 'EUR', now(), 1)"
        place.sql("shard-1", shop, UUID(int=1))
        assert_refused(add(*a, *b, *c), "data already: stores is not empty")
        place.sql("shard-1", "DELETE FROM stores")
        place.sql("shard-1", "ALTER TABLE products ADD COLUMN colour text")
        assert_refused(add(*a, *b, *c), "schemas are the same", "colour")
        place.sql("shard-1", "ALTER TABLE products DROP COLUMN colour")
        assert map_shards(place) == ["shard-0"]


def test_a_replica_that_does_not_follow_is_refused(place: Stage, settings: Settings) -> None:
    with without_shard_1(place):
        replica = place.databases.cluster.topology.nodes("shard-1")[1]
        dsn = psycopg.conninfo.make_conninfo(
            place.databases.dsn("shard-1", administrator=True), port=replica.port
        )
        with psycopg.connect(dsn, autocommit=True) as connection:
            (upstream,) = connection.execute("SHOW primary_conninfo").fetchone() or ("",)
            connection.execute("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'")
            connection.execute("SELECT pg_reload_conf()")
            until(lambda: not connection.execute("SELECT FROM pg_stat_wal_receiver").fetchall())
            try:
                nodes = [*server(place, "shard-1-a"), *server(place, "shard-1-b")]
                answer = flask(settings, "shards", "add", "shard-1", *nodes)
            finally:
                connection.execute("ALTER SYSTEM RESET primary_conninfo")
                connection.execute("SELECT pg_reload_conf()")
                until(lambda: connection.execute("SELECT FROM pg_stat_wal_receiver").fetchall())
        assert upstream
        assert_refused(answer, f"{HOST}:{replica.port} does not stream from")


def test_what_cannot_leave_is_refused_in_one_line(place: Stage, settings: Settings) -> None:
    remove = partial(flask, settings, "shards", "remove")
    assert_refused(remove("shard-9"), "no shard shard-9")
    assert_refused(remove("shard-0"), "shard-0 cannot be removed: it is the first shard")
    with one_at_a_time(Cluster(settings).catalog):
        assert_refused(remove("shard-1"), "already; wait until that is over")
        assert_refused(flask(settings, "shards", "add", "shard-9"), "already; wait until that is over")
    assert_refused(flask(settings, "shards", "add", "shard-1"), "shard-1 is a shard already")
    assert_refused(flask(settings, "shards", "add", "Shard"), "cannot be a shard's name")
    with without_shard_1(place):
        assert_refused(remove("shard-0"), "it is the only shard")
        set_flag(place.market.catalog, "sharding", False, partial(stores_of, place))
    assert_refused(remove("shard-1"), "sharding is off")
    set_flag(place.market.catalog, "sharding", True, partial(stores_of, place))


def test_a_shard_on_its_way_out_gets_nothing_and_can_be_kept(
    place: Stage, settings: Settings, stores: list[UUID]
) -> None:
    catalog, read = place.market.catalog, partial(stores_of, place)
    homes = {store: place.home(store) for store in stores}
    leave_ring(catalog, "shard-1", read)
    assert catalog.load().map.share("shard-1") == 0
    assert {store: place.home(store) for store in stores} == homes
    with pytest.raises(Conflict, match="stores live there"):
        forget_shard(catalog, "shard-1", read)
    third = NewShard("shard-2", 1.0, [Node("shard-2-a", "shard-2", "127.0.0.1", 1)])
    join_ring(catalog, third, lambda shard: [] if shard == "shard-2" else read(shard))
    shares = [catalog.load().map.share(shard) for shard in ("shard-0", "shard-1", "shard-2")]
    assert shares == [0.5, 0, 0.5]
    with pytest.raises(Conflict, match="2048 partitions, ranges, pins and moves"):
        forget_shard(catalog, "shard-2", lambda shard: [] if shard == "shard-2" else read(shard))
    leave_ring(catalog, "shard-2", lambda shard: [] if shard == "shard-2" else read(shard))
    forget_shard(catalog, "shard-2", lambda shard: [] if shard == "shard-2" else read(shard))

    answer = flask(settings, "shards", "add", "shard-1")
    assert answer.returncode == 0, answer.stderr
    assert [catalog.load().map.share(shard) for shard in place.shards] == [0.5, 0.5]
    assert {store: place.home(store) for store in stores} == homes


def test_a_request_that_finds_its_shard_gone_goes_where_the_store_is(
    place: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was routed by the map before, and asks for the pool when that map has been replaced."""
    with without_shard_1(place) as nodes:
        await_map(place)
        store, _ = place.new_store(rows=1)
        router, catalog, read = place.market.router, place.market.catalog, partial(stores_of, place)
        primary, test = place.market.pools.primary, threading.current_thread()

        def leaves_meanwhile(shard: str) -> NodePool:
            # Not for the worker's own threads, which ask for pools at any time.
            thread = threading.current_thread()
            asks = thread is test or thread.name.startswith("every-shard")
            if asks and shard == "shard-1" and len(map_shards(place)) == 2:
                place.catalog_sql("UPDATE pins SET shard = 'shard-0' WHERE store_id = %s", store)
                leave_ring(catalog, "shard-1", read)
                forget_shard(catalog, "shard-1", read)
                until(lambda: map_shards(place) == ["shard-0"])
                with pytest.raises(NodeUnavailable):
                    primary(shard)
            return primary(shard)

        monkeypatch.setattr(place.market.pools, "primary", leaves_meanwhile)

        def led_astray() -> None:
            join_ring(catalog, NewShard("shard-1", 1.0, nodes), read)
            place.catalog_sql("UPDATE pins SET shard = 'shard-1', stays = false WHERE store_id = %s", store)
            place.catalog_sql("INSERT INTO pins VALUES (%s, 'shard-1') ON CONFLICT DO NOTHING", store)
            place.catalog_sql(query("raise_epoch").text)
            await_map(place)

        led_astray()
        place.add_product(store)
        led_astray()
        assert router.read(place.scope(), store, READ_STORE, {})[0]
        led_astray()
        answers = router.on_every_shard(
            place.scope(), LIST_STORES, {"before": UUID(int=2**128 - 1), "limit": 100}
        )
        assert store in {found for rows in answers.values() for found, _ in rows}
        led_astray()
        assert router.ping("shard-1")

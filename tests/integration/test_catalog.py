from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

import ids
from devcluster.cluster import Cluster
from errors import Conflict, NotFound, Unavailable
from pools.node import Node
from routing import catalog as catalogs
from routing.catalog import (
    Catalog,
    CatalogConnection,
    NewShard,
    delete_shard,
    insert_shard,
    turn_sharding_off,
    turn_sharding_on,
)
from routing.ring import PARTITIONS
from routing.shard_map import Pin, Range, Shard, ShardMapError
from sql import query
from tests.catalogs import catalog_at, connect, empty_catalog, shards, until


@pytest.fixture
def catalog_dsn(cluster: Cluster) -> Iterator[str]:
    with empty_catalog(cluster) as dsn:
        yield dsn


@pytest.fixture
def catalog(catalog_dsn: str) -> Catalog:
    """A catalog with two shards."""
    catalog = catalog_at(catalog_dsn)
    catalog.register_shards(shards("shard-0", "shard-1"))
    return catalog


def stores_by_shard(catalog: Catalog, each: int) -> dict[str, list[UUID]]:
    """New stores, as many for each shard, by where the map sends them."""
    shard_map = catalog.load().map
    found: dict[str, list[UUID]] = {shard.name: [] for shard in shard_map.shards}
    while any(len(stores) < each for stores in found.values()):
        store = ids.new_id()
        stores = found[shard_map.route(store, sharding=True).shard]
        if len(stores) < each:
            stores.append(store)
    return found


# Registration


def test_the_first_registration_assigns_the_whole_ring_evenly(catalog: Catalog) -> None:
    shard_map, flags = catalog.load()
    assert shard_map.shards == (Shard("shard-0"), Shard("shard-1"))
    assert shard_map.nodes == tuple(node for shard in shards("shard-0", "shard-1") for node in shard.nodes)
    assert len(shard_map.partitions) == PARTITIONS
    assert shard_map.share("shard-0") == shard_map.share("shard-1") == 0.5
    assert shard_map.epoch == catalog.epoch() > 1
    assert flags.sharding


def test_a_first_registration_follows_the_weights(catalog_dsn: str) -> None:
    catalog = catalog_at(catalog_dsn)
    small, large = shards("small", "large")
    catalog.register_shards([small, large._replace(weight=3.0)])
    assert catalog.load().map.share("large") == 0.75


def test_registering_the_same_again_changes_nothing(catalog: Catalog) -> None:
    before = catalog.load()
    catalog.register_shards(shards("shard-0", "shard-1"))
    assert catalog.load() == before


def test_nodes_that_moved_to_other_ports_are_found_there_and_no_store_moves(catalog: Catalog) -> None:
    before = catalog.load().map
    swapped = [
        NewShard("shard-0", 1.0, [Node("shard-0-a", "shard-0", "127.0.0.1", 2)]),
        NewShard("shard-1", 1.0, [Node("shard-1-a", "shard-1", "127.0.0.1", 1)]),
    ]
    catalog.register_shards(swapped)
    after = catalog.load().map
    assert {node.name: node.port for node in after.nodes} == {"shard-0-a": 2, "shard-1-a": 1}
    assert after.partitions == before.partitions
    assert after.epoch == before.epoch + 1


def test_registering_changes_nothing_about_which_shards_an_assigned_ring_has(catalog: Catalog) -> None:
    before = catalog.load()
    catalog.register_shards(shards("shard-0", "shard-1", "a-new-one"))
    catalog.register_shards(shards("shard-0"))
    assert catalog.load() == before


def test_nodes_of_shards_that_are_not_named_stay_where_they_are(catalog: Catalog) -> None:
    catalog.register_shards([NewShard("shard-0", 1.0, [Node("shard-0-a", "shard-0", "127.0.0.1", 9)])])
    nodes = {node.name: node.port for node in catalog.load().map.nodes}
    assert nodes == {"shard-0-a": 9, "shard-1-a": 2}


def test_a_shard_that_joins_comes_last_and_owns_nothing(catalog: Catalog) -> None:
    before = catalog.load().map
    (new,) = shards("a-new-one", first_port=3)
    with catalog.change() as connection:
        insert_shard(connection, new)
    after = catalog.load().map
    assert [shard.name for shard in after.shards] == ["shard-0", "shard-1", "a-new-one"]
    assert after.share("a-new-one") == 0
    assert after.partitions == before.partitions
    assert after.epoch > before.epoch


@pytest.mark.parametrize(("name", "port"), [("shard-1", 3), ("shard-2", 2)])
def test_a_shard_whose_name_or_address_is_taken_does_not_join(catalog: Catalog, name: str, port: int) -> None:
    before = catalog.load()
    (new,) = shards(name, first_port=port)
    refused = pytest.raises(Conflict, match=f"{name}, or one of its nodes, is in the shard map")
    with refused, catalog.change() as connection:
        insert_shard(connection, new)
    assert catalog.load() == before


def test_a_shard_that_nothing_leads_to_leaves(catalog: Catalog) -> None:
    before = catalog.load().map
    with catalog.change() as connection:
        insert_shard(connection, *shards("unused", first_port=3))
        delete_shard(connection, "unused")
    after = catalog.load().map
    assert (after.shards, after.nodes) == (before.shards, before.nodes)
    assert after.epoch > before.epoch


def test_a_shard_that_owns_partitions_does_not_leave(catalog: Catalog) -> None:
    before = catalog.load()
    with pytest.raises(Conflict, match="shard-1 cannot be removed: 2048 "), catalog.change() as connection:
        delete_shard(connection, "shard-1")
    assert catalog.load() == before


def test_a_known_shard_keeps_its_weight_when_it_is_registered_again(catalog: Catalog) -> None:
    first, second = shards("shard-0", "shard-1", first_port=5)
    catalog.register_shards([first, second._replace(weight=9.0)])
    assert catalog.load().map.shards == (Shard("shard-0"), Shard("shard-1"))


def test_before_any_registration_there_is_no_map(catalog_dsn: str) -> None:
    with pytest.raises(ShardMapError, match="no shard is registered"):
        catalog_at(catalog_dsn).load()


# Reading


def test_ranges_and_pins_are_read(catalog: Catalog, catalog_dsn: str) -> None:
    low, high, store, staying = UUID(int=1), UUID(int=9), ids.new_id(), ids.new_id()
    with connect(catalog_dsn) as connection:
        connection.execute("INSERT INTO ranges VALUES (%s, %s, 'shard-1')", [low, high])
        connection.execute("INSERT INTO pins VALUES (%s, 'shard-1')", [store])
        connection.execute("INSERT INTO pins VALUES (%s, 'shard-0', true)", [staying])
    shard_map = catalog.load().map
    assert shard_map.ranges == (Range(low, high, "shard-1"),)
    assert shard_map.pins == {store: Pin("shard-1", stays=False), staying: Pin("shard-0", stays=True)}


def test_a_reader_sees_all_of_a_change_or_none_of_it(catalog: Catalog, catalog_dsn: str) -> None:
    done = threading.Event()
    start = catalog.epoch()

    def change() -> None:
        """An odd epoch has one pin, an even one none."""
        with connect(catalog_dsn) as connection:
            while not done.is_set():
                with connection.transaction():
                    connection.execute(query("raise_epoch").text)
                    connection.execute("DELETE FROM pins")
                    if catalogs.read_epoch(connection) % 2:
                        connection.execute("INSERT INTO pins VALUES (%s, 'shard-0')", [UUID(int=1)])

    with ThreadPoolExecutor(1) as thread, connect(catalog_dsn) as connection:
        changing = thread.submit(change)
        try:
            while (seen := catalogs.load(connection).map).epoch < start + 200:
                assert seen.epoch == start or len(seen.pins) == seen.epoch % 2
        finally:
            done.set()
        changing.result()


# Flags


def test_a_flag_that_changes_raises_the_epoch_by_one(catalog: Catalog) -> None:
    before = catalog.load()
    catalog.set_flag("read_replicas", True)
    after = catalog.load()
    assert after.flags == before.flags.with_flag("read_replicas", True)
    assert after.map.epoch == before.map.epoch + 1


def test_a_flag_that_is_set_to_what_it_is_leaves_the_epoch(catalog: Catalog) -> None:
    catalog.set_flag("read_replicas", True)
    before = catalog.epoch()
    catalog.set_flag("read_replicas", True)
    assert catalog.epoch() == before


def test_an_unknown_flag_is_refused(catalog: Catalog) -> None:
    with pytest.raises(NotFound):
        catalog.set_flag("warp_drive", True)


def test_sharding_is_not_switched_as_if_it_did_not_say_where_stores_live(catalog: Catalog) -> None:
    with pytest.raises(ValueError, match="turn_sharding"):
        catalog.set_flag("sharding", False)


# Sharding on and off


def switch_off(catalog: Catalog) -> None:
    with catalog.change() as connection:
        turn_sharding_off(connection, 0)


def test_stores_stay_where_they_are_when_sharding_is_turned_on(catalog: Catalog) -> None:
    switch_off(catalog)
    by_ring = stores_by_shard(catalog, each=5)
    living_on_first = [store for stores in by_ring.values() for store in stores]
    with catalog.change() as connection:
        assert turn_sharding_on(connection, living_on_first) == 5
    shard_map, flags = catalog.load()
    assert flags.sharding
    assert {shard_map.route(store, sharding=True).shard for store in living_on_first} == {"shard-0"}
    assert shard_map.pins == {store: Pin("shard-0", stays=True) for store in by_ring["shard-1"]}


def test_a_pin_that_was_not_followed_while_sharding_was_off_gives_way_to_where_the_store_is(
    catalog: Catalog, catalog_dsn: str
) -> None:
    switch_off(catalog)
    (store,) = stores_by_shard(catalog, each=1)["shard-0"]
    with connect(catalog_dsn) as connection:
        connection.execute("INSERT INTO pins VALUES (%s, 'shard-1')", [store])
    with catalog.change() as connection:
        turn_sharding_on(connection, [store])
    assert catalog.load().map.route(store, sharding=True).shard == "shard-0"


def test_sharding_is_not_turned_off_while_stores_live_elsewhere(catalog: Catalog) -> None:
    before = catalog.load()
    with pytest.raises(Conflict, match="flask shards gather"), catalog.change() as connection:
        turn_sharding_off(connection, 3)
    assert catalog.load() == before


def test_sharding_off_leaves_no_pin_of_stores_that_only_stay(catalog: Catalog) -> None:
    for _ in range(2):
        switch_off(catalog)
        shard_map, flags = catalog.load()
        assert (flags.sharding, dict(shard_map.pins)) == (False, {})
        with catalog.change() as connection:
            assert turn_sharding_on(connection, stores_by_shard(catalog, each=2)["shard-1"]) == 2


@pytest.mark.parametrize("enabled", [True, False])
def test_switching_sharding_to_what_it_is_changes_nothing(catalog: Catalog, enabled: bool) -> None:
    if not enabled:
        switch_off(catalog)
    before = catalog.load()
    with catalog.change() as connection:
        if enabled:
            assert turn_sharding_on(connection, stores_by_shard(catalog, each=2)["shard-1"]) == 0
        else:
            turn_sharding_off(connection, 7)
    assert catalog.load() == before


# The lock


def wait_for_a_waiter(connection: CatalogConnection) -> None:
    """Return once a session waits for the map's lock."""
    waiting = (
        "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    until(lambda: connection.execute(waiting).rowcount)


def test_stores_are_made_side_by_side(catalog: Catalog) -> None:
    with catalog.placement_lock() as one, catalog.placement_lock() as other:
        assert one == other == catalog.epoch()


def test_a_change_of_the_map_waits_for_a_store_that_is_being_made(catalog: Catalog, catalog_dsn: str) -> None:
    events: list[str] = []

    def change() -> None:
        with catalog.change():
            events.append("changed")

    with ThreadPoolExecutor(1) as thread, connect(catalog_dsn) as watching:
        with catalog.placement_lock():
            changing = thread.submit(change)
            wait_for_a_waiter(watching)
            events.append("made")
        changing.result()
    assert events == ["made", "changed"]


def test_a_store_that_waited_for_a_change_is_told_of_it(catalog: Catalog, catalog_dsn: str) -> None:
    def place() -> int:
        with catalog.placement_lock() as epoch:
            return epoch

    before = catalog.epoch()
    with ThreadPoolExecutor(1) as thread, connect(catalog_dsn) as watching:
        with catalog.change() as connection:
            placing = thread.submit(place)
            wait_for_a_waiter(watching)
            turn_sharding_off(connection, 0)
        assert placing.result() == before + 1


def test_changes_run_one_after_the_other(catalog: Catalog) -> None:
    seen: list[int] = []

    def change() -> None:
        with catalog.change() as connection:
            seen.append(catalogs.read_epoch(connection))
            connection.execute(query("raise_epoch").text)

    with ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(change) for _ in range(20)]:
            future.result()
    assert seen == sorted(set(seen))


@pytest.mark.parametrize("lock", ["change", "placement_lock"])
def test_who_cannot_have_the_lock_in_time_is_told_to_try_again(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    monkeypatch.setattr(catalogs, "LOCK_TIMEOUT", "50ms")
    with catalog.change(), pytest.raises(Unavailable) as refusal, getattr(catalog, lock)():
        pass
    assert refusal.value.retry_after_seconds == 1


def test_a_change_that_fails_changes_nothing(catalog: Catalog) -> None:
    before = catalog.load()

    def fail() -> None:
        with catalog.change() as connection:
            turn_sharding_off(connection, 0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert catalog.load() == before

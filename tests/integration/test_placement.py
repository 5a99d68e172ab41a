"""A change of placement: partitions and ranges lead elsewhere, and no store is looked for where it is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import UUID

import pytest

import ids
from devcluster.cluster import Cluster
from errors import Conflict
from operations import stores
from operations.moves import move_store, unpin_store
from operations.placement import Placement, change_placement, one_at_a_time
from routing.catalog import Catalog, insert_shard, turn_sharding_off
from routing.ring import PARTITIONS, assign
from routing.shard_map import Pin, Range, ShardMap, ShardMapError
from tests.catalogs import catalog_at, connect, empty_catalog, shards
from tests.cluster_fixtures import Databases, fresh_databases
from tests.moving import Stage, finish, slow_write, stage, until_state
from tests.shard_servers import until

LAST = UUID(int=2**128 - 1)
# Sessions that wait for the map's lock.
WAITING_FOR_MAP = (
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@pytest.fixture
def catalog_dsn(cluster: Cluster) -> Iterator[str]:
    with empty_catalog(cluster) as dsn:
        yield dsn


@pytest.fixture
def catalog(catalog_dsn: str) -> Catalog:
    """A catalog with two shards, and a third that owns nothing."""
    catalog = catalog_at(catalog_dsn)
    catalog.register_shards(shards("shard-0", "shard-1"))
    with catalog.change() as connection:
        insert_shard(connection, *shards("shard-2", first_port=30))
    return catalog


class World:
    """Stores that live where the map leads, as `stores_of` tells it."""

    def __init__(self, catalog: Catalog, count: int) -> None:
        shard_map = catalog.load().map
        stores = [ids.new_id() for _ in range(count)]
        self.homes = {store: shard_map.route(store, sharding=True).shard for store in stores}

    def stores_of(self, shard: str) -> Sequence[UUID]:
        return [store for store, home in self.homes.items() if home == shard]

    def assert_found(self, catalog: Catalog) -> None:
        """Every store is looked for where it lives."""
        shard_map = catalog.load().map
        assert {s: shard_map.route(s, sharding=True).shard for s in self.homes} == self.homes


def with_all_three(shard_map: ShardMap) -> Placement:
    """A third of the ring for each shard."""
    now = Placement.of(shard_map)
    return replace(now, partitions=assign({shard.name: 1.0 for shard in shard_map.shards}, now.partitions))


def everything_to(shard: str) -> Placement:
    return Placement((shard,) * PARTITIONS)


def test_stores_stay_where_they_live_and_new_ones_go_to_the_new_place(catalog: Catalog) -> None:
    world, before = World(catalog, 60), catalog.load().map
    staying = change_placement(catalog, world.stores_of, with_all_three)
    after = catalog.load().map
    assert after.epoch > before.epoch
    assert [round(after.share(shard.name) * 3, 2) for shard in after.shards] == [1, 1, 1]
    world.assert_found(catalog)
    moved = {store for store in world.homes if after.unpinned(store)[0] != world.homes[store]}
    assert {after.unpinned(store)[0] for store in moved} == {"shard-2"}
    assert dict(after.pins) == {store: Pin(world.homes[store], stays=True) for store in moved}
    assert staying == len(moved) > 0
    new = World(catalog, 60)
    assert new.stores_of("shard-2")


def test_a_change_that_is_taken_back_leaves_no_pin(catalog: Catalog) -> None:
    world, before = World(catalog, 30), Placement.of(catalog.load().map)
    assert change_placement(catalog, world.stores_of, with_all_three) > 0
    assert change_placement(catalog, world.stores_of, lambda _: before) == 0
    after = catalog.load().map
    assert (Placement.of(after), dict(after.pins)) == (before, {})
    world.assert_found(catalog)


def test_the_same_again_changes_nothing_and_counts_who_still_stays(catalog: Catalog) -> None:
    world = World(catalog, 30)
    first = change_placement(catalog, world.stores_of, with_all_three)
    before = catalog.load()
    assert change_placement(catalog, world.stores_of, with_all_three) == first
    assert catalog.load() == before


def test_a_pin_that_somebody_wished_for_is_left_alone(catalog: Catalog, catalog_dsn: str) -> None:
    world = World(catalog, 20)
    pinned, elsewhere = world.stores_of("shard-0")[0], world.stores_of("shard-1")[0]
    with connect(catalog_dsn) as connection:
        connection.execute("INSERT INTO pins VALUES (%s, 'shard-0'), (%s, 'shard-0')", [pinned, elsewhere])
    world.homes[elsewhere] = "shard-0"
    staying = change_placement(catalog, world.stores_of, lambda _: everything_to("shard-2"))
    assert staying == len(world.homes) - 2
    pins = catalog.load().map.pins
    assert pins[pinned] == pins[elsewhere] == Pin("shard-0", stays=False)
    world.assert_found(catalog)


def test_a_range_leads_new_stores_and_the_others_stay(catalog: Catalog) -> None:
    world = World(catalog, 20)
    whole = Range(UUID(int=0), LAST, "shard-2")
    staying = change_placement(
        catalog, world.stores_of, lambda now: replace(Placement.of(now), ranges=(whole,))
    )
    after = catalog.load().map
    assert (staying, after.ranges) == (20, (whole,))
    assert after.route(ids.new_id(), sharding=True).reason == "range"
    world.assert_found(catalog)
    assert change_placement(catalog, world.stores_of, lambda now: replace(Placement.of(now), ranges=())) == 0
    assert catalog.load().map.ranges == ()


def test_while_sharding_is_off_everything_stays_on_the_first_shard_without_pins(catalog: Catalog) -> None:
    with catalog.change() as connection:
        turn_sharding_off(connection, 0)
    stores = [ids.new_id() for _ in range(10)]
    assert change_placement(catalog, lambda _: stores, with_all_three) == 0
    shard_map, flags = catalog.load()
    assert (flags.sharding, dict(shard_map.pins)) == (False, {})
    assert shard_map.share("shard-2") > 0.3


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(everything_to("shard-9"), id="a shard that is not there"),
        pytest.param(Placement(("shard-0",) * 7), id="half a ring"),
        pytest.param(
            Placement(
                ("shard-0",) * PARTITIONS,
                (
                    Range(UUID(int=1), UUID(int=5), "shard-0"),
                    Range(UUID(int=4), UUID(int=9), "shard-1"),
                ),
            ),
            id="ranges that overlap",
        ),
    ],
)
def test_a_placement_that_contradicts_itself_is_refused_whole(catalog: Catalog, wanted: Placement) -> None:
    before = catalog.load()
    with pytest.raises(ShardMapError):
        change_placement(catalog, World(catalog, 5).stores_of, lambda _: wanted)
    assert catalog.load() == before


def test_a_shard_that_does_not_say_which_stores_it_has_stops_the_change(catalog: Catalog) -> None:
    before = catalog.load()

    def silent(shard: str) -> Sequence[UUID]:
        raise ConnectionError(shard)

    with pytest.raises(ConnectionError):
        change_placement(catalog, silent, with_all_three)
    assert catalog.load() == before


def test_two_changes_at_once_are_made_one_after_the_other(catalog: Catalog) -> None:
    world = World(catalog, 40)

    def add_range(number: int) -> int:
        one = Range(UUID(int=number << 120), UUID(int=(number + 1) << 120), "shard-2")

        def change(now: ShardMap) -> Placement:
            return replace(Placement.of(now), ranges=(*now.ranges, one))

        return change_placement(catalog, world.stores_of, change)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add_range, range(12)))
    assert len(catalog.load().map.ranges) == 12
    world.assert_found(catalog)


def test_who_grows_the_shards_does_so_alone(catalog: Catalog) -> None:
    with one_at_a_time(catalog), pytest.raises(Conflict, match="already"), one_at_a_time(catalog):
        pass
    with one_at_a_time(catalog):
        pass


# With real stores.


@pytest.fixture(scope="module")
def place(databases: Databases) -> Iterator[Stage]:
    with stage(databases) as found:
        yield found


def stores_of(place: Stage, shard: str) -> Sequence[UUID]:
    return [row[0] for row in place.sql(shard, "SELECT store_id FROM stores")]


def swap(now: ShardMap) -> Placement:
    """Every partition to the other one of two shards."""
    names = [shard.name for shard in now.shards]
    return Placement(tuple(names[1 - index] for index in now.partitions), now.ranges)


def put_in_force(place: Stage) -> int:
    return change_placement(place.market.catalog, lambda shard: stores_of(place, shard), swap)


def test_a_store_that_is_being_made_is_not_missed(place: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change waits for it; one that begins meanwhile waits for the change, and goes to the new place."""
    market, made = place.market, list[UUID]()

    def make() -> None:
        created = stores.create_store(
            market.router,
            market.catalog,
            market.maps,
            market.credentials,
            place.scope(),
            name="Shop",
            currency="EUR",
        )
        made.append(created.store_id)

    create = market.router.create
    with ThreadPoolExecutor(2) as threads:

        def slowly(*arguments: object) -> object:
            """The map is being changed before the store is there, while its maker holds it still."""
            monkeypatch.undo()
            changing.append(threads.submit(put_in_force, place))
            until(lambda: place.catalog_sql(WAITING_FOR_MAP))
            return create(*arguments)  # type: ignore[arg-type]

        changing: list[object] = []
        monkeypatch.setattr(market.router, "create", slowly)
        make()
    make()
    shard_map = market.catalog.load().map
    first, second = (shard_map.route(store, sharding=True) for store in made)
    assert (first.reason, second.reason) == ("pin", "ring")
    for route in (first, second):
        assert route.store_id in stores_of(place, route.shard)
        place.add_product(route.store_id)


def test_a_store_on_the_move_arrives_and_is_found(cluster: Cluster) -> None:
    """A change comes in between; who asked for the store to follow the ring wishes for no pin."""
    with fresh_databases(cluster) as databases, stage(databases) as place:
        (wished, home), (following, away) = place.new_store(rows=1), place.new_store(rows=1)
        place.move(following, place.other(away))
        with place.mover():
            with slow_write(place, home, wished), slow_write(place, place.other(away), following):
                moves = [
                    move_store(place.market.catalog, wished, place.other(home), 0, stays=True),
                    unpin_store(place.market.catalog, following, 0),
                ]
                for move in moves:
                    assert move is not None
                    until_state(place, move, "verifying")
                assert put_in_force(place) == 1
            finish(place)
        assert (place.home(wished), place.home(following)) == (place.other(home), away)
        pins = place.market.catalog.load().map.pins
        assert dict(pins) == {following: Pin(away, stays=True)}
        for store in (wished, following):
            assert store in stores_of(place, place.home(store))
            place.add_product(store)


def test_a_move_is_undone_to_where_nothing_leads_any_more(place: Stage) -> None:
    store, home = place.new_store(rows=1)
    with place.mover():
        move = until_state(place, place.ask(store, place.other(home), undo_seconds=3600), "done")
        assert place.market.catalog.load().map.unpinned(store)[0] == home
        put_in_force(place)
        place.catalog_sql("UPDATE moves SET undo_asked = true WHERE id = %s", move.id)
        until_state(place, move, "rolled_back")
    finish(place)
    assert place.home(store) == home
    assert place.market.catalog.load().map.pins[store] == Pin(home, stays=True)

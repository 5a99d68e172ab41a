"""A store's move from one shard to the other, on real servers: everything arrives, nothing is left, nobody notices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from uuid import UUID

import pytest

import sql
from errors import Conflict, NotFound
from operations.moves import move_store, pin_store, unpin_store
from routing.scope import Scope
from tests.cluster_fixtures import Databases
from tests.moving import Stage, finish, slow_write, stage, until_state, writing
from tests.shard_servers import Servers, until

READ_PRODUCT = sql.query("read_product")
# Whoever drains a store: alone on the lock that its writes share.
WAITING_FOR_WRITES = """
SELECT l.pid FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
WHERE l.locktype = 'advisory' AND l.mode = 'ExclusiveLock' AND NOT l.granted AND d.datname = current_database()
"""
# Longer than any test: what the map says is only looked at again when the router asks for it.
NEVER = 3600.0


@pytest.fixture(scope="module")
def place(databases: Databases) -> Iterator[Stage]:
    with stage(databases) as found:
        yield found


def product(place: Stage, scope: Scope, store_id: UUID, product_id: UUID) -> str | None:
    """The product's document as this request sees it."""
    document: str | None = place.market.router.read(
        scope, store_id, READ_PRODUCT, {"product_id": product_id}
    )[0]
    return document


def test_a_store_moves_with_all_its_rows_and_nothing_stays_behind(place: Stage) -> None:
    store_id, source = place.new_store()
    target = place.other(source)
    before = place.rows(source, store_id)
    move = place.move(store_id, target)
    assert (move.state, move.error) == ("done", None)
    assert place.home(store_id) == target
    assert place.rows(target, store_id) == before
    assert all(before.values())
    assert place.count(source, store_id) == 0
    assert place.left_over() == []
    assert move.rows_copied == sum(map(len, before.values()))


def test_nobody_who_writes_during_a_move_sees_an_error_and_no_write_is_lost(place: Stage) -> None:
    store_id, source = place.new_store()
    other_id, _ = place.new_store()
    target = place.other(source)
    with writing(place, store_id) as made, writing(place, other_id, writers=1):
        assert place.move(store_id, target).state == "done"
        moved = len(made)
        until(lambda: len(made) > moved + 3)
    found = {row for (row,) in place.sql(target, "SELECT id FROM products WHERE store_id = %s", store_id)}
    assert set(made) <= found
    assert len(found) == len(made) + 20
    assert place.count(source, store_id) == 0


def test_a_write_under_way_goes_along(place: Stage) -> None:
    """It has passed the fence, and is not committed when writes are blocked: the switch waits for it."""
    store_id, source = place.new_store()
    with place.mover():
        with slow_write(place, source, store_id) as connection:
            until_state(place, place.ask(store_id, place.other(source)), "verifying")
            connection.execute("UPDATE products SET stock = 7 WHERE store_id = %s", [store_id])
            until(lambda: place.sql(source, WAITING_FOR_WRITES))
        finish(place)
    stock = place.sql(
        place.other(source), "SELECT DISTINCT stock FROM products WHERE store_id = %s", store_id
    )
    assert stock == [(7,)]


def test_a_store_moves_back_and_the_ring_has_it_again(place: Stage) -> None:
    store_id, source = place.new_store()
    before = place.rows(source, store_id)
    place.move(store_id, place.other(source))
    assert place.catalog_sql("SELECT shard, stays FROM pins WHERE store_id = %s", store_id) == [
        (place.other(source), False)
    ]
    assert place.move(store_id, source).state == "done"
    assert place.catalog_sql("SELECT shard FROM pins WHERE store_id = %s", store_id) == []
    assert place.rows(source, store_id) == before
    assert place.left_over() == []


def test_the_next_move_of_a_store_ends_the_time_for_undoing_the_last(place: Stage) -> None:
    store_id, source = place.new_store()
    with place.mover():
        first = until_state(place, place.ask(store_id, place.other(source), undo_seconds=3600), "done")
        assert place.count(source, store_id) > 0
        second = place.ask(store_id, source)
        until(lambda: place.found(second).tidied_at)
    assert place.found(first).tidied_at is not None
    assert (place.found(first).state, place.found(second).state) == ("done", "done")
    assert place.left_over() == []


def test_a_worker_with_the_old_map_writes_to_the_new_home(place: Stage, databases: Databases) -> None:
    store_id, source = place.new_store()
    with stage(databases, catalog_poll_seconds=NEVER) as asleep:
        asleep.add_product(store_id)
        place.move(store_id, place.other(source))
        scope = asleep.scope()
        product_id = asleep.add_product(store_id, scope)
        assert scope.route is not None
        assert scope.route.shard == place.other(source)
        assert place.count(source, store_id) == 0
        assert product(place, place.scope(), store_id, product_id)


def test_what_was_written_in_the_new_home_is_not_read_in_the_old_one(
    place: Stage, databases: Databases
) -> None:
    """By a worker with the old map, whose replicas of the old home have not heard of the departure."""
    store_id, source = place.new_store()
    place.market.catalog.set_flag("read_replicas", True)
    servers = Servers(databases.cluster)
    replicas = [node.name for node in servers.nodes if node.shard == source][1:]
    with stage(databases, catalog_poll_seconds=NEVER) as asleep:
        until(lambda: len(asleep.market.replay.shard(source).replicas) == len(replicas))
        old = asleep.add_product(store_id)
        seen = asleep.scope()
        until(lambda: product(asleep, asleep.scope(), store_id, old))
        with paused(servers, replicas), place.mover():
            until_state(place, place.ask(store_id, place.other(source), undo_seconds=30), "done")
            wrote = place.scope()
            new = place.add_product(store_id, wrote)
            # Nobody's: it may be a little old.
            assert product(asleep, seen, store_id, new) is None
            assert seen.served_by[0] in replicas
            reads = asleep.scope(positions=dict(wrote.positions))
            assert product(asleep, reads, store_id, new)
            assert reads.route is not None
            assert reads.route.shard == place.other(source)
            finish(place)
    place.market.catalog.set_flag("read_replicas", False)


def test_what_was_written_in_the_old_home_is_read_in_the_new_one(place: Stage, databases: Databases) -> None:
    """Also where its replicas have the store, but not yet the end of it."""
    store_id, source = place.new_store()
    place.market.catalog.set_flag("read_replicas", True)
    until(lambda: place.market.maps.current().flags.read_replicas)
    servers, target = Servers(databases.cluster), place.other(source)
    replicas = [node.name for node in servers.nodes if node.shard == target][1:]
    until(lambda: len(place.market.replay.shard(target).replicas) == len(replicas))
    with ExitStack() as pausing, place.mover():
        with slow_write(place, source, store_id):
            move = until_state(place, place.ask(store_id, target), "verifying")
            pausing.enter_context(paused(servers, replicas))
            wrote = place.scope()
            product_id = place.add_product(store_id, wrote)
        until_state(place, move, "done")
        until(lambda: place.market.maps.current().map.route(store_id, sharding=True).shard == target)
        reads = place.scope(positions=dict(wrote.positions))
        assert product(place, reads, store_id, product_id)
        assert reads.served_by == (databases.cluster.primary(target).name,)
        pausing.close()
        finish(place)
    place.market.catalog.set_flag("read_replicas", False)


def test_what_cannot_be_moved_is_refused(place: Stage) -> None:
    store_id, source = place.new_store()
    catalog, target = place.market.catalog, place.other(source)
    with pytest.raises(NotFound, match="no shard shard-9"):
        move_store(catalog, store_id, "shard-9", 0)
    with pytest.raises(Conflict, match="already"):
        move_store(catalog, store_id, source, 0)
    move = place.ask(store_id, target)
    others: list[Callable[[], object]] = [
        lambda: move_store(catalog, store_id, target, 0),
        lambda: pin_store(catalog, store_id, source, 0),
        lambda: unpin_store(catalog, store_id, 0),
    ]
    for refused in others:
        with pytest.raises(Conflict, match="on a move already"):
            refused()
    finish(place)
    assert place.found(move).state == "done"


def test_a_pin_moves_the_store_only_where_it_has_to(place: Stage) -> None:
    store_id, source = place.new_store()
    catalog, target = place.market.catalog, place.other(source)

    def pin() -> list[tuple[object, ...]]:
        return place.catalog_sql("SELECT shard, stays FROM pins WHERE store_id = %s", store_id)

    assert pin_store(catalog, store_id, source, 0) is None
    assert pin() == [(source, False)]
    assert unpin_store(catalog, store_id, 0) is None
    assert pin() == []
    assert pin_store(catalog, store_id, target, 0) is not None
    finish(place)
    assert (pin(), place.home(store_id)) == ([(target, False)], target)
    assert unpin_store(catalog, store_id, 0) is not None
    finish(place)
    assert (pin(), place.home(store_id)) == ([], source)
    assert place.count(source, store_id) > 0
    assert place.left_over() == []


def test_a_move_of_a_store_that_is_not_there_fails_and_leaves_nothing(place: Stage) -> None:
    store_id, source = place.new_store(rows=1)
    with place.connect(source) as connection, connection.transaction():
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute("DELETE FROM stores WHERE store_id = %s", [store_id])
    move = place.move(store_id, place.other(source))
    assert move.state == "failed"
    assert move.error is not None
    assert "does not live" in move.error
    assert place.left_over() == []
    assert place.home(store_id) == source


def test_a_move_waits_for_nobody_who_reads(place: Stage) -> None:
    """A block, however long it lasts, is not there for reads."""
    store_id, source = place.new_store()
    with place.mover(), slow_write(place, source, store_id):
        until_state(place, place.ask(store_id, place.other(source)), "verifying")
        until(
            lambda: place.sql(
                source, "SELECT id FROM moving_stores WHERE id = %s AND standing = 'blocked'", store_id
            )
        )
        assert place.market.router.read(place.scope(), store_id, sql.query("read_store"), {})
    finish(place)


@contextmanager
def paused(servers: Servers, nodes: list[str]) -> Iterator[None]:
    """Replicas that go on receiving and replay nothing."""
    for node in nodes:
        servers.sql(node, "SELECT pg_wal_replay_pause()")
    for node in nodes:
        until(partial(is_paused, servers, node))
    try:
        yield
    finally:
        for node in nodes:
            servers.sql(node, "SELECT pg_wal_replay_resume()")


def is_paused(servers: Servers, node: str) -> bool:
    return servers.sql(node, "SELECT pg_get_wal_replay_pause_state()") == [("paused",)]

"""Where a move could lose what was written: each case is an interleaving of its own, on real servers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest

import sql
from errors import Conflict
from moves import record
from moves.side import Side
from operations import moves as asked
from operations.moves import undo_move
from tests.cluster_fixtures import Databases
from tests.moving import Stage, finish, in_thread, slow_write, stage, until_state, writing
from tests.shard_servers import Servers, until

Then = Callable[[Callable[[], object]], None]
READ_PRODUCT = sql.query("read_product")
# Longer than any test.
NEVER = 3600.0
WAITS_FOR_REPLICAS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'SyncRep'"
)
WAITS_FOR_ROW = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event IN ('transactionid', 'tuple')
"""


@pytest.fixture(scope="module")
def place(databases: Databases) -> Iterator[Stage]:
    with stage(databases) as found:
        yield found


def test_a_move_that_another_one_follows_is_not_undone(place: Stage) -> None:
    """The later one begins where the earlier one has ended: were that taken back, it would tidy up the store itself."""
    store_id, source = place.new_store()
    target = place.other(source)
    with place.mover():
        first = until_state(place, place.ask(store_id, target, undo_seconds=3600), "done")
    second = place.ask(store_id, source)
    with pytest.raises(Conflict, match="another move"):
        undo_move(place.market.catalog, first.id)
    finish(place)
    assert (place.found(second).state, place.home(store_id)) == ("done", source)
    assert place.count(source, store_id) > 0
    assert place.left_over() == []


def test_a_store_whose_move_is_being_undone_is_not_moved(place: Stage) -> None:
    store_id, source = place.new_store()
    with place.mover():
        move = until_state(place, place.ask(store_id, place.other(source), undo_seconds=3600), "done")
    undo_move(place.market.catalog, move.id)
    with pytest.raises(Conflict, match="being undone"):
        place.ask(store_id, source)
    finish(place)
    assert (place.found(move).state, place.home(store_id)) == ("rolled_back", source)
    assert place.count(source, store_id) > 0


def test_a_move_to_where_the_store_lives_takes_nothing_away(place: Stage) -> None:
    """Whatever the catalog says: a shard that has the store's row in `stores` is its home."""
    store_id, source = place.new_store()
    rows = place.rows(source, store_id)
    place.catalog_sql(
        "INSERT INTO moves (id, store_id, from_shard, to_shard, route, undo_seconds)"
        " VALUES (gen_random_uuid(), %s, %s, %s, 'auto', 0)",
        store_id,
        place.other(source),
        source,
    )
    finish(place)
    assert place.catalog_sql("SELECT state FROM moves WHERE store_id = %s", store_id) == [("failed",)]
    assert place.rows(source, store_id) == rows
    place.add_product(store_id)
    assert place.left_over() == []


def test_a_truncate_by_hand_stops_the_move_and_takes_nothing_of_others(place: Stage) -> None:
    """A row filter does not hold for it: replicated, it would empty the target's table of all stores."""
    store_id, source = place.new_store()
    target = place.other(source)
    other = next(store for store, shard in iter(place.new_store, None) if shard == target)
    rows = place.rows(target, other)
    with place.mover():
        with slow_write(place, source, store_id):
            move = until_state(place, place.ask(store_id, target), "verifying")
            place.sql(source, "TRUNCATE revoked_sessions")
        move = until_state(place, move, "failed", "done")
        finish(place)
    assert move.state == "failed"
    assert place.rows(target, other) == rows


def test_nobody_reads_from_a_copy_by_an_old_map(place: Stage, databases: Databases) -> None:
    """A worker that was asleep since the store lived there: it comes back, and is behind."""
    store_id, home = place.new_store()
    with stage(databases, catalog_poll_seconds=NEVER) as asleep:
        asleep.add_product(store_id)
        elsewhere = place.other(home)
        place.move(store_id, elsewhere)
        with place.mover():
            with slow_write(place, elsewhere, store_id), place.connect(home) as applying:
                until_state(place, place.ask(store_id, home), "verifying")
                with applying.transaction():
                    applying.execute("LOCK TABLE products IN EXCLUSIVE MODE")
                    product_id = place.add_product(store_id)
                    values = {"product_id": product_id}
                    document, *_ = asleep.market.router.read(asleep.scope(), store_id, READ_PRODUCT, values)
            finish(place)
    assert document is not None


def test_an_undoing_in_doubt_is_not_begun_again(place: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalog's commit waits for its replicas when its connection is lost: it may come to be at any moment."""
    servers = Servers(place.databases.cluster)
    primary = place.databases.cluster.primary("shard-0").name
    store_id, source = place.new_store()
    with place.mover(), writing(place, store_id) as made:
        move = until_state(place, place.ask(store_id, place.other(source), undo_seconds=3600), "done")
        pin, lost = record._pin, threading.Event()

        def lose(connection: Any, *arguments: Any) -> None:
            pin(connection, *arguments)
            if lost.is_set():
                return
            servers.synchronous(primary, "ANY 1 (nobody)")

            def sever() -> None:
                until(lambda: place.catalog_sql(WAITS_FOR_REPLICAS))
                connection.sever()
                lost.set()

            in_thread(sever)

        monkeypatch.setattr(record, "_pin", lose)
        epoch = place.market.catalog.epoch()
        undo_move(place.market.catalog, move.id)
        assert lost.wait(30)
        # The mover comes back to it.
        until(lambda: len(place.catalog_sql(WAITS_FOR_REPLICAS)) + len(place.catalog_sql(WAITS_FOR_ROW)) > 1)
        servers.synchronous(primary, None)
        until_state(place, move, "rolled_back")
        undone = len(made)
        until(lambda: len(made) > undone + 10)
        finish(place)
    assert place.market.catalog.epoch() == epoch + 1  # one decision
    assert place.home(store_id) == source
    found = {row for (row,) in place.sql(source, "SELECT id FROM products WHERE store_id = %s", store_id)}
    assert set(made) <= found
    assert place.left_over() == []


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Then:
    """Have something happen when writes wait without end, before the target is asked to be ready; once."""
    hold_block = Side.hold_block

    def then(do: Callable[[], object]) -> None:
        def hold_then_do(side: Side) -> None:
            hold_block(side)
            monkeypatch.setattr(Side, "hold_block", hold_block)
            do()

        monkeypatch.setattr(Side, "hold_block", hold_then_do)

    return then


def store_on(place: Stage, wanted: str) -> UUID:
    return next(store for store, shard in iter(place.new_store, None) if shard == wanted)


def test_writes_go_on_where_the_target_goes_away_in_the_switch(place: Stage, held: Then) -> None:
    store_id, name = store_on(place, "shard-0"), place.settings.database_name
    away = threading.Event()
    allow = "ALTER DATABASE {} ALLOW_CONNECTIONS {}"

    def go_away() -> None:
        servers.sql(primary, allow.format(name, "false"))
        servers.sql(
            primary, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", name
        )
        away.set()

    servers, primary = Servers(place.databases.cluster), place.databases.cluster.primary("shard-1").name
    held(go_away)
    with place.mover():
        try:
            move = place.ask(store_id, "shard-1")
            assert away.wait(30)
            place.add_product(store_id)
            assert place.home(store_id) == "shard-0"
        finally:
            servers.sql(primary, allow.format(name, "true"))
        until_state(place, move, "done")
        finish(place)
    assert place.left_over() == []


def test_writes_go_on_where_the_target_is_not_ready_in_time(place: Stage, held: Then) -> None:
    """Its commits wait for replicas that do not answer."""
    store_id = store_on(place, "shard-0")
    servers, primary = Servers(place.databases.cluster), place.databases.cluster.primary("shard-1").name
    alone = threading.Event()

    def stay_alone() -> None:
        servers.synchronous(primary, "ANY 1 (nobody)")
        alone.set()

    held(stay_alone)
    with place.mover():
        try:
            move = place.ask(store_id, "shard-1")
            assert alone.wait(30)
            place.add_product(store_id)
            assert place.home(store_id) == "shard-0"
        finally:
            servers.synchronous(primary, None)
        until_state(place, move, "done")
        finish(place)
    assert place.left_over() == []


def test_writes_go_on_where_the_map_is_being_changed_in_the_switch(place: Stage, held: Then) -> None:
    """Whoever changes the map holds its lock for as long as it takes to ask every shard."""
    store_id, source = place.new_store()
    changing, changes = threading.Event(), place.catalog_connection()

    def change() -> None:
        changes.execute("SELECT pg_advisory_lock(7305)")
        changing.set()

    held(change)
    with place.mover():
        move = place.ask(store_id, place.other(source))
        assert changing.wait(30)
        place.add_product(store_id)
        assert place.home(store_id) == source
        changes.close()
        until_state(place, move, "done")
        finish(place)


def test_an_undoing_that_is_asked_for_in_the_switch_is_not_forgotten(place: Stage, held: Then) -> None:
    store_id, source = place.new_store()
    with place.mover():
        held(lambda: undo_move(place.market.catalog, move.id))
        move = place.ask(store_id, place.other(source), undo_seconds=3600)
        until(lambda: place.found(move).state == "rolled_back" and place.found(move).finished_at)
        finish(place)
    assert place.home(store_id) == source
    assert place.left_over() == []


def test_a_pin_is_not_set_to_where_the_store_has_just_left(
    place: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole switch happens between the look at the map and what is done by it."""
    store_id, source = place.new_store()
    target = place.other(source)
    home_of = asked._home

    def look_then_wait(connection: Any, moved: UUID) -> Any:
        found = home_of(connection, moved)
        monkeypatch.setattr(asked, "_home", home_of)
        going.set()
        gone.wait(3)
        return found

    going, gone = threading.Event(), threading.Event()
    with place.mover():
        with slow_write(place, source, store_id):
            move = until_state(place, place.ask(store_id, target), "verifying")
            monkeypatch.setattr(asked, "_home", look_then_wait)
            outcomes: list[object] = []

            def pin() -> None:
                try:
                    outcomes.append(asked.pin_store(place.market.catalog, store_id, source, 0))
                except Conflict as error:
                    outcomes.append(error)

            thread = in_thread(pin)
            assert going.wait(30)
        until(lambda: place.found(move).state == "done" or place.catalog_sql(WAITS_FOR_ROW))
        gone.set()
        thread.join()
        finish(place)
    place.add_product(store_id)
    assert isinstance(outcomes[0], Conflict)
    assert place.home(store_id) == target

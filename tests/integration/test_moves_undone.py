"""A move is taken back: before its switch, and after it with all that was written in the new home."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from uuid import UUID

import pytest

from errors import Conflict, NotFound
from moves import mover
from moves.lease import Lease
from moves.mover import Mover
from moves.replication import BACK, drop, name_of
from moves.servers import CatalogConnections, Servers
from moves.side import Side
from operations.moves import undo_move
from tests.cluster_fixtures import Databases
from tests.moving import Stage, finish, slow_write, stage, until_state, writing
from tests.shard_servers import until


@pytest.fixture(scope="module")
def place(databases: Databases) -> Iterator[Stage]:
    with stage(databases) as found:
        yield found


def products(place: Stage, shard: str, store_id: UUID) -> set[UUID]:
    return {row for (row,) in place.sql(shard, "SELECT id FROM products WHERE store_id = %s", store_id)}


def test_an_undone_move_loses_no_write_and_nobody_sees_an_error(place: Stage) -> None:
    store_id, source = place.new_store()
    target = place.other(source)
    with place.mover(), writing(place, store_id) as made:
        move = until_state(place, place.ask(store_id, target, undo_seconds=60), "done")
        moved = len(made)
        until(lambda: len(made) > moved + 50)
        place.sql(target, "UPDATE products SET stock = 3 WHERE store_id = %s AND price = 5", store_id)
        place.sql(target, "DELETE FROM revoked_sessions WHERE store_id = %s", store_id)
        assert products(place, source, store_id) >= set(made[:moved])
        undo_move(place.market.catalog, move.id)
        until_state(place, move, "rolled_back")
        undone = len(made)
        until(lambda: len(made) > undone + 10)
        until(lambda: place.found(move).tidied_at)
    assert place.home(store_id) == source
    assert products(place, source, store_id) >= set(made)
    found = place.rows(source, store_id)
    assert [row for row in found["products"] if '"stock": 3,' in row]
    assert (found["revoked_sessions"], len(found["stores"])) == ([], 1)
    assert place.catalog_sql("SELECT shard FROM pins WHERE store_id = %s", store_id) == []
    assert place.count(target, store_id) == 0
    assert place.left_over() == []


def test_undoing_puts_the_pin_back_that_there_was(place: Stage) -> None:
    store_id, source = place.new_store()
    place.catalog_sql("INSERT INTO pins (store_id, shard, stays) VALUES (%s, %s, true)", store_id, source)
    with place.mover():
        move = until_state(place, place.ask(store_id, place.other(source), undo_seconds=60), "done")
        undo_move(place.market.catalog, move.id)
        until_state(place, move, "rolled_back")
        finish(place)
    assert place.catalog_sql("SELECT shard, stays FROM pins WHERE store_id = %s", store_id) == [
        (source, True)
    ]


def test_an_undoing_that_would_lose_a_write_is_refused(place: Stage) -> None:
    """What is compared before the switch is compared before the switch back."""
    store_id, source = place.new_store()
    target = place.other(source)
    with place.mover():
        move = until_state(place, place.ask(store_id, target, undo_seconds=60), "done")
        place.sql(source, "DELETE FROM api_keys WHERE store_id = %s", store_id)
        undo_move(place.market.catalog, move.id)
        until(lambda: place.found(move).error)
        move = place.found(move)
        place.add_product(store_id)
        finish(place)
    assert move.error is not None
    assert (move.state, place.home(store_id)) == ("done", target)
    assert move.error.startswith("it could not be undone: the copies differ: api_keys: 1 rows")
    assert place.count(source, store_id) == 0
    assert place.left_over() == []


def test_who_cannot_undo_any_more_is_told_before_he_asks(
    place: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failover of the new home, which leaves no slot."""
    monkeypatch.setattr(mover, "WATCH_SECONDS", 0.1)
    store_id, source = place.new_store()
    target = place.other(source)
    with place.mover():
        move = until_state(place, place.ask(store_id, target, undo_seconds=60), "done")
        assert place.found(move).error is None
        shard_map = place.market.maps.current().map
        with closing(Servers(place.databases.settings).connect(shard_map, target)) as connection:
            drop(Side(connection, target, move, 0), "slot", name_of(move, BACK))
        until(lambda: place.found(move).tidied_at)
    move = place.found(move)
    assert move.error == f"it cannot be undone any more: {target} has lost the slot, as after a failover"
    assert (move.state, place.home(store_id)) == ("done", target)
    assert place.count(source, store_id) == 0
    assert place.left_over() == []


def test_a_move_is_taken_back_before_its_switch(place: Stage) -> None:
    store_id, source = place.new_store()
    target = place.other(source)
    before = place.rows(source, store_id)
    with place.mover():
        with slow_write(place, source, store_id):
            move = until_state(place, place.ask(store_id, target), "verifying")
            undo_move(place.market.catalog, move.id)
            move = until_state(place, move, "rolled_back")
        finish(place)
    assert move.error == "taken back before the switch"
    assert place.home(store_id) == source
    assert place.rows(source, store_id) == before
    assert place.count(target, store_id) == 0
    assert place.left_over() == []


def test_what_is_over_cannot_be_undone(place: Stage) -> None:
    store_id, source = place.new_store()
    move = place.move(store_id, place.other(source))
    with pytest.raises(Conflict, match="cannot be undone"):
        undo_move(place.market.catalog, move.id)
    with pytest.raises(NotFound):
        undo_move(place.market.catalog, store_id)


def test_there_is_one_mover_at_a_time(place: Stage) -> None:
    store_id, source = place.new_store()
    with place.mover(), slow_write(place, source, store_id):
        until_state(place, place.ask(store_id, place.other(source)), "verifying")
        assert Mover(place.settings).run() is False
    finish(place)


def takes_over(place: Stage, lease: Lease) -> bool:
    """Whether another mover does, which takes the lease of the first: unless that one renews it just then."""
    place.catalog_sql("UPDATE mover SET until = '-infinity'")
    return lease.take()


def test_a_mover_whose_lease_was_taken_over_does_nothing_more(place: Stage) -> None:
    """As one that was frozen: another one has the higher term, and the store's standing on both shards."""
    store_id, source = place.new_store()
    target = place.other(source)
    with place.mover() as first:
        with slow_write(place, source, store_id):
            move = until_state(place, place.ask(store_id, target), "verifying")
            connections = CatalogConnections(place.databases.settings)
            later = Lease(connections)
            until(partial(takes_over, place, later))
        first.join()
    assert place.found(move).state == "verifying"
    assert place.home(store_id) == source
    later.release()
    connections.close()
    finish(place)
    assert place.found(move).state == "done"
    assert place.home(store_id) == target
    assert place.left_over() == []


def test_a_stopped_mover_is_followed_by_the_next(place: Stage) -> None:
    store_id, source = place.new_store()
    with slow_write(place, source, store_id):
        with place.mover():
            move = until_state(place, place.ask(store_id, place.other(source)), "verifying")
        assert place.found(move).is_undecided
    finish(place)
    assert place.found(move).state == "done"
    assert place.found(move).attempt == 2
    assert place.left_over() == []

"""What the comparison before a switch finds: the move stops, says so, and the store is as it was."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest

from moves import switch
from moves.errors import MoveInterrupted
from moves.switch import Handover
from tests.cluster_fixtures import Databases
from tests.moving import Stage, finish, in_thread, slow_write, stage, until_state, writing
from tests.shard_servers import until

TITLE = "UPDATE products SET title = 'Nug' || substr(title, 4) WHERE store_id = %(store)s AND price = 3"
# Each keeps the price by which the others are told apart.
SWAP = """
UPDATE products AS p SET title = o.title, attributes = o.attributes
FROM products AS o
WHERE p.store_id = %(store)s AND o.store_id = p.store_id AND (p.price, o.price) IN ((3, 4), (4, 3))
"""
# As by a client that goes past the fence, to where the store does not live yet.
SNEAKED = (
    "UPDATE products SET stock = stock - 1, version = version + 1 WHERE store_id = %(store)s AND price = 3"
)
EXTRA = """
INSERT INTO order_items SELECT store_id, order_id, 2, product_id, title, unit_price, quantity FROM order_items
WHERE store_id = %(store)s ORDER BY order_id LIMIT 1
"""
MISSING = """
DELETE FROM revoked_sessions
WHERE store_id = %(store)s
    AND session_id = (SELECT session_id FROM revoked_sessions WHERE store_id = %(store)s ORDER BY 1 LIMIT 1)
"""
# 1.0 and 1.00 are equal to jsonb.
SCALE = """UPDATE products SET attributes = '{"n": 3.00}' WHERE store_id = %(store)s AND price = 3"""


@pytest.fixture(scope="module")
def place(databases: Databases) -> Iterator[Stage]:
    with stage(databases) as found:
        yield found


@pytest.mark.parametrize(
    ("change", "table"),
    [
        pytest.param(TITLE, "products: 20 rows", id="a-flipped-byte"),
        pytest.param(SCALE, "products: 20 rows", id="a-number-of-another-scale"),
        pytest.param(MISSING, "revoked_sessions: 20 rows on {source}, 19", id="a-missing-row"),
        pytest.param(EXTRA, "order_items: 20 rows on {source}, 21", id="an-extra-row"),
        pytest.param(SWAP, "products: 20 rows", id="two-rows-swapped"),
        pytest.param(SNEAKED, "products: 20 rows", id="a-write-that-sneaked-in"),
    ],
)
def test_a_copy_that_differs_stops_the_move(place: Stage, change: str, table: str) -> None:
    store_id, source = place.new_store()
    target = place.other(source)
    before = place.rows(source, store_id)
    with place.mover():
        with slow_write(place, source, store_id):
            move = until_state(place, place.ask(store_id, target), "verifying")
            with place.connect(target) as connection:
                assert connection.execute(change, {"store": store_id}).rowcount > 0
        move = until_state(place, move, "failed", "done")
        place.add_product(store_id)  # at once: writes pass again
        finish(place)
    assert move.state == "failed"
    assert move.error is not None
    assert move.error.startswith("the copies differ: ")
    assert table.format(source=source) in move.error
    assert place.home(store_id) == source
    found = place.rows(source, store_id)
    assert {name: rows for name, rows in found.items() if name != "products"} == {
        name: rows for name, rows in before.items() if name != "products"
    }
    assert set(before["products"]) < set(found["products"])
    assert place.count(target, store_id) == 0
    assert place.left_over() == []


def test_a_change_that_never_replicated_stops_the_move(place: Stage) -> None:
    """The other way round: the source has what the target has not."""
    store_id, source = place.new_store()
    target = place.other(source)
    with place.mover():
        with slow_write(place, source, store_id):
            move = until_state(place, place.ask(store_id, target), "verifying")
            with place.connect(source) as connection, as_if_replicated(connection):
                connection.execute(SNEAKED, {"store": store_id})
        move = until_state(place, move, "failed", "done")
        finish(place)
    assert (move.state, place.home(store_id)) == ("failed", source)
    assert place.count(target, store_id) == 0
    assert place.left_over() == []


def test_what_cannot_be_applied_stops_the_move(place: Stage) -> None:
    """A row that is on the target already, with the key of one that comes."""
    store_id, source = place.new_store()
    target = place.other(source)
    with place.mover():
        with slow_write(place, source, store_id):
            move = until_state(place, place.ask(store_id, target), "verifying")
            customer = (store_id, "01890000-0000-7000-8000-000000000000", "a@example.com", "A", "x")
            insert = "INSERT INTO customers VALUES (%s, %s, %s, %s, %s, now())"
            with place.connect(target) as connection, connection.transaction():
                connection.execute("SET LOCAL session_replication_role = replica")  # no store lives there yet
                connection.execute(insert, customer)
            place.sql(source, insert, *customer)
        move = until_state(place, move, "failed", "done")
        finish(place)
    assert move.state == "failed"
    assert move.error is not None
    assert "could not apply" in move.error
    assert place.count(target, store_id) == 0
    assert place.left_over() == []


DELETE_AND_INSERT = """
WITH gone AS (
    DELETE FROM revoked_sessions AS r WHERE store_id = %(store)s
        AND session_id = (SELECT session_id FROM revoked_sessions WHERE store_id = %(store)s ORDER BY 1 LIMIT 1)
    RETURNING r.store_id, r.expires_at
)
INSERT INTO revoked_sessions SELECT store_id, gen_random_uuid(), expires_at FROM gone
"""


# Which copy is changed. `EVERY_DEED=1` takes both.
SIDES = [pytest.param(False, id="target")]
if os.environ.get("EVERY_DEED"):
    SIDES.append(pytest.param(True, id="source"))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(TITLE, id="a-flipped-byte"),
        pytest.param(SCALE, id="a-number-of-another-scale"),
        pytest.param(MISSING, id="a-missing-row"),
        pytest.param(EXTRA, id="an-extra-row"),
        pytest.param(SWAP, id="two-rows-swapped"),
        pytest.param(SNEAKED, id="a-write-that-sneaked-in"),
        pytest.param(DELETE_AND_INSERT, id="a-row-with-another-key"),
    ],
)
@pytest.mark.parametrize("on_source", SIDES)
def test_what_happens_after_the_great_comparison_is_found_in_the_switch(
    place: Stage, monkeypatch: pytest.MonkeyPatch, change: str, on_source: bool
) -> None:
    """Both copies were the same; only what is written since then is compared while writes wait."""
    store_id, source = place.new_store()
    target = place.other(source)
    run = Handover.run

    def corrupt_then_run(handover: Handover, home_row: Any) -> Any:
        assert handover.baseline is not None
        with place.connect(source if on_source else target) as connection, as_if_replicated(connection):
            assert connection.execute(change, {"store": store_id}).rowcount > 0
        return run(handover, home_row)

    monkeypatch.setattr(Handover, "run", corrupt_then_run)
    move = place.move(store_id, target)
    assert move.state == "failed"
    assert move.error is not None
    assert move.error.startswith("the copies differ: ")
    assert place.home(store_id) == source
    place.add_product(store_id)
    assert place.count(target, store_id) == 0
    assert place.left_over() == []


def test_a_difference_proves_nothing_once_the_block_is_over(
    place: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the mover was frozen, or its old home was and has been failed over: writes have passed."""
    store_id, source = place.new_store()
    target = place.other(source)
    compare = Handover._compare
    differed: list[MoveInterrupted] = []

    def compare_late(handover: Handover) -> None:
        if differed:
            return compare(handover)
        blocked = "SELECT id FROM moving_stores WHERE id = %s AND standing = 'blocked' AND until > clock_timestamp()"
        until(lambda: not place.sql(source, blocked, store_id))
        with place.connect(target) as connection, as_if_replicated(connection):
            connection.execute(EXTRA, {"store": store_id})
        try:
            compare(handover)
        except MoveInterrupted as error:
            differed.append(error)
            monkeypatch.setattr(switch, "BLOCK_SECONDS", 3.0)
            raise
        finally:
            with place.connect(target) as connection, as_if_replicated(connection):
                connection.execute("DELETE FROM order_items WHERE store_id = %s AND line = 2", [store_id])

    monkeypatch.setattr(Handover, "_compare", compare_late)
    monkeypatch.setattr(switch, "BLOCK_SECONDS", 0.5)
    move = place.move(store_id, target)
    assert move.error is None
    assert (move.state, move.attempt) == ("done", 1)
    assert len(differed) == 1
    assert place.home(store_id) == target


def test_a_switch_compares_only_what_was_written_since(place: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under all kinds of writes, none of which looks like a difference."""
    store_id, source = place.new_store()
    compared = []

    def whole_digest(*arguments: Any) -> Any:
        compared.append(arguments)
        return {}

    monkeypatch.setattr(switch, "whole_digest", whole_digest)
    over = threading.Event()
    refused: set[str | None] = set()

    def change() -> None:
        with psycopg.connect(place.databases.dsn(source), autocommit=True) as connection:
            while not over.is_set():
                try:
                    with connection.transaction():
                        connection.execute("SELECT fence_store(%s, 1000000)", [store_id])
                        connection.execute(
                            "UPDATE products SET stock = stock + 1 WHERE store_id = %s AND price IN (2, 3)",
                            [store_id],
                        )
                        connection.execute(EXTRA + "ON CONFLICT DO NOTHING", {"store": store_id})
                        connection.execute(
                            "DELETE FROM order_items WHERE store_id = %s AND line = 2", [store_id]
                        )
                except psycopg.DatabaseError as error:
                    refused.add(error.sqlstate)

    with writing(place, store_id):
        thread = in_thread(change)
        assert place.move(store_id, place.other(source)).state == "done"
        over.set()
        thread.join()
    assert compared == []
    assert refused <= {"SE001", "SE004"}
    assert place.left_over() == []


def test_a_row_is_new_by_the_snapshot_and_not_by_its_number(place: Stage) -> None:
    """A transaction that is older than the snapshot and was under way: what it wrote is new. One that is younger than
    that and was over: not."""
    store_id, shard = place.new_store(rows=0)
    insert = "INSERT INTO revoked_sessions VALUES (%s, %s, now())"
    with place.connect(shard) as older, older.transaction():
        older.execute(insert, [store_id, UUID(int=1)])
        place.sql(shard, insert, store_id, UUID(int=2))
        ((since,),) = place.sql(shard, "SELECT pg_current_snapshot()::text")
    place.sql(shard, insert, store_id, UUID(int=3))
    is_new = """
    SELECT written_since(xmin, %s::pg_snapshot) FROM revoked_sessions WHERE store_id = %s ORDER BY session_id
    """
    assert place.sql(shard, is_new, since, store_id) == [(True,), (False,), (True,)]


@contextmanager
def as_if_replicated(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Writes that are marked as come by replication, and so not sent on."""
    connection.execute("SELECT pg_replication_origin_create('test')")
    connection.execute("SELECT pg_replication_origin_session_setup('test')")
    yield
    connection.execute("SELECT pg_replication_origin_session_reset()")
    connection.execute("SELECT pg_replication_origin_drop('test')")


def test_which_rows_there_are_is_compared_too(place: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """On each side another row has gone: as many as before, and none is new."""
    store_id, source = place.new_store()
    target = place.other(source)
    run = Handover.run

    def corrupt_then_run(handover: Handover, home_row: Any) -> Any:
        for shard, order in ((source, "ASC"), (target, "DESC")):
            with place.connect(shard) as connection, as_if_replicated(connection):
                connection.execute(MISSING.replace("ORDER BY 1", f"ORDER BY 1 {order}"), {"store": store_id})
        return run(handover, home_row)

    monkeypatch.setattr(Handover, "run", corrupt_then_run)
    move = place.move(store_id, target)
    assert move.state == "failed"
    assert (
        move.error
        == f"the copies differ: revoked_sessions: 19 rows on {source}, 19 on {target}, of other content"
    )
    assert place.left_over() == []

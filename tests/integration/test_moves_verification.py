"""What the comparison before a switch finds: the move stops, says so, and the store is as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster_fixtures import Databases
from tests.moving import Stage, finish, slow_write, stage, until_state

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
            with place.connect(source) as connection:
                # Marked as come by replication, and so not sent on.
                connection.execute("SELECT pg_replication_origin_create('test')")
                connection.execute("SELECT pg_replication_origin_session_setup('test')")
                connection.execute(SNEAKED, {"store": store_id})
                connection.execute("SELECT pg_replication_origin_session_reset()")
                connection.execute("SELECT pg_replication_origin_drop('test')")
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
            place.sql(target, insert, *customer)
            place.sql(source, insert, *customer)
        move = until_state(place, move, "failed", "done")
        finish(place)
    assert move.state == "failed"
    assert move.error is not None
    assert "could not apply" in move.error
    assert place.count(target, store_id) == 0
    assert place.left_over() == []

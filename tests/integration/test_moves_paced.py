"""What a move costs everybody else: its work in slices, a fence where nobody queues, and an end where it cannot win."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL

from moves import copying, drive, pace, verification
from moves.pace import COMPARED, DELETED, Pace
from moves.slices import slices
from moves.tables import tables_of
from pools.connection import ShardConnection
from tests.cluster_fixtures import Databases
from tests.moving import TABLES, Stage, finish, in_thread, slow_write, stage, until_state
from tests.shard_servers import until

ROWS, SLICE = 20, 7
CUSTOMER = "INSERT INTO customers VALUES (%s, '01890000-0000-7000-8000-000000000000', 'a@example.com', 'A', 'x', now())"


@pytest.fixture(scope="module")
def place(databases: Databases) -> Iterator[Stage]:
    with stage(databases) as found:
        yield found


@pytest.fixture
def work(place: Stage, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What each slice of the mover's work was, as its pace is told; slices are small."""
    done: list[float] = []
    monkeypatch.setattr(Pace, "_rest", lambda _pace, _began, rows: done.append(rows))
    monkeypatch.setattr(place, "settings", replace(place.settings, move_rows_per_second=1.0))
    monkeypatch.setattr(pace, "SLICE_ROWS", SLICE)
    monkeypatch.setattr(drive, "SLICE_ROWS", SLICE)
    monkeypatch.setattr(verification, "COMPARED_ROWS", SLICE)
    return done


def test_a_store_is_copied_compared_and_deleted_in_slices(place: Stage, work: list[float]) -> None:
    store_id, source = place.new_store(ROWS)
    target = place.other(source)
    before = place.rows(source, store_id)
    with place.mover():
        until_state(place, place.ask(store_id, target, undo_seconds=3600), "done")
        for table in TABLES:
            counts = place.sql(
                target,
                f"SELECT count(*) FROM {table} WHERE store_id = %s GROUP BY xmin",  # noqa: S608
                store_id,
            )
            assert max(count for (count,) in counts) <= SLICE, f"{table}: as many in one transaction"
        finish(place)
    assert max(work) == SLICE
    copied = sum(len(rows) for table, rows in before.items() if table != "stores")
    assert sum(work) == pytest.approx(copied * (1 + 2 * COMPARED + DELETED))
    assert place.rows(target, store_id) == before
    assert place.count(source, store_id) == 0


def test_each_row_is_in_one_slice(place: Stage) -> None:
    """Also where a key has several columns, and neighbours in it."""
    store_id, shard = place.new_store(ROWS)
    place.new_store(ROWS)
    place.sql(
        shard,
        "INSERT INTO order_items SELECT store_id, order_id, n, product_id, title, 1, 1 FROM order_items, "
        "generate_series(2, 4) AS n WHERE store_id = %s",
        store_id,
    )
    dsn = place.databases.dsn(shard, administrator=True)
    with closing(ShardConnection.connect(dsn, autocommit=True)) as connection:
        for table in tables_of(connection):
            found = [
                [
                    row
                    for (row,) in connection.execute(
                        SQL("SELECT ctid::text FROM {} WHERE {}").format(table.identifier, where)
                    )
                ]
                for where in slices(connection, table, store_id, lambda: SLICE)
            ]
            whole = SQL("SELECT ctid::text FROM {} WHERE store_id = {}").format(table.identifier, store_id)
            everything = connection.execute(whole).fetchall()
            assert all(len(rows) == SLICE for rows in found[:-1])
            assert len(found[-1]) <= SLICE
            assert sorted(row for rows in found for row in rows) == sorted(row for (row,) in everything)


BLOCK = "INSERT INTO moving_stores VALUES (%s, gen_random_uuid(), 1, 'blocked', now() + interval '1 hour')"
ALONE = "SELECT pg_advisory_xact_lock(uuid_hash_extended(%s, 0))"
FENCE = "SELECT fence_store(%s, 1000000)"
WAITING = """
SELECT l.mode FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
WHERE l.locktype = 'advisory' AND NOT l.granted AND d.datname = current_database()
"""


def test_a_write_of_a_store_that_is_drained_is_refused_and_does_not_queue(place: Stage) -> None:
    store_id, shard = place.new_store(rows=0)
    with place.connect(shard) as drains, place.connect(shard) as comes, place.connect(shard) as late:
        comes.execute("SET lock_timeout = '20s'")
        with slow_write(place, shard, store_id):
            place.sql(shard, BLOCK, store_id)
            drain = in_thread(lambda: drains.execute(ALONE, [store_id]))
            until(lambda: place.sql(shard, WAITING) == [("ExclusiveLock",)])
            with pytest.raises(psycopg.DatabaseError, match="is changing its shard") as refused:
                comes.execute(FENCE, [store_id])
        drain.join()
        assert refused.value.sqlstate == "SE004"
        with pytest.raises(psycopg.DatabaseError, match="is changing its shard"):
            late.execute(FENCE, [store_id])
        place.sql(shard, "DELETE FROM moving_stores WHERE id = %s", store_id)
        late.execute(FENCE, [store_id])


def test_a_write_waits_for_a_moment_in_which_there_are_none(place: Stage) -> None:
    """As when both copies are looked at: the store is not blocked, and nobody is refused."""
    store_id, shard = place.new_store(rows=0)
    with place.connect(shard) as comes:
        with place.connect(shard) as looks, looks.transaction():
            looks.execute(ALONE, [store_id])
            write = in_thread(lambda: comes.execute(FENCE, [store_id]))
            until(lambda: place.sql(shard, WAITING) == [("ShareLock",)])
        write.join()
        with pytest.raises(psycopg.DatabaseError) as refused:
            comes.execute("SELECT fence_store(%s, 0)", [store_id])
        assert refused.value.sqlstate == "SE001"


def test_a_copy_that_does_not_catch_up_ends_the_move(place: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first attempt, for another one would begin further behind; the store is as it was."""
    store_id, source = place.new_store(ROWS)
    target = place.other(source)

    def copy_then_write(*arguments: Any, **options: Any) -> int:
        copied = copying.copy_rows(*arguments, **options)
        place.sql(source, CUSTOMER, store_id)
        return copied

    monkeypatch.setattr(drive, "copy_rows", copy_then_write)
    monkeypatch.setattr(drive, "CATCH_UP_SECONDS", 0.0)
    monkeypatch.setattr(drive, "MARK_SECONDS", 0.2)
    with place.connect(target) as connection, connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute(
            CUSTOMER, [store_id]
        )  # whoever applies the same row waits for what becomes of this one
        move = place.move(store_id, target)
    assert move.state == "failed"
    assert move.error is not None
    assert move.error.startswith(f"the store is written faster than {target} follows: ")
    assert move.attempt == 1
    assert place.home(store_id) == source
    place.add_product(store_id)
    assert place.count(target, store_id) == 0
    assert place.left_over() == []

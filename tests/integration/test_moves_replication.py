"""Slots and publications as they come and go on a shard where others write, and a mover that is no mover any more."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest
from psycopg.sql import SQL, Identifier

from moves import process, replication
from moves.errors import MoverReplaced
from moves.process import MoverProcess
from moves.record import Move, Record, Resource
from moves.replication import FORTH, Snapshot, name_of
from moves.servers import Servers
from moves.side import Side
from moves.tables import tables_of
from tests.cluster_fixtures import Databases
from tests.moving import Stage, in_thread, stage
from tests.shard_servers import until

SLOTS = "SELECT slot_name FROM pg_replication_slots WHERE slot_name = %s"


@pytest.fixture(scope="module")
def place(databases: Databases) -> Iterator[Stage]:
    with stage(databases) as found:
        yield found


@contextmanager
def at_the_source(place: Stage) -> Iterator[tuple[Record, Move, Side]]:
    """A move that has begun, at its source; nothing of it is left in the end."""
    store_id, source = place.new_store()
    move = place.ask(store_id, place.other(source))
    record = Record(place.market.catalog, place.catalog_sql("SELECT term FROM mover")[0][0])
    with closing(Servers(place.databases.settings).connect(record.shard_map(), source)) as connection:
        side = Side(connection, source, move, record.term)
        record.register(move, Resource(source, "mark", store_id.hex))
        side.claim("home")
        yield record, move, side
    assert place.found(move).state == "copying"
    record.failed(move, "only tried")
    with place.mover():
        until(lambda: place.found(move).tidied_at)
    assert place.left_over() == []


@contextmanager
def catalogs_change(place: Stage, shard: str) -> Iterator[None]:
    """Tables that come and go, which a slot has to know of."""
    over = threading.Event()

    def change() -> None:
        with place.connect(shard) as connection:
            table = Identifier(f"passing_{threading.get_ident()}")
            while not over.is_set():
                with connection.transaction():
                    connection.execute(SQL("CREATE TABLE {} (id integer)").format(table))
                    over.wait(0.01)
                    connection.execute(SQL("DROP TABLE {}").format(table))

    threads = [in_thread(change) for _ in range(2)]
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_a_slot_begins_while_catalogs_change(place: Stage) -> None:
    with at_the_source(place) as (record, move, side), catalogs_change(place, side.shard):
        name = name_of(move, FORTH)
        for _ in range(15):
            replication.make_slot(record, move, side, name)
            replication.drop(side, "slot", name)


def test_a_publication_goes_when_the_writes_that_may_have_seen_it_have_ended(
    place: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replication, "WRITES_SECONDS", 60.0)
    with at_the_source(place) as (record, move, side):
        name = name_of(move, FORTH)
        replication.publish(record, move, side, name, tables_of(side.connection))
        with place.connect(side.shard) as writer, writer.transaction():
            writer.execute("UPDATE products SET price = 2 WHERE store_id = %s", [move.store_id])
            drop = in_thread(lambda: replication.drop(side, "publication", name))
            until(lambda: not place.sql(side.shard, "SELECT prrelid FROM pg_publication_rel"))
            assert place.sql(side.shard, "SELECT pubname FROM pg_publication") == [(name,)]
            assert drop.is_alive()
        drop.join()
        assert place.sql(side.shard, "SELECT pubname FROM pg_publication") == []


def test_a_mover_that_was_replaced_leaves_no_slot(place: Stage) -> None:
    with at_the_source(place) as (record, move, side):
        older = Side(side.connection, side.shard, move, record.term - 1)
        servers = Servers(place.databases.settings)
        name = name_of(move, FORTH)
        with pytest.raises(MoverReplaced):
            Snapshot(servers, record.shard_map(), older, name)
        assert place.sql(side.shard, SLOTS, name) == []
        with Snapshot(servers, record.shard_map(), side, name):
            assert place.sql(side.shard, SLOTS, name) == [(name,)]
        record.register(move, Resource(side.shard, "slot", name))


def test_a_mover_that_is_frozen_is_replaced_by_whoever_started_it(
    place: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "IDLE_SECONDS", 0.0)
    store_id, source = place.new_store()
    move = place.ask(store_id, place.other(source))
    settings = replace(place.databases.settings, catalog_poll_seconds=1.0)
    starter = MoverProcess(settings, place.market.catalog)
    try:
        starter.look()
        assert starter._process is not None
        frozen = starter._process.pid
        os.kill(frozen, signal.SIGSTOP)

        def is_replaced() -> bool:
            starter.look()
            return starter._process is not None and starter._process.pid != frozen

        until(is_replaced)
        starter.wait()
    finally:
        starter.stop()
    assert place.found(move).state == "done"
    assert place.left_over() == []
    with pytest.raises(ProcessLookupError):
        os.kill(frozen, 0)

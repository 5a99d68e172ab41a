"""`flask shards move`, `undo` and `mover`; and a migration, which no move meets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID

import pytest

from devcluster.cluster import Cluster
from moves.mover import Mover
from tests.cluster_fixtures import Databases, fresh_databases
from tests.commandline import ROOT, assert_refused, environment, flask
from tests.moving import Stage, finish, slow_write, stage, until_state
from tests.shard_servers import until


@pytest.fixture(scope="module")
def place(databases: Databases) -> Iterator[Stage]:
    with stage(databases) as found:
        yield found


def test_a_store_is_moved_and_what_becomes_of_it_is_shown(place: Stage) -> None:
    store_id, source = place.new_store()
    target = place.other(source)
    settings = replace(place.settings, move_undo_seconds=0.5)
    answer = flask(settings, "shards", "move", str(store_id), target)
    assert answer.returncode == 0, answer.stderr
    first, undo, *_ = answer.stdout.splitlines()
    rows = place.count(target, store_id)
    assert first.startswith(f"{store_id} lives on {target}: {rows} rows, its writers waited ")
    assert undo.startswith("For 0.5 s it can be undone: flask shards undo ")
    for step in ("copying: copies its rows", "tidied up"):
        assert step in answer.stderr
    assert place.home(store_id) == target
    assert place.left_over() == []


def test_what_cannot_be_moved_is_refused_in_one_line(place: Stage) -> None:
    store_id, source = place.new_store()
    target = place.other(source)
    assert_refused(flask(place.settings, "shards", "move", str(store_id), "shard-9"), "no shard shard-9")
    assert_refused(flask(place.settings, "shards", "move", str(store_id), source), "lives on", "already")
    assert_refused(flask(place.settings, "shards", "move", str(UUID(int=7)), target), "no store")
    assert_refused(flask(place.settings, "shards", "undo", str(UUID(int=7))), "no such move")


def test_a_store_in_other_hands_is_waited_for(place: Stage) -> None:
    store_id, source = place.new_store(rows=1)
    target = place.other(source)
    place.sql(target, "INSERT INTO moving_stores VALUES (%s, %s, 1, 'home')", store_id, store_id)
    try:
        with place.mover():
            move = place.ask(store_id, target)
            until(lambda: "another move" in place.found(move).step)
    finally:
        place.sql(target, "DELETE FROM moving_stores")
    finish(place)
    assert place.home(store_id) == target


def test_a_move_is_undone(place: Stage) -> None:
    store_id, source = place.new_store()
    with place.mover():
        move = until_state(place, place.ask(store_id, place.other(source), undo_seconds=60), "done")
        answer = flask(place.settings, "shards", "undo", str(move.id))
    assert answer.stdout == f"{store_id} lives on {source} again.\n"
    assert place.home(store_id) == source
    assert_refused(flask(place.settings, "shards", "undo", str(move.id)), "rolled_back", "cannot be undone")
    finish(place)


def test_work_that_nobody_does_is_told(place: Stage) -> None:
    assert flask(place.settings, "shards", "mover", "--check").returncode == 0
    store_id, source = place.new_store(rows=1)
    place.ask(store_id, place.other(source))
    assert_refused(flask(place.settings, "shards", "mover", "--check"), "no mover is at work")
    finish(place)


def test_a_mover_of_its_own_drives_what_others_ask_for(place: Stage) -> None:
    store_id, source = place.new_store()
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "app", "shards", "mover"],
        cwd=ROOT,
        env={**os.environ, **environment(place.settings)},
    )
    try:
        move = until_state(place, place.ask(store_id, place.other(source)), "done")
        until(lambda: place.found(move).tidied_at)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert place.left_over() == []


LAST = "version = (SELECT max(version) FROM schema_migrations)"
PENDING = f"DELETE FROM schema_migrations WHERE {LAST}"  # noqa: S608


def test_a_migration_and_a_move_exclude_each_other(place: Stage) -> None:
    store_id, source = place.new_store()
    rows = place.sql(
        source,
        f"SELECT version, name, checksum, duration_ms FROM schema_migrations WHERE {LAST}",  # noqa: S608
    )
    with place.mover():
        with slow_write(place, source, store_id):
            until_state(place, place.ask(store_id, place.other(source)), "verifying")
            # Nothing is to be applied: that is no migration.
            assert flask(place.settings, "shards", "migrate").returncode == 0
            place.sql(source, PENDING)
            assert_refused(flask(place.settings, "shards", "migrate"), str(store_id), "on the move")
            place.sql(source, "INSERT INTO schema_migrations VALUES (%s, %s, %s, now(), %s)", *rows[0])
        finish(place)
    migrating = place.catalog_connection()
    migrating.execute("SELECT pg_advisory_lock(7306)")
    place.ask(store_id, source)
    assert Mover(place.settings).run() is False
    migrating.close()
    finish(place)
    assert place.home(store_id) == source


def test_stores_are_gathered_and_sharding_goes_off_and_on(cluster: Cluster) -> None:
    with fresh_databases(cluster) as databases, stage(databases) as place:
        stores = [place.new_store(rows=1) for _ in range(3)]
        while {shard for _, shard in stores} != {"shard-0", "shard-1"}:
            stores.append(place.new_store(rows=1))
        elsewhere = [store for store, shard in stores if shard == "shard-1"]
        assert_refused(flask(place.settings, "flags", "set", "sharding", "off"), "flask shards gather")
        answer = flask(place.settings, "shards", "gather")
        assert answer.stdout == f"Every store lives on shard-0: {len(elsewhere)} moved there.\n", (
            answer.stderr
        )
        assert {place.home(store) for store, _ in stores} == {"shard-0"}
        assert place.sql("shard-1", "SELECT store_id FROM stores") == []
        # Nobody's wish: a rebalance may move them on.
        assert place.catalog_sql("SELECT DISTINCT stays FROM pins") == [(True,)]
        assert place.left_over() == []
        assert flask(place.settings, "flags", "set", "sharding", "off").returncode == 0
        assert flask(place.settings, "flags", "set", "sharding", "on").returncode == 0
        assert {place.home(store) for store, _ in stores} == {"shard-0"}
        assert (
            flask(place.settings, "shards", "gather").stdout
            == "Every store lives on shard-0: 0 moved there.\n"
        )

"""A server that goes away in the middle of a move, and a mover that is frozen: nothing is lost or left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

import psycopg
import pytest

import sql
from errors import Unavailable
from tests.cluster_fixtures import ROOT, Databases, as_environment, fresh_databases
from tests.commandline import flask
from tests.moving import Stage, finish, slow_write, stage, until_state
from tests.shard_servers import Servers, running_servers, until

READ_STORE = sql.query("read_store")
# Longer than any test: the map is only looked at when the router asks for it.
NEVER = 3600.0


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with running_servers(shards=2, replicas=2) as servers:
        yield servers


@pytest.fixture(scope="module")
def databases(servers: Servers) -> Iterator[Databases]:
    with fresh_databases(servers.cluster) as databases:
        yield databases


@pytest.fixture(scope="module")
def place(databases: Databases) -> Iterator[Stage]:
    with stage(databases) as found:
        yield found


def store_on(place: Stage, shard: str) -> UUID:
    while True:
        store_id, home = place.new_store()
        if home == shard:
            return store_id


@contextmanager
def mover_process(place: Stage) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "moves"],
        cwd=ROOT,
        env={**os.environ, **as_environment(place.settings)},
        stdin=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_mover_that_was_frozen_does_nothing_when_it_wakes(place: Stage) -> None:
    """It stands in the middle of a switch; another one takes over, and finishes; then it goes on."""
    store_id = store_on(place, "shard-0")
    with mover_process(place) as mover:
        with slow_write(place, "shard-0", store_id):
            move = until_state(place, place.ask(store_id, "shard-1"), "verifying")
            until(
                lambda: place.sql(
                    "shard-0", "SELECT id FROM moving_stores WHERE standing = 'blocked' AND until > now()"
                )
            )
            mover.send_signal(signal.SIGSTOP)
        place.add_product(store_id)  # waits until the block is over, and no longer
        # Its lease runs out by itself.
        until(lambda: place.catalog_sql("SELECT term FROM mover WHERE until < clock_timestamp()"))
        with place.mover():
            until_state(place, move, "done")
            finish(place)
        rows = place.rows("shard-1", store_id)
        place.add_product(store_id)
        mover.send_signal(signal.SIGCONT)
        assert mover.wait(30) == 0
    assert place.home(store_id) == "shard-1"
    assert place.count("shard-1", store_id) == sum(map(len, rows.values())) + 1
    assert place.count("shard-0", store_id) == 0
    assert place.left_over() == []


def test_a_worker_that_cannot_ask_the_catalog_does_not_deny_a_store_that_has_moved(
    place: Stage, servers: Servers, databases: Databases
) -> None:
    """It looks in the old home, and cannot know that there is a new one."""
    store_id = store_on(place, "shard-1")
    with stage(databases, catalog_poll_seconds=NEVER) as behind:
        assert place.move(store_id, "shard-0").state == "done"
        catalog = databases.cluster.primary("shard-0").name
        servers.freeze(catalog)
        try:
            with pytest.raises(Unavailable):
                behind.market.router.read(behind.scope(), store_id, READ_STORE, {})
            with pytest.raises(Unavailable):
                behind.add_product(store_id)
        finally:
            servers.thaw(catalog)


def test_a_failover_of_the_source_has_the_move_begin_again(place: Stage, servers: Servers) -> None:
    """Its slot is gone; nothing that was acknowledged is."""
    store_id = store_on(place, "shard-1")
    acknowledged = [place.add_product(store_id) for _ in range(3)]
    with place.mover():
        # Ends with the server.
        with suppress(psycopg.Error), slow_write(place, "shard-1", store_id):
            move = until_state(place, place.ask(store_id, "shard-0"), "verifying")
            acknowledged.append(written_at_last(place, store_id))
            servers.stop(place.databases.cluster.primary("shard-1").name, signal.SIGKILL)
        answer = flask(place.settings, "shards", "failover", "shard-1")
        assert answer.returncode == 0, answer.stderr
        acknowledged.append(written_at_last(place, store_id))
        until_state(place, move, "done")
        acknowledged.append(place.add_product(store_id))
        finish(place)
    found = {row for (row,) in place.sql("shard-0", "SELECT id FROM products WHERE store_id = %s", store_id)}
    assert set(acknowledged) <= found
    assert place.found(move).attempt > 1
    assert place.count("shard-1", store_id) == 0
    assert place.left_over() == []


def written_at_last(place: Stage, store_id: UUID) -> UUID:
    """A write, tried until it is taken: what was refused was not done."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return place.add_product(store_id)
        except (Unavailable, psycopg.Error):
            assert time.monotonic() < deadline
            time.sleep(0.05)

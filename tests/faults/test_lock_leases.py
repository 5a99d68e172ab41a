"""A holder whose lease is over, wherever it lost its time, cannot commit: PostgreSQL refuses it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic

import psycopg
import pytest

import ids
import metrics
from operations import orders
from operations.credentials import Credential
from tests.cluster_fixtures import ROOT, Databases, as_environment
from tests.lock_servers import LockServers, running_lock_servers, tended
from tests.shard_servers import until
from tests.workers import Worker, worker

SLEEPERS = 10
# On a busy machine, whoever is awake has to get its turn to extend it.
TTL_SECONDS = 3.0
WAITING_FOR_A_ROW = """
SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
CHECK = "SELECT check_lease(%s, %s, %s)"


@pytest.fixture(scope="module")
def servers() -> Iterator[LockServers]:
    with running_lock_servers() as running:
        yield running


@pytest.fixture(scope="module")
def market(databases: Databases, servers: LockServers) -> Iterator[Worker]:
    settings = replace(databases.settings, lock_urls=servers.urls, lock_ttl_seconds=TTL_SECONDS)
    with worker(settings, read_replicas=False) as started:
        until(lambda: tended(started.market.locks).counting() == 3)
        yield started


def restock(databases: Databases, market: Worker, units: int) -> None:
    scope = market.scope()
    market.write(scope, 1)
    assert scope.route is not None
    with psycopg.connect(databases.dsn(scope.route.shard, administrator=True)) as connection:
        connection.execute("UPDATE products SET stock = %s WHERE store_id = %s", [units, market.store_id])


class Sleeper:
    """bench/lock_sleeper.py, with locks for so many orders of one credential."""

    def __init__(self, market: Worker, credential: uuid.UUID, *options: str) -> None:
        parameters = [
            str(market.store_id),
            str(market.product_id),
            str(credential),
            "0",
            str(SLEEPERS),
            *options,
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.lock_sleeper", *parameters],
            cwd=ROOT,
            env=as_environment(market.market.settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "held\n"

    def stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> dict[str, int]:
        """What becomes of its orders."""
        self._process.send_signal(signal.SIGCONT)
        told, _ = self._process.communicate("now\n", timeout=60)
        outcomes: dict[str, int] = json.loads(told)
        return outcomes


@pytest.mark.parametrize("successor", [False, True], ids=["nobody-came", "another-came"])
def test_a_holder_that_slept_past_its_lease_cannot_commit(
    market: Worker, databases: Databases, servers: LockServers, *, successor: bool
) -> None:
    restock(databases, market, 1000)
    credential = ids.new_id()
    sleeper = Sleeper(market, credential)
    sleeper.stop()
    until(lambda: servers.keys() == 0)
    if successor:
        assert Sleeper(market, credential).go_on() == {"committed": SLEEPERS}
    assert sleeper.go_on() == {"refused": SLEEPERS}


def test_it_is_the_lease_that_keeps_it_from_committing(
    market: Worker, databases: Databases, servers: LockServers
) -> None:
    restock(databases, market, 1000)
    sleeper = Sleeper(market, ids.new_id(), "--without-lease")
    sleeper.stop()
    until(lambda: servers.keys() == 0)
    assert sleeper.go_on() == {"committed": SLEEPERS}


def test_without_sleep_it_commits(market: Worker, databases: Databases) -> None:
    restock(databases, market, 1000)
    assert Sleeper(market, ids.new_id()).go_on() == {"committed": SLEEPERS}


def test_an_order_that_waited_in_the_database_past_its_lease_is_placed_anew(
    market: Worker, databases: Databases
) -> None:
    """The row it wants is another's for longer than a lease; then it takes a new lock, and has its answer."""
    restock(databases, market, 1)
    parts = market.market
    parts.catalog.set_flag("distributed_locks", True)
    until(lambda: parts.maps.current().flags.distributed_locks)
    scope = market.scope()
    placed: list[orders.PlacedOrder] = []

    def place() -> None:
        placed.append(
            orders.place_order(
                parts.reads,
                parts.router,
                parts.carts,
                parts.locks,
                scope,
                buyer=Credential("merchant", ids.new_id(), market.store_id),
                key=orders.IdempotencyKey("slow", bytes(32), 3600),
                lines=[orders.Line(market.product_id, 1)],
            )
        )

    dsn = databases.dsn(parts.router.shard_of(scope, market.store_id), administrator=True)
    with psycopg.connect(dsn) as connection, psycopg.connect(dsn, autocommit=True) as watching:
        connection.execute("SELECT FROM products WHERE store_id = %s FOR UPDATE", [market.store_id])
        ordering = threading.Thread(target=place)
        ordering.start()
        until(lambda: watching.execute(WAITING_FOR_A_ROW).fetchone() is not None)
        began = monotonic()
        until(lambda: monotonic() - began > TTL_SECONDS)
        connection.rollback()
        ordering.join(30)
        (kept,) = connection.execute(
            "SELECT count(*) FROM orders WHERE store_id = %s AND id = %s",
            [market.store_id, placed[0].order_id],
        ).fetchone() or (None,)
    assert kept == 1
    assert not placed[0].replayed
    assert b'lock_requests_total{outcome="lost"} 1.0' in metrics.render()


@pytest.mark.parametrize(
    ("timelines", "age_us", "is_refused"),
    [(0, 0, False), (0, 900_000, False), (0, 1_100_000, True), (0, -60_000_000, True), (1, 0, True)],
    ids=["new", "old", "over", "of-the-future", "of-another-timeline"],
)
def test_a_number_is_good_for_the_server_whose_clock_it_is_from_while_the_lease_lasts(
    databases: Databases, timelines: int, age_us: int, *, is_refused: bool
) -> None:
    with psycopg.connect(databases.dsn("shard-0")) as connection:
        now = connection.execute("SELECT wal_timeline(), clock_us()").fetchone()
        assert now is not None
        number = (now[0] + timelines, now[1] - age_us, 60_000_000 if age_us == 0 else 1_000_000)
        if not is_refused:
            connection.execute(CHECK, number)
            return
        with pytest.raises(psycopg.DatabaseError) as refused:
            connection.execute(CHECK, number)
        assert refused.value.sqlstate == "SE003"

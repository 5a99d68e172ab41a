"""Workers' reports in a real catalog: they add up, take each other's place, and go; and what the command line shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest

from flags import Flags
from operations.load import EXPIRES_SECONDS, WorkerLoad, load_by_store, read_load
from routing.catalog import Catalog
from routing.route import Route
from routing.scope import Scope
from tests.catalogs import catalog_at
from tests.cluster_fixtures import Databases
from tests.commandline import flask

WHALE, SHOP = UUID(int=1), UUID(int=2)
PORT = 8000


@pytest.fixture
def catalog(databases: Databases) -> Iterator[Catalog]:
    catalog = catalog_at(databases.catalog_dsn())
    yield catalog
    with catalog.connect() as connection:
        connection.execute("DELETE FROM worker_loads")


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def worker(catalog: Catalog, name: str, **requests: float) -> WorkerLoad:
    """One that has counted so many requests a second, of a millisecond each, and has reported."""
    clock = Clock()
    load = WorkerLoad(catalog, lambda _scope, _store: "shard-0", now=clock)
    load.name_worker(name, PORT)
    clock.seconds = 10.0
    for store_name, per_second in requests.items():
        store = {"whale": WHALE, "shop": SHOP}[store_name]
        for _ in range(int(10 * per_second)):
            shard = "shard-0" if store == WHALE else "shard-1"
            scope = Scope(Flags(), store_id=store, route=Route(store, shard, "ring", 1), statements=1)
            scope.spent("db", 0.001)
            load.count(scope)
    load.report()
    return load


def requests_of(catalog: Catalog, store: UUID) -> float:
    return sum(rate.requests for (each, _), rate in read_load(catalog).stores.items() if each == store)


def workers_of(catalog: Catalog) -> int:
    with catalog.connect() as connection:
        row = connection.execute("SELECT count(*) FROM worker_loads").fetchone()
    return int(row[0]) if row else 0


def age(catalog: Catalog, name: str, seconds: float) -> None:
    """As if a worker had been gone for so long."""
    with catalog.connect() as connection:
        done = connection.execute(
            "UPDATE worker_loads SET reported_at = reported_at - %s * interval '1 second' WHERE worker LIKE %s",
            [seconds, f"%/{name}"],
        )
        assert done.rowcount == 1


def test_what_all_workers_do_adds_up(catalog: Catalog) -> None:
    worker(catalog, "worker-1", whale=6, shop=1)
    worker(catalog, "worker-2", whale=3)
    assert requests_of(catalog, WHALE) == pytest.approx(9, rel=1e-4)
    assert requests_of(catalog, SHOP) == pytest.approx(1, rel=1e-4)
    assert load_by_store(catalog) == pytest.approx({WHALE: 0.9, SHOP: 0.1}, rel=1e-3)


def test_who_takes_a_killed_workers_place_takes_its_report_too(catalog: Catalog) -> None:
    worker(catalog, "worker-1", whale=6)
    worker(catalog, "worker-1", whale=2)  # another process
    assert requests_of(catalog, WHALE) == pytest.approx(2, rel=1e-4)
    assert workers_of(catalog) == 1


def test_a_worker_that_nobody_replaces_is_forgotten(catalog: Catalog) -> None:
    worker(catalog, "worker-1", whale=6)
    other = worker(catalog, "worker-2", whale=1)
    age(catalog, "worker-1", EXPIRES_SECONDS + 1)
    assert requests_of(catalog, WHALE) == pytest.approx(1, rel=1e-4)
    other.report()
    assert workers_of(catalog) == 1


def test_a_worker_that_stops_takes_its_report_along(catalog: Catalog) -> None:
    load = worker(catalog, "worker-1", whale=6)
    worker(catalog, "worker-2", whale=1)
    load.leave()
    assert requests_of(catalog, WHALE) == pytest.approx(1, rel=1e-4)


def test_a_report_writes_no_log(catalog: Catalog, databases: Databases) -> None:
    load = worker(catalog, "worker-1", whale=6)
    with psycopg.connect(databases.catalog_dsn(administrator=True), autocommit=True) as connection:
        connection.execute("SELECT pg_stat_statements_reset()")
        load.report()
        row = connection.execute(
            "SELECT calls, wal_records FROM pg_stat_statements WHERE query LIKE '%/* put_worker_load */%'"
            " AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ).fetchone()
    assert row == (1, 0)


def test_a_catalog_that_is_away_costs_a_worker_nothing_but_its_report(databases: Databases) -> None:
    load = worker(catalog_at("host=127.0.0.1 port=1 dbname=nothing"), "worker-1", whale=6)
    load.leave()
    assert load.take()["stores"]


def test_the_status_lists_the_hot_stores_of_each_shard(catalog: Catalog, databases: Databases) -> None:
    worker(catalog, "worker-1", whale=30)
    listed = flask(databases.settings, "shards", "status", "--json")
    hot = [hot for shard in json.loads(listed.stdout)["shards"] for hot in shard["hot_stores"]]
    (whale,) = hot
    assert whale["store_id"] == str(WHALE)
    assert whale["requests_per_second"] == pytest.approx(30, rel=0.01)
    assert whale["postgres_ms_per_second"] == pytest.approx(30, rel=0.01)
    assert whale["share"] == 1
    table = flask(databases.settings, "shards", "status").stdout
    (row,) = [line.split() for line in table.splitlines() if line.startswith(str(WHALE))]
    assert row[2:] == ["30.0", "30.0", "30.0", "100.0%"]

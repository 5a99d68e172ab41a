"""`flask shards rebalance`: stores go where they belong, a few at a time; what is stopped or fails is gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from uuid import UUID

import pytest

import ids
import sql
from moves.mover import Mover
from operations.placement import Placement, change_placement, one_at_a_time
from operations.sizes import rows_by_store
from pools.connection import ShardConnection
from routing.shard_map import Pin, ShardMap
from tests.cluster_fixtures import Databases
from tests.commandline import ROOT, Answer, assert_refused, environment, flask
from tests.moving import TABLES, Stage, in_thread, slow_write, stage, until_state
from tests.shard_servers import until

# Wider than any difference: only what stays somewhere is moved.
NOTHING_BUT_STAYS = ("--tolerance", "99")


@pytest.fixture(scope="module")
def place(databases: Databases) -> Iterator[Stage]:
    with stage(databases) as found:
        yield found


@pytest.fixture(autouse=True)
def _stores_of_its_own(place: Stage) -> Iterator[None]:
    """No test's stores weigh in another's plan."""
    yield
    until(lambda: not place.catalog_sql("SELECT id FROM moves WHERE tidied_at IS NULL"))
    for shard in place.shards:
        for table in TABLES:
            place.sql(shard, f"TRUNCATE {table} CASCADE")
    place.catalog_sql("DELETE FROM pins")
    place.catalog_sql("UPDATE map_state SET epoch = epoch + 1")
    assert place.left_over() == []


@pytest.fixture(scope="module", autouse=True)
def _mover(place: Stage) -> Iterator[None]:
    """One that is at work already: commands without the administrator's role start none, which takes a second each."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.02):
            Mover(place.settings).run()

    thread = in_thread(run)
    yield
    over.set()
    thread.join()


def rebalance(place: Stage, *arguments: str) -> Answer:
    return flask(replace(place.settings, admin_user=""), "shards", "rebalance", *arguments)


def stores_that_stay(place: Stage, count: int, rows: int = 1) -> list[UUID]:
    """Stores that live where the ring does not lead any more."""
    stores = [place.new_store(rows)[0] for _ in range(count)]

    def swap(now: ShardMap) -> Placement:
        names = [shard.name for shard in now.shards]
        return Placement(tuple(names[1 - index] for index in now.partitions))

    def stores_of(shard: str) -> Sequence[UUID]:
        return [row[0] for row in place.sql(shard, "SELECT store_id FROM stores")]

    assert change_placement(place.market.catalog, stores_of, swap) == count
    return stores


def new_store_on(place: Stage, shard: str, rows: int) -> UUID:
    while place.market.maps.current().map.unpinned(store := ids.new_id())[0] != shard:
        pass
    return place.new_store(rows, store)[0]


def belongs(place: Stage, store: UUID) -> str:
    return place.market.catalog.load().map.unpinned(store)[0]


def test_stores_that_stay_are_moved_to_where_they_belong(place: Stage) -> None:
    stores = stores_that_stay(place, 3)
    before = place.market.catalog.load()
    plan = rebalance(place, *NOTHING_BUT_STAYS, "--dry-run")
    assert plan.returncode == 0, plan.stderr
    for store in stores:
        (line,) = [line.split() for line in plan.stdout.splitlines() if line.startswith(str(store))]
        assert line[1:4] == [place.home(store), belongs(place, store), "8"]
    assert "3 stores to move, 24 rows; 3 stores of them only stayed where they were. 0 part" in plan.stdout
    assert place.market.catalog.load() == before
    answer = rebalance(place, *NOTHING_BUT_STAYS)
    assert answer.stdout.endswith("3 stores moved, 24 rows.\n"), answer.stderr
    assert {place.home(store) for store in stores} == {belongs(place, store) for store in stores}
    assert dict(place.market.catalog.load().map.pins) == {}
    for store in stores:
        assert place.count(place.home(store), store) == 8
        assert place.count(place.other(place.home(store)), store) == 0
    assert rebalance(place, *NOTHING_BUT_STAYS).stdout.endswith("0 stores moved, 0 rows.\n")


def test_a_shard_with_too_much_gives_some_away_and_keeps_its_whale(place: Stage) -> None:
    whale, home = place.new_store(rows=300)
    small = [new_store_on(place, home, rows=50) for _ in range(3)]
    answer = rebalance(place, "--pin-whales")
    assert answer.returncode == 0, answer.stderr
    assert f"whale {whale} on {home}: " in answer.stdout
    assert place.home(whale) == home
    assert place.market.catalog.load().map.pins[whale] == Pin(home, stays=False)
    assert {place.home(store) for store in small} == {place.other(home)}
    shares = place.market.catalog.load().map
    assert shares.share("shard-0") == shares.share("shard-1") == 0.5
    assert rebalance(place, "--pin-whales").stdout.endswith("0 stores moved, 0 rows.\n")


def test_load_counts_beside_rows(place: Stage) -> None:
    """As the workers report it: of three stores of the same size on one shard two do all the work."""
    home = place.new_store(rows=10)[1]
    stores = [new_store_on(place, home, rows=10) for _ in range(2)]
    first = place.sql(home, "SELECT store_id FROM stores ORDER BY store_id LIMIT 1")[0][0]
    for _ in range(3):
        new_store_on(place, place.other(home), rows=10)
    rates = [50.0, 100.0, 0.5]  # requests, statements, and seconds in PostgreSQL
    report = {
        "shards": {home: [value * 2 for value in rates]},
        "stores": [[str(store), home, *rates] for store in stores],
    }
    values = {"worker": "test", "load": json.dumps(report), "expires_seconds": 15.0}
    assert "0 stores to move" in rebalance(place, "--dry-run").stdout
    with place.market.catalog.connect() as connection:
        connection.execute(sql.query("put_worker_load").text, values)
    plan = rebalance(place, "--dry-run", "--tolerance", "0.5")
    place.catalog_sql("DELETE FROM worker_loads")
    moved = [line.split() for line in plan.stdout.splitlines() if f"  {home}  {place.other(home)}  " in line]
    assert len(moved) == 1, plan
    assert moved[0][0] in {str(store) for store in stores}
    assert str(first) not in {line[0] for line in moved}
    assert "50.0% of the load" in plan.stdout


def test_a_move_that_fails_is_reported_and_the_others_go_on(place: Stage) -> None:
    """One that is under way is waited for, and not asked for again."""
    lost, begun, *others = stores_that_stay(place, 3)
    with place.connect(place.home(lost)) as connection, connection.transaction():
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute("DELETE FROM stores WHERE store_id = %s", [lost])
    with slow_write(place, place.home(begun), begun):
        under_way = until_state(place, place.ask(begun, belongs(place, begun)), "verifying")
        answers: list[Answer] = []
        running = in_thread(lambda: answers.append(rebalance(place, *NOTHING_BUT_STAYS)))
        until(lambda: place.home(others[0]) == belongs(place, others[0]))
    running.join()
    assert_refused(answers[0], "2 stores moved, 1 stay", f"{lost}: the store does not live on")
    for store in (begun, *others):
        assert place.home(store) == belongs(place, store)
    assert place.catalog_sql("SELECT id FROM moves WHERE store_id = %s", begun) == [(under_way.id,)]


def test_it_stops_on_request_and_goes_on_when_it_is_run_again(place: Stage) -> None:
    stores = stores_that_stay(place, 3)
    command = ("shards", "rebalance", *NOTHING_BUT_STAYS, "--rows-per-second", "0.01")
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "app", *command],
        cwd=ROOT,
        env={**os.environ, **environment(replace(place.settings, admin_user=""))},
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: sum(place.home(store) == belongs(place, store) for store in stores) == 1)
    assert place.catalog_sql("SELECT count(*) FROM moves WHERE store_id = ANY (%s)", stores) == [(1,)]
    until(lambda: not place.catalog_sql("SELECT id FROM moves WHERE tidied_at IS NULL"))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert ", 2 have not begun. Run it again to go on." in said
    assert rebalance(place, *NOTHING_BUT_STAYS).stdout.endswith("2 stores moved, 16 rows.\n")
    assert {place.home(store) for store in stores} == {belongs(place, store) for store in stores}


def test_ranges_and_pins_are_set_and_given_up(place: Stage) -> None:
    store, home = place.new_store(rows=1)
    target, high = place.other(home), str(UUID(int=store.int + 1))

    def shards(*arguments: object) -> Answer:
        settings = replace(place.settings, admin_user="", move_undo_seconds=0.0)
        return flask(settings, "shards", *map(str, arguments))

    assert shards("set-range", store, high, target).stdout == f"{store} to {high}: 1 stores moved.\n"
    assert place.home(store) == target
    assert str(store) in shards("ranges").stdout
    assert_refused(shards("set-range", UUID(int=store.int - 1), high, home), "overlaps")
    assert_refused(shards("set-range", store, store, home), "empty")
    assert shards("pin", store, target).stdout == f"{store} is pinned to {target}.\n"
    assert shards("drop-range", store).stdout == f"{store} to {high}: 0 stores moved.\n"
    assert place.home(store) == target
    assert shards("unpin", store).stdout == f"{store} goes by ranges and ring: {home}.\n"
    assert place.home(store) == home
    assert_refused(shards("drop-range", store), "No range begins there")


def test_what_cannot_be_done_now_is_refused(place: Stage) -> None:
    with one_at_a_time(place.market.catalog):
        assert_refused(rebalance(place), "rebalanced already")
    place.catalog_sql("UPDATE flags SET enabled = false WHERE name = 'sharding'")
    place.catalog_sql("INSERT INTO flags VALUES ('sharding', false) ON CONFLICT DO NOTHING")
    try:
        assert_refused(rebalance(place), "sharding is off")
    finally:
        place.catalog_sql("DELETE FROM flags WHERE name = 'sharding'")


def test_rows_are_counted_and_in_large_tables_a_sample_of_them(place: Stage) -> None:
    small, shard = place.new_store(rows=3)
    whale = new_store_on(place, shard, rows=3_000)
    with ShardConnection.connect(place.databases.dsn(shard, administrator=True), autocommit=True) as found:
        exact = rows_by_store(found)
        assert (exact[small], exact[whale]) == (place.count(shard, small), 18_002)
        # Of the largest tables, which have some sixty pages.
        sample = rows_by_store(found, sampled_pages=20)
    assert sample != exact
    assert 0.5 < sample[whale] / exact[whale] < 2

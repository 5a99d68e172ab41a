"""What a worker reports, and what follows from all reports together."""

from __future__ import annotations

from contextlib import AbstractContextManager
from uuid import UUID

import pytest

from flags import Flags
from operations.load import HALF_LIFE_SECONDS, REPORT_SECONDS, Load, Rate, WorkerLoad, hot_stores, merge
from routing.catalog import Catalog, CatalogConnection
from routing.route import Route
from routing.scope import Scope

WHALE, SHOP = UUID(int=1), UUID(int=2)
OFF = Flags.from_rows({})


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Counted:
    """A worker's load that nobody reports: no catalog is there to connect to."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.load = WorkerLoad(Catalog(self._connect), lambda _scope, _store: "shard-9", now=self.clock)

    def requests(self, store: UUID, count: int, *, shard: str = "shard-0", seconds: float = 0.001) -> None:
        for _ in range(count):
            scope = Scope(OFF, store_id=store, route=Route(store, shard, "ring", 1), statements=2)
            scope.spent("db", seconds)
            self.load.count(scope)

    def reported(self) -> Load:
        self.clock.seconds += REPORT_SECONDS
        return merge([self.load.take()])

    def _connect(self) -> AbstractContextManager[CatalogConnection]:
        raise AssertionError("no report was due")


def test_a_steady_rate_is_told_from_the_first_report_on() -> None:
    counted = Counted()
    for _ in range(30):
        counted.requests(WHALE, 500)
        load = counted.reported()
        rate = load.stores[WHALE, "shard-0"]
        assert rate.requests == pytest.approx(100)
        assert rate.statements == pytest.approx(200)
        assert rate.postgres_seconds == pytest.approx(0.1)
        assert load.shards["shard-0"] == rate


def test_what_was_done_a_half_life_ago_counts_half() -> None:
    counted = Counted()
    for _ in range(400):  # long enough that the beginning does not matter
        counted.requests(WHALE, 5)
        steady = counted.reported()
    for _ in range(round(HALF_LIFE_SECONDS / REPORT_SECONDS)):
        later = counted.reported()
    assert steady.shards["shard-0"].requests == pytest.approx(1)
    assert later.shards["shard-0"].requests == pytest.approx(0.5)


def test_yesterdays_whale_is_not_todays() -> None:
    counted = Counted()
    counted.requests(WHALE, 1000)
    counted.reported()
    for _ in range(60):
        counted.requests(SHOP, 5)
        load = counted.reported()
    found = hot_stores(load, lambda _: "shard-0", 1)
    assert [hot.store_id for hot in found["shard-0"]] == [SHOP]


def test_a_request_that_asked_postgresql_for_nothing_counts_for_the_stores_shard() -> None:
    counted = Counted()
    counted.load.count(Scope(OFF, store_id=WHALE))
    load = counted.reported()
    assert load.shards["shard-9"].requests == pytest.approx(1 / REPORT_SECONDS)
    assert load.shards["shard-9"].postgres_seconds == 0


def test_a_request_about_no_store_is_nobodys() -> None:
    counted = Counted()
    counted.load.count(Scope(OFF))
    assert counted.reported() == Load({}, {})


def test_the_workers_figures_add_up() -> None:
    first, second = Counted(), Counted()
    first.requests(WHALE, 10)
    second.requests(WHALE, 20)
    second.requests(SHOP, 5, shard="shard-1")
    for each in (first, second):
        each.clock.seconds += REPORT_SECONDS
    both = merge([first.load.take(), second.load.take()])
    assert both.stores[WHALE, "shard-0"].requests == pytest.approx(6)
    assert both.shards["shard-1"].requests == pytest.approx(1)


def test_hot_stores_are_by_time_in_postgresql_and_their_shares_of_all_that_their_shard_does() -> None:
    counted = Counted()
    counted.requests(WHALE, 100, seconds=0.003)
    counted.requests(SHOP, 200, seconds=0.0005)
    found = hot_stores(counted.reported(), lambda _: "shard-0", 5)
    assert [hot.store_id for hot in found["shard-0"]] == [WHALE, SHOP]
    assert [hot.share for hot in found["shard-0"]] == [pytest.approx(0.75), pytest.approx(0.25)]


def test_a_store_that_has_moved_is_listed_where_it_lives_now() -> None:
    counted = Counted()
    counted.requests(WHALE, 100, shard="shard-0")
    counted.requests(WHALE, 20, shard="shard-1")
    counted.requests(SHOP, 80, shard="shard-1")
    found = hot_stores(counted.reported(), lambda _: "shard-1", 5)
    assert found["shard-0"] == []
    whale, shop = found["shard-1"]
    assert whale.store_id == WHALE
    assert whale.rate.requests == pytest.approx(24)
    assert [whale.share, shop.share] == [pytest.approx(0.6), pytest.approx(0.4)]


def test_a_list_is_no_longer_than_it_is_asked_to_be() -> None:
    stores = {(UUID(int=n), "shard-0"): Rate(1, 1, 0.001 * n) for n in range(1, 40)}
    load = Load({"shard-0": Rate(39, 39, 1.0)}, stores)
    found = hot_stores(load, lambda _: "shard-0", 10)
    assert [hot.store_id.int for hot in found["shard-0"]] == list(range(39, 29, -1))

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from devcluster.cluster import Cluster
from errors import Unavailable
from routing.catalog import Catalog, Snapshot, insert_shard
from routing.map_cache import MapCache
from tests.catalogs import CountingSource, catalog_at, connect, empty_catalog, shards, until

NEVER = 3600.0  # seconds between polls where only a refresh shall ask


@pytest.fixture
def catalog_dsn(cluster: Cluster) -> Iterator[str]:
    with empty_catalog(cluster) as dsn:
        yield dsn


@pytest.fixture
def catalog(catalog_dsn: str) -> Catalog:
    return catalog_at(catalog_dsn)


@pytest.fixture
def source(catalog_dsn: str) -> CountingSource:
    return CountingSource(catalog_dsn)


@pytest.fixture
def cache(source: CountingSource) -> Iterator[MapCache]:
    """Polls often; not started."""
    cache = MapCache([source], poll_seconds=0.02)
    yield cache
    source.open.set()
    cache.close()


@pytest.fixture
def patient(catalog: Catalog, source: CountingSource) -> Iterator[MapCache]:
    """Has the map of one shard, and polls no more by itself."""
    catalog.register_shards(shards("shard-0"))
    cache = MapCache([source], NEVER)
    cache.start()
    assert cache.wait_until_loaded(10)
    until(lambda: cache._ended == 1)
    yield cache
    source.open.set()
    cache.close()


def test_before_the_catalog_has_answered_a_request_is_told_to_come_back(cache: MapCache) -> None:
    with pytest.raises(Unavailable) as refusal:
        cache.current()
    assert refusal.value.retry_after_seconds == 1


def test_a_map_that_comes_late_is_found(
    cache: MapCache, catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    cache.start()
    until(lambda: cache._ended > 3)
    with pytest.raises(Unavailable):
        cache.current()
    catalog.register_shards(shards("shard-0"))
    assert cache.wait_until_loaded(10)
    assert cache.current() == catalog.load()
    until(lambda: "read again" in caplog.text)
    assert caplog.text.count("no shard map yet") == 1


def test_a_change_of_a_flag_or_of_the_map_is_seen_by_the_next_poll(cache: MapCache, catalog: Catalog) -> None:
    catalog.register_shards(shards("shard-0"))
    cache.start()
    assert cache.wait_until_loaded(10)
    catalog.set_flag("redis_cache", True)
    until(lambda: cache.current().flags.redis_cache)
    with catalog.change() as connection:
        insert_shard(connection, *shards("shard-1", first_port=2))
    until(lambda: len(cache.current().map.shards) == 2)
    assert cache.current() == catalog.load()


def test_a_hundred_who_ask_for_a_fresh_map_at_once_make_one_look_at_the_catalog(
    patient: MapCache, catalog: Catalog, source: CountingSource
) -> None:
    stale = patient.current().map.epoch
    catalog.set_flag("redis_cache", True)
    asked, together = source.asked, Barrier(100)

    def refresh() -> Snapshot:
        together.wait()
        return patient.refresh(stale, timeout_seconds=10)

    with ThreadPoolExecutor(100) as threads:
        seen = [future.result() for future in [threads.submit(refresh) for _ in range(100)]]
    assert {snapshot.map.epoch for snapshot in seen} == {stale + 1}
    assert source.asked == asked + 1


def test_a_refresh_asks_nobody_where_the_copy_is_newer_already(
    patient: MapCache, source: CountingSource
) -> None:
    asked = source.asked
    assert patient.refresh(patient.current().map.epoch - 1) is patient.current()
    assert source.asked == asked


def test_a_refresh_ends_with_what_there_is_where_the_catalog_has_nothing_newer(
    patient: MapCache, source: CountingSource
) -> None:
    before, asked = patient.current(), source.asked
    assert patient.refresh(before.map.epoch, timeout_seconds=10) is before
    assert source.asked == asked + 1


def test_a_look_that_began_before_a_refresh_was_asked_for_does_not_answer_it(
    patient: MapCache, catalog: Catalog, source: CountingSource
) -> None:
    stale, asked = patient.current().map.epoch, source.asked
    source.open.clear()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(patient.refresh, stale, 10)
        until(lambda: source.asked == asked + 1)
        second = threads.submit(patient.refresh, stale, 10)
        until(lambda: patient._wanted > patient._begun)
        source.open.set()
        first.result()
        second.result()
    assert source.asked == asked + 2


def test_a_refresh_waits_no_longer_than_it_was_told_to(patient: MapCache, source: CountingSource) -> None:
    before = patient.current()
    source.open.clear()
    assert patient.refresh(before.map.epoch, timeout_seconds=0.05) is before


def test_callbacks_run_before_a_request_can_see_the_new_map(cache: MapCache, catalog: Catalog) -> None:
    catalog.register_shards(shards("shard-0"))
    visible: list[tuple[int, int | None]] = []

    def note(snapshot: Snapshot) -> None:
        current = cache._snapshot
        visible.append((snapshot.map.epoch, current and current.map.epoch))

    cache.on_change(note)
    cache.start()
    assert cache.wait_until_loaded(10)
    catalog.set_flag("redis_cache", True)
    until(lambda: cache.current().flags.redis_cache)
    first = catalog.epoch() - 1
    assert visible == [(first, None), (first + 1, first)]


def test_a_map_whose_callback_fails_is_not_used_and_is_tried_again(
    cache: MapCache, catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    catalog.register_shards(shards("shard-0"))
    cache.start()
    assert cache.wait_until_loaded(10)
    failing = True

    def fail(snapshot: Snapshot) -> None:
        if failing:
            raise RuntimeError("no pool could be opened")

    cache.on_change(fail)
    catalog.set_flag("redis_cache", True)
    until(lambda: "no pool could be opened" in caplog.text)
    assert not cache.current().flags.redis_cache
    failing = False
    until(lambda: cache.current().flags.redis_cache)


def test_a_replica_that_is_behind_does_not_bring_an_old_map_back(
    patient: MapCache, source: CountingSource, catalog_dsn: str
) -> None:
    before = patient.current()
    with connect(
        catalog_dsn
    ) as connection:  # as a replica would show it that has not replayed the last change
        connection.execute("UPDATE map_state SET epoch = epoch - 1")
        connection.execute("INSERT INTO flags VALUES ('redis_cache', true)")
    patient.refresh(before.map.epoch, timeout_seconds=10)
    assert patient.current() is before


def test_a_map_that_contradicts_itself_is_not_used(
    patient: MapCache, catalog: Catalog, catalog_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = patient.current()
    with connect(catalog_dsn) as connection:
        connection.execute("DELETE FROM partitions WHERE partition = 7")
        connection.execute("UPDATE map_state SET epoch = epoch + 1")
    assert patient.refresh(before.map.epoch, timeout_seconds=10) is before
    assert "4095 of 4096 partitions" in caplog.text

"""The catalog's servers are killed and frozen; workers go on with what they know."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

import config
from errors import CommitInDoubt, NodeUnavailable, StatementDeadline, Unavailable
from pools.registry import PoolRegistry
from routing import catalog as catalogs
from routing.catalog import Catalog
from routing.map_cache import MapCache
from tests.shard_servers import Servers, running_servers, until

PRIMARY, REPLICA = "shard-0-a", "shard-0-b"


@pytest.fixture(scope="module")
def all_servers() -> Iterator[Servers]:
    with running_servers(shards=1, replicas=1) as servers:
        # So that a change of the catalog can be committed while the replica stands still.
        servers.synchronous(PRIMARY, "")
        yield servers


@pytest.fixture
def servers(all_servers: Servers) -> Iterator[Servers]:
    """A primary and a replica of the catalog, both well; and well again afterwards."""
    # A replica that was killed answers before it has replayed again what it knew.
    ((lsn,),) = all_servers.sql(PRIMARY, "SELECT pg_current_wal_lsn()")
    until(lambda: all_servers.sql(REPLICA, "SELECT pg_last_wal_replay_lsn() >= %s", lsn) == [(True,)])
    yield all_servers
    launcher = all_servers.cluster.launcher
    alive = {process.name for process in launcher.recorded() if launcher.alive(process)}
    for name in (PRIMARY, REPLICA):
        if name in alive:
            all_servers.thaw(name)
        else:
            all_servers.start(name)


@pytest.fixture
def settings(servers: Servers) -> config.Settings:
    return servers.settings(statement_timeout_seconds=1.0)


@pytest.fixture
def pools(settings: config.Settings) -> Iterator[PoolRegistry]:
    pools = PoolRegistry(settings, "test")
    yield pools
    pools.close()


@pytest.fixture
def catalog(pools: PoolRegistry) -> Catalog:
    return Catalog(lambda: pools.catalog().connection())


@pytest.fixture
def cache(pools: PoolRegistry, settings: config.Settings) -> Iterator[MapCache]:
    """As a worker has it; not started."""
    sources = [lambda: pools.catalog().connection(), lambda: pools.catalog(writable=False).connection()]
    cache = MapCache(sources, settings.catalog_poll_seconds)
    yield cache
    cache.close()


@pytest.fixture
def loaded(cache: MapCache) -> MapCache:
    cache.start()
    assert cache.wait_until_loaded(30)
    return cache


def answers(catalog: Catalog) -> bool:
    """Whether its primary does."""
    try:
        catalog.epoch()
    except NodeUnavailable:
        return False
    return True


def toggle(catalog: Catalog, cache: MapCache) -> bool:
    """Change a flag, once the primary is back: the replica may be before it. What the flag is now."""
    until(lambda: answers(catalog))
    enabled = not cache.current().flags.redis_cache
    catalog.set_flag("redis_cache", enabled)
    return enabled


def test_a_worker_goes_on_through_a_crash_of_the_catalog_and_says_so_once(
    servers: Servers, loaded: MapCache, catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    before = loaded.current()
    servers.stop(REPLICA, signal.SIGKILL)
    servers.stop(PRIMARY, signal.SIGKILL)
    until(lambda: "going on with shard map" in caplog.text)
    polls = loaded._ended
    until(lambda: loaded._ended > polls + 3)
    assert loaded.current() is before
    assert loaded.refresh(before.map.epoch) is before
    servers.start(PRIMARY)
    servers.start(REPLICA)
    until(lambda: "the catalog is read again" in caplog.text)
    enabled = toggle(catalog, loaded)
    until(lambda: loaded.current().flags.redis_cache == enabled)
    assert caplog.text.count("going on with shard map") == 1
    assert caplog.text.count("the catalog is read again") == 1


def test_a_worker_goes_on_while_every_server_of_the_catalog_is_frozen(
    servers: Servers, loaded: MapCache, catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    before = loaded.current()
    servers.freeze(PRIMARY)
    servers.freeze(REPLICA)
    assert loaded.refresh(before.map.epoch, timeout_seconds=0.1) is before
    until(lambda: "going on with shard map" in caplog.text)
    assert loaded.current() is before
    servers.thaw(PRIMARY)
    servers.thaw(REPLICA)
    until(lambda: "the catalog is read again" in caplog.text)
    enabled = toggle(catalog, loaded)
    until(lambda: loaded.current().flags.redis_cache == enabled)


@pytest.mark.parametrize("away", ["frozen", "killed"])
def test_a_worker_that_starts_while_the_primary_is_away_reads_the_map_from_the_replica(
    servers: Servers, cache: MapCache, away: str
) -> None:
    if away == "frozen":
        servers.freeze(PRIMARY)
    else:
        servers.stop(PRIMARY, signal.SIGKILL)
    cache.start()
    assert cache.wait_until_loaded(30)
    assert [shard.name for shard in cache.current().map.shards] == ["shard-0"]


def test_a_worker_that_starts_while_no_server_answers_lives_and_loads_the_map_later(
    servers: Servers, cache: MapCache, caplog: pytest.LogCaptureFixture
) -> None:
    servers.stop(REPLICA, signal.SIGKILL)
    servers.stop(PRIMARY, signal.SIGKILL)
    cache.start()
    until(lambda: "no shard map yet" in caplog.text)
    with pytest.raises(Unavailable):
        cache.current()
    servers.start(PRIMARY)
    assert cache.wait_until_loaded(30)
    assert caplog.text.count("no shard map yet") == 1


@pytest.fixture
def replica_standing_still(servers: Servers) -> Iterator[None]:
    """A replica that replays nothing more: whoever reads from it sees no change."""
    servers.sql(REPLICA, "SELECT pg_wal_replay_pause()")
    until(lambda: servers.sql(REPLICA, "SELECT pg_get_wal_replay_pause_state()") == [("paused",)])
    yield
    servers.sql(REPLICA, "SELECT pg_wal_replay_resume()")


@pytest.mark.usefixtures("replica_standing_still")
def test_changes_are_heard_from_the_primary_once_it_is_back(
    servers: Servers, cache: MapCache, catalog: Catalog
) -> None:
    servers.freeze(PRIMARY)
    cache.start()
    assert cache.wait_until_loaded(30)
    servers.thaw(PRIMARY)
    until(lambda: _reaches(catalog))
    enabled = toggle(catalog, cache)
    until(lambda: cache.current().flags.redis_cache == enabled)


def test_a_change_while_the_catalog_is_away_is_refused_as_not_done(
    servers: Servers, catalog: Catalog, cache: MapCache
) -> None:
    before = catalog.load()
    servers.freeze(PRIMARY)
    with pytest.raises((NodeUnavailable, StatementDeadline)):
        catalog.set_flag("redis_cache", not before.flags.redis_cache)
    servers.thaw(PRIMARY)
    until(lambda: _reaches(catalog))
    assert catalog.load() == before


def test_a_connection_lost_in_the_middle_of_a_change_is_told_apart_from_one_lost_at_its_end(
    servers: Servers, catalog: Catalog
) -> None:
    def lose_the_connection(at_the_end: bool) -> None:
        with catalog.change() as connection:
            servers.sql(PRIMARY, "SELECT pg_terminate_backend(%s, 30000)", connection.info.backend_pid)
            if not at_the_end:
                catalogs.read_epoch(connection)

    with pytest.raises(NodeUnavailable):
        lose_the_connection(at_the_end=False)
    with pytest.raises(CommitInDoubt):
        lose_the_connection(at_the_end=True)


def _reaches(catalog: Catalog) -> bool:
    try:
        return catalog.epoch() > 0
    except Unavailable:
        return False

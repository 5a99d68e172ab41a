"""A server goes away and comes back: what a pool of ten does meanwhile, and how soon it serves again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from errors import NodeUnavailable
from pools import NodePool
from tests.shard_servers import Servers, running_servers, until
from tests.watched_pools import WatchedPools


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with running_servers() as servers:
        yield servers


@pytest.fixture
def registry(servers: Servers) -> Iterator[WatchedPools]:
    registry = WatchedPools(servers.settings(), "worker-1")
    registry.apply(servers.nodes)
    until(lambda: all(registry.primary(s).gauge().available == 10 for s in ("shard-0", "shard-1")))
    yield registry
    registry.close()


def asks(pool: NodePool) -> bool:
    with pool.connection() as connection:
        return connection.execute("SELECT 1").fetchone() == (1,)


def refuses(pool: NodePool) -> bool:
    try:
        asks(pool)
    except NodeUnavailable:
        return True
    except psycopg.OperationalError:
        return False  # the one that noticed
    return False


def answers(pool: NodePool) -> bool:
    try:
        return asks(pool)
    except NodeUnavailable:
        return False


def test_no_request_is_given_a_connection_that_its_server_has_closed(
    servers: Servers, registry: WatchedPools
) -> None:
    pool = registry.primary("shard-0")
    for _ in range(3):
        servers.sql(
            "shard-0-a", "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'app'"
        )
        assert all(asks(pool) for _ in range(30))
    until(lambda: pool.gauge().available == 10)


def test_after_a_restart_all_ten_connections_are_new_and_the_first_request_is_answered(
    servers: Servers, registry: WatchedPools
) -> None:
    pool = registry.primary("shard-0")
    servers.stop("shard-0-a")
    servers.start("shard-0-a")

    until(lambda: answers(pool))
    assert all(asks(pool) for _ in range(30))
    until(lambda: pool.gauge().available == 10)


def test_while_a_server_is_away_requests_are_refused_at_once_and_the_other_shards_are_answered(
    servers: Servers, registry: WatchedPools
) -> None:
    pool = registry.primary("shard-0")
    servers.stop("shard-0-a")
    try:
        until(lambda: refuses(pool))
        with ThreadPoolExecutor(20) as threads:
            # More than the pool would let wait: that all are refused as unavailable means that none waits.
            assert all(threads.map(lambda _: refuses(pool), range(200)))
            assert pool.gauge().waiting == 0
        assert all(asks(registry.primary("shard-1")) for _ in range(30))
    finally:
        servers.start("shard-0-a")
    until(lambda: answers(pool))


def test_attempts_to_reconnect_come_at_one_pace_and_never_end(
    servers: Servers, registry: WatchedPools
) -> None:
    pool = registry.primary("shard-0")
    pool.reconnect_timeout = 0.0  # psycopg's pool would give up after this
    servers.stop("shard-0-a")
    try:
        until(lambda: refuses(pool))
        failed = pool.get_stats()["connections_errors"]
        # Doubling from any pause, forty more would not come within anyone's life.
        until(lambda: pool.get_stats()["connections_errors"] >= failed + 40)
    finally:
        servers.start("shard-0-a")
    until(lambda: answers(pool))
    until(lambda: pool.gauge().available == 10)


def test_a_killed_server_costs_the_statements_under_way_and_nothing_else(
    servers: Servers, registry: WatchedPools
) -> None:
    pool = registry.primary("shard-0")

    def sleep() -> None:
        with pool.connection() as connection:
            connection.execute("SELECT pg_sleep(4)")

    with ThreadPoolExecutor(3) as threads:
        under_way = [threads.submit(sleep) for _ in range(3)]
        until(lambda: pool.gauge().available == 7)
        asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        until(lambda: servers.sql("shard-0-a", asleep) == [(3,)])
        servers.stop("shard-0-a", signal.SIGQUIT)
        for future in under_way:
            assert isinstance(future.exception(), psycopg.OperationalError)
    servers.start("shard-0-a")
    until(lambda: answers(pool))
    until(lambda: pool.gauge() and pool.gauge().available == pool.gauge().size == 10)


def test_who_waits_in_line_is_told_as_soon_as_the_server_is_known_to_be_away(servers: Servers) -> None:
    registry = WatchedPools(servers.settings(pool_size=1, pool_timeout_seconds=30.0), "worker-1")
    registry.apply(servers.nodes)
    pool = registry.primary("shard-0")
    with ThreadPoolExecutor(5) as threads:
        with pool.connection():
            waiting = [threads.submit(pool.getconn) for _ in range(5)]
            until(lambda: pool.gauge().waiting == 5)
            servers.stop("shard-0-a")
        try:
            for future in waiting:
                assert isinstance(future.exception(timeout=20.0), NodeUnavailable)
        finally:
            servers.start("shard-0-a")
    until(lambda: answers(pool))
    registry.close()


def test_a_worker_that_starts_while_a_shard_is_away_serves_the_others_and_finds_it_later(
    servers: Servers,
) -> None:
    servers.stop("shard-0-a")
    registry = WatchedPools(servers.settings(), "worker-1")
    try:
        registry.apply(servers.nodes)
        assert asks(registry.primary("shard-1"))
        until(lambda: refuses(registry.primary("shard-0")))
    finally:
        servers.start("shard-0-a")
    until(lambda: answers(registry.primary("shard-0")))
    registry.close()

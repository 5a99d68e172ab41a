"""A server is there and says nothing: SIGSTOP, or a commit that its replica does not confirm."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg.errors import QueryCanceled

from errors import NodeUnavailable, PoolExhausted, StatementDeadline, Unavailable
from pools import Node, NodePool
from tests.shard_servers import Servers, running_servers, until
from tests.watched_pools import WatchedPools


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with running_servers() as servers:
        yield servers


@pytest.fixture
def registry(servers: Servers) -> Iterator[WatchedPools]:
    """Pools of four, whose statements have half a second."""
    settings = servers.settings(pool_size=4, statement_timeout_seconds=0.5, pool_timeout_seconds=0.2)
    registry = WatchedPools(settings, "worker-1")
    registry.apply(servers.nodes)
    until(lambda: all(registry.primary(s).gauge().available == 4 for s in ("shard-0", "shard-1")))
    yield registry
    registry.close()


def asks(pool: NodePool) -> bool:
    with pool.connection() as connection:
        return connection.execute("SELECT 1").fetchone() == (1,)


def answers(pool: NodePool) -> bool:
    try:
        return asks(pool)
    except Unavailable:
        return False


def outcome(pool: NodePool) -> type[Unavailable] | None:
    try:
        asks(pool)
    except Unavailable as error:
        return type(error)
    return None


def test_a_frozen_server_is_given_up_at_the_deadline_and_then_refused_at_once(
    servers: Servers, registry: WatchedPools
) -> None:
    pool = registry.primary("shard-0")
    servers.freeze("shard-0-a")
    try:
        with pytest.raises(StatementDeadline) as caught:
            asks(pool)
        assert caught.value.phase == "statement"
        assert caught.value.retry_after_seconds == 1
        assert "127.0.0.1" not in caught.value.detail
        for _ in range(100):
            assert outcome(pool) is NodeUnavailable
        assert pool.gauge().available == 0
    finally:
        servers.thaw("shard-0-a")
    until(lambda: answers(pool))
    until(lambda: pool.gauge().available == 4)


def test_requests_of_one_shard_go_on_while_the_others_primary_is_frozen(
    servers: Servers, registry: WatchedPools
) -> None:
    frozen, well = registry.primary("shard-0"), registry.primary("shard-1")
    stop = threading.Event()
    outcomes: set[type[Unavailable] | None] = set()

    def keep_asking() -> None:
        while not stop.is_set():
            outcomes.add(outcome(frozen))

    servers.freeze("shard-0-a")
    try:
        with ThreadPoolExecutor(30) as threads:
            for _ in range(30):
                threads.submit(keep_asking)
            until(lambda: {StatementDeadline, NodeUnavailable} <= outcomes)
            assert all(asks(well) for _ in range(500))
            stop.set()
    finally:
        stop.set()
        servers.thaw("shard-0-a")
    # Those that found every connection taken were not left waiting for the deadline either.
    assert outcomes <= {StatementDeadline, NodeUnavailable, PoolExhausted}
    assert well.gauge().available == 4
    until(lambda: answers(frozen))


def test_statements_under_way_when_a_server_is_frozen_for_a_moment_are_answered(
    servers: Servers,
) -> None:
    registry = WatchedPools(servers.settings(pool_size=2), "worker-1")
    registry.apply(servers.nodes)
    pool = registry.primary("shard-0")
    with ThreadPoolExecutor(1) as threads, pool.connection() as connection:
        servers.freeze("shard-0-a")
        answer = threads.submit(lambda: connection.execute("SELECT 1").fetchone())
        servers.thaw("shard-0-a")
        assert answer.result() == (1,)
    registry.close()


def test_a_frozen_first_host_does_not_keep_from_the_primary_behind_it(servers: Servers) -> None:
    primary, replica = servers.node("shard-0-a"), servers.node("shard-0-b")
    nodes = [
        Node("shard-0-0", "shard-0", replica.host, replica.port),
        Node("shard-0-1", "shard-0", primary.host, primary.port),
    ]
    servers.freeze("shard-0-b")
    registry = WatchedPools(servers.settings(), "worker-1")
    try:
        registry.apply(nodes)
        until(lambda: answers(registry.primary("shard-0")))
        with registry.primary("shard-0").connection() as connection:
            assert connection.node == "shard-0-1"
    finally:
        servers.thaw("shard-0-b")
        registry.close()


def test_a_frozen_node_is_unknown_and_delays_no_news_of_the_others(
    servers: Servers, registry: WatchedPools
) -> None:
    until(lambda: all(state.healthy for state in registry.states().values()))
    servers.freeze("shard-0-b")
    try:
        until(lambda: not registry.states()["shard-0-b"].healthy)
        state = registry.states()["shard-0-b"]
        assert (state.role, state.replay_lag_bytes, state.replay_lag_seconds) == ("unknown", None, None)
        servers.sql("shard-1-b", "SELECT pg_wal_replay_pause()")
        servers.sql("shard-1-a", "CREATE TABLE ahead AS SELECT generate_series(1, 1000)")
        until(lambda: (registry.states()["shard-1-b"].replay_lag_bytes or 0) > 0)
        assert not registry.states()["shard-0-b"].healthy
    finally:
        servers.sql("shard-1-b", "SELECT pg_wal_replay_resume()")
        servers.sql("shard-1-a", "DROP TABLE IF EXISTS ahead")
        servers.thaw("shard-0-b")
    until(lambda: registry.states()["shard-0-b"].healthy)


def test_a_slow_statement_is_ended_by_the_server_and_costs_no_connection(
    registry: WatchedPools,
) -> None:
    pool = registry.primary("shard-0")
    with pool.connection() as connection:
        with pytest.raises(QueryCanceled):
            connection.execute("SELECT pg_sleep(10)")
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert pool.gauge().size == 4


def test_a_commit_that_its_replica_does_not_confirm_is_given_up_and_never_cancelled(
    servers: Servers, registry: WatchedPools
) -> None:
    servers.sql("shard-0-a", "CREATE TABLE kept (n int); GRANT ALL ON kept TO app", database="marketplace")
    servers.synchronous("shard-0-a", "nobody")
    pool = registry.primary("shard-0")
    try:
        with pool.connection() as connection:
            backend = connection.info.backend_pid
            connection.phase = "commit"
            with pytest.raises(StatementDeadline) as caught:
                connection.execute("INSERT INTO kept VALUES (1)")
        assert caught.value.phase == "commit"
        # Longer than the server's own timeout for statements: it does not end the wait either.
        servers.sql("shard-0-a", "SELECT pg_sleep(1)")
        waits = servers.sql("shard-0-a", "SELECT wait_event FROM pg_stat_activity WHERE pid = %s", backend)
        assert waits == [("SyncRep",)]
    finally:
        servers.synchronous("shard-0-a", None)
    until(lambda: servers.sql("shard-0-a", "SELECT n FROM kept", database="marketplace") == [(1,)])
    until(lambda: answers(pool))

"""Pools on real servers, all of them well: what breaks is in tests/faults/test_pools_*.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import psycopg
import pytest

from errors import NodeUnavailable, PoolExhausted, Unavailable
from pools import NodePool, ShardConnection
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
    yield registry
    registry.close()


@pytest.fixture
def narrow(servers: Servers) -> Iterator[WatchedPools]:
    """Pools of one connection, where two may wait, for a tenth of a second."""
    settings = servers.settings(pool_size=1, pool_max_waiting=2, pool_timeout_seconds=0.1)
    registry = WatchedPools(settings, "worker-1")
    registry.apply(servers.nodes)
    until(lambda: registry.primary("shard-0").gauge().available)
    yield registry
    registry.close()


def application_names(servers: Servers, node: str) -> list[str]:
    rows = servers.sql(
        node, "SELECT application_name FROM pg_stat_activity WHERE usename = 'app' ORDER BY application_name"
    )
    return [name for (name,) in rows]


def backend(connection: ShardConnection) -> int:
    return connection.info.backend_pid


# Names and roles


def test_nothing_is_opened_before_the_nodes_are_known(servers: Servers) -> None:
    WatchedPools(servers.settings(), "worker-7")

    assert not [name for name in application_names(servers, "shard-0-a") if name.startswith("worker-7/")]


def test_every_connection_tells_the_server_its_worker_and_its_pool(
    servers: Servers, registry: WatchedPools
) -> None:
    until(
        lambda: len(list(registry.pools())) == 4 and all(pool.gauge().available for pool in registry.pools())
    )

    assert set(application_names(servers, "shard-0-a")) == {
        "worker-1/shard-0-primary",
        "worker-1/sample-shard-0-a",
    }
    assert set(application_names(servers, "shard-1-b")) == {"worker-1/shard-1-b", "worker-1/sample-shard-1-b"}


def test_a_pool_is_named_after_its_shard_or_its_replica(registry: WatchedPools) -> None:
    names = {"shard-0-primary", "shard-1-primary", "shard-0-b", "shard-1-b"}

    until(lambda: {pool.name for pool in registry.pools()} == names)


def test_a_primarys_pool_finds_the_node_that_accepts_writes_wherever_it_stands_in_the_list(
    servers: Servers,
) -> None:
    registry = WatchedPools(servers.settings(), "worker-1")
    registry.apply(list(reversed(servers.nodes)))
    with registry.primary("shard-1").connection() as connection:
        assert connection.node == "shard-1-a"
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)
    registry.close()


def test_a_replicas_pool_talks_to_that_replica(registry: WatchedPools) -> None:
    until(lambda: registry.states()["shard-0-b"].role == "replica" and len(list(registry.pools())) == 4)

    with registry.replica("shard-0-b").connection() as connection:
        assert connection.node == "shard-0-b"
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)


def test_a_primary_has_no_replica_pool(registry: WatchedPools) -> None:
    until(lambda: registry.states()["shard-0-a"].role == "primary")

    with pytest.raises(NodeUnavailable):
        registry.replica("shard-0-a")


def test_a_connection_knows_the_cluster_it_talks_to(servers: Servers, registry: WatchedPools) -> None:
    until(lambda: len(list(registry.pools())) == 4)
    ((identifier,),) = servers.sql("shard-0-a", "SELECT system_identifier FROM pg_control_system()")

    with (
        registry.primary("shard-0").connection() as primary,
        registry.replica("shard-0-b").connection() as replica,
    ):
        assert primary.system_identifier == replica.system_identifier == identifier
    with registry.primary("shard-1").connection() as other:
        assert other.system_identifier not in (0, identifier)


def test_the_server_gives_up_before_the_client_does(registry: WatchedPools) -> None:
    with registry.primary("shard-0").connection() as connection:
        timeouts = connection.execute(
            "SELECT name, setting::int FROM pg_settings"
            " WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout')"
        ).fetchall()
        assert connection.autocommit
        assert connection.execute("SHOW TimeZone").fetchone() == ("UTC",)
        assert dict(timeouts) == {"statement_timeout": 4500, "idle_in_transaction_session_timeout": 5000}
        assert connection.deadline_seconds == 5.0


def test_the_catalog_is_found_by_its_dsn(registry: WatchedPools) -> None:
    for writable in (True, False):
        with registry.catalog(writable=writable).connection() as connection:
            assert connection.execute("SELECT current_database()").fetchone() == ("catalog",)


def test_an_unknown_shard_is_unavailable(registry: WatchedPools) -> None:
    with pytest.raises(NodeUnavailable):
        registry.primary("shard-9")


def test_a_shard_taken_out_of_the_map_is_closed_and_one_put_in_is_opened(servers: Servers) -> None:
    registry = WatchedPools(servers.settings(), "worker-2")
    first, second = (
        [node for node in servers.nodes if node.shard == shard] for shard in ("shard-0", "shard-1")
    )
    registry.apply(first)
    with registry.primary("shard-0").connection():
        pass
    registry.apply(second)

    with pytest.raises(NodeUnavailable):
        registry.primary("shard-0")
    with registry.primary("shard-1").connection() as connection:
        assert connection.node == "shard-1-a"
    until(lambda: not [n for n in application_names(servers, "shard-0-a") if n.startswith("worker-2/")])
    registry.close()


# Taking and returning


def test_a_connection_is_used_again(registry: WatchedPools) -> None:
    pool = registry.primary("shard-0")
    until(lambda: pool.gauge().available == 10)
    seen = set()
    for _ in range(30):
        with pool.connection() as connection:
            seen.add(backend(connection))

    assert len(seen) == 10
    assert pool.gauge().size == 10


def test_the_gauge_counts_what_is_free_and_who_waits(narrow: WatchedPools) -> None:
    pool = narrow.primary("shard-0")
    with ThreadPoolExecutor(1) as threads, pool.connection():
        assert pool.gauge().available == 0
        waiting = threads.submit(pool.getconn, timeout=30.0)
        until(lambda: pool.gauge().waiting == 1)
    pool.putconn(waiting.result())

    assert (pool.gauge().size, pool.gauge().available, pool.gauge().waiting) == (1, 1, 0)


def test_a_transaction_left_open_is_rolled_back_and_the_connection_kept(narrow: WatchedPools) -> None:
    pool = narrow.primary("shard-0")
    with pool.connection() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS pg_temp.left_open (n int)")
        connection.execute("BEGIN")
        connection.execute("INSERT INTO pg_temp.left_open VALUES (1)")
        first = backend(connection)

    with pool.connection() as connection:
        assert backend(connection) == first
        assert connection.execute("SELECT count(*) FROM pg_temp.left_open").fetchone() == (0,)


def test_a_connection_left_in_the_middle_of_a_pipeline_is_replaced(narrow: WatchedPools) -> None:
    pool = narrow.primary("shard-0")
    with pool.connection() as connection:
        first = backend(connection)
        connection.pgconn.enter_pipeline_mode()

    replacement = pool.getconn(timeout=30.0)
    assert backend(replacement) != first
    pool.putconn(replacement)
    assert pool.gauge().size == 1


def test_an_error_of_a_statement_costs_no_connection(narrow: WatchedPools) -> None:
    pool = narrow.primary("shard-0")
    with pool.connection() as connection:
        first = backend(connection)
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1 / 0")
    with pool.connection() as connection:
        assert backend(connection) == first


def test_statements_stay_prepared(narrow: WatchedPools) -> None:
    pool = narrow.primary("shard-0")
    for _ in range(3):
        with pool.connection() as connection:
            connection.execute("SELECT %(n)s::int", {"n": 1}, prepare=True)
    with pool.connection() as connection:
        prepared = connection.execute(
            "SELECT generic_plans + custom_plans FROM pg_prepared_statements WHERE statement LIKE 'SELECT $1%'"
        ).fetchall()
        assert prepared == [(3,)]


def test_the_phase_is_told_anew_for_each_use(narrow: WatchedPools) -> None:
    pool = narrow.primary("shard-0")
    with pool.connection() as connection:
        connection.phase = "commit"
    with pool.connection() as connection:
        assert connection.phase == "statement"


# Bounds


def refusal(pool: NodePool) -> Unavailable:
    with pytest.raises(Unavailable) as caught, pool.connection():
        pass
    return caught.value


def test_waiting_takes_no_longer_than_the_setting(narrow: WatchedPools) -> None:
    pool = narrow.primary("shard-0")
    with pool.connection():
        error = refusal(pool)

    assert isinstance(error, PoolExhausted)
    assert error.retry_after_seconds == 1
    assert pool.gauge().waiting == 0


def test_one_more_than_may_wait_is_refused_at_once(narrow: WatchedPools) -> None:
    pool = narrow.primary("shard-0")
    with ThreadPoolExecutor(3) as threads:
        with pool.connection():
            waiting = [threads.submit(pool.getconn, timeout=1000.0) for _ in range(2)]
            until(lambda: pool.gauge().waiting == 2)
            one_more = threads.submit(pool.getconn, timeout=1000.0)
            assert isinstance(one_more.exception(timeout=30.0), PoolExhausted)
            assert pool.gauge().waiting == 2
        for future in waiting:
            pool.putconn(future.result())


def test_nobody_joins_a_line_in_which_somebody_waited_in_vain(narrow: WatchedPools) -> None:
    pool = narrow.primary("shard-0")
    with ThreadPoolExecutor(1) as threads:
        with pool.connection():
            refusal(pool)
            first = threads.submit(pool.getconn, timeout=30.0)
            until(lambda: pool.gauge().waiting == 1)
            with pytest.raises(PoolExhausted):
                pool.getconn(timeout=30.0)
        pool.putconn(first.result())
    with ThreadPoolExecutor(2) as threads:
        with pool.connection():
            # The connection that came back has ended the stall: two may wait again.
            waiting = [threads.submit(pool.getconn, timeout=30.0) for _ in range(2)]
            until(lambda: pool.gauge().waiting == 2)
        for future in waiting:
            pool.putconn(future.result())


def test_a_refusal_names_the_shard_and_no_address(servers: Servers, narrow: WatchedPools) -> None:
    pool = narrow.primary("shard-0")
    with pool.connection():
        detail = refusal(pool).detail

    assert "shard-0" in detail
    assert "127.0.0.1" not in detail
    assert not any(str(node.port) in detail for node in servers.nodes)


def test_an_exhausted_pool_takes_nothing_from_another(narrow: WatchedPools) -> None:
    with narrow.primary("shard-0").connection():
        refusal(narrow.primary("shard-0"))
        with narrow.primary("shard-1").connection() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_many_threads_share_a_pool_and_none_is_forgotten(registry: WatchedPools) -> None:
    pool = registry.primary("shard-0")
    start = Event()

    def work() -> int:
        start.wait()
        done = 0
        for _ in range(50):
            with pool.connection() as connection:
                done += connection.execute("SELECT 1").fetchone() == (1,)
        return done

    with ThreadPoolExecutor(30) as threads:
        futures = [threads.submit(work) for _ in range(30)]
        start.set()
        assert sum(future.result() for future in futures) == 30 * 50
    assert (pool.gauge().size, pool.gauge().available, pool.gauge().waiting) == (10, 10, 0)


# Life and processes


def test_a_closed_registry_refuses_and_leaves_no_connection(servers: Servers) -> None:
    registry = WatchedPools(servers.settings(), "worker-3")
    registry.apply(servers.nodes)
    pool = registry.primary("shard-0")
    with pool.connection() as given_out:
        registry.close()
        assert given_out.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(NodeUnavailable):
            pool.getconn()

    until(lambda: not [n for n in application_names(servers, "shard-0-a") if n.startswith("worker-3/")])


def test_a_forked_child_cannot_use_its_parents_pool_and_does_it_no_harm(registry: WatchedPools) -> None:
    pool = registry.primary("shard-0")
    until(lambda: pool.gauge().available == 10)
    child = os.fork()
    if child == 0:
        try:
            pool.getconn()
        except RuntimeError as error:
            os._exit(0 if "after the fork" in str(error) else 1)
        os._exit(2)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    for _ in range(10):
        with pool.connection() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


# What the probes see


def test_states_say_roles_and_that_nothing_lags(registry: WatchedPools) -> None:
    until(lambda: all(state.replay_lag_bytes == 0 for state in registry.states().values()))

    states = registry.states()
    assert {name: state.role for name, state in states.items()} == {
        "shard-0-a": "primary",
        "shard-0-b": "replica",
        "shard-1-a": "primary",
        "shard-1-b": "replica",
    }
    assert all(state.healthy and state.replay_lag_seconds == 0.0 for state in states.values())


def test_a_replica_that_does_not_replay_lags_by_bytes_and_by_seconds(
    servers: Servers, registry: WatchedPools
) -> None:
    until(lambda: all(state.replay_lag_bytes == 0 for state in registry.states().values()))
    servers.sql("shard-0-b", "SELECT pg_wal_replay_pause()")
    try:
        servers.sql("shard-0-a", "CREATE TABLE ahead AS SELECT generate_series(1, 1000)")
        until(lambda: (registry.states()["shard-0-b"].replay_lag_bytes or 0) > 0)
        until(lambda: (registry.states()["shard-0-b"].replay_lag_seconds or 0) > 0)
        assert registry.states()["shard-1-b"].replay_lag_bytes == 0
    finally:
        servers.sql("shard-0-b", "SELECT pg_wal_replay_resume()")
        servers.sql("shard-0-a", "DROP TABLE ahead")
    until(lambda: registry.states()["shard-0-b"].replay_lag_seconds == 0.0)

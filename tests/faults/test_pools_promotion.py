"""A replica becomes the primary: the pools follow by themselves, with the map unchanged."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from errors import NodeUnavailable, Unavailable
from pools import NodePool
from tests.shard_servers import Servers, running_servers, until
from tests.watched_pools import WatchedPools


@pytest.fixture
def servers() -> Iterator[Servers]:
    with running_servers(shards=1) as servers:
        yield servers


@pytest.fixture
def registry(servers: Servers) -> Iterator[WatchedPools]:
    registry = WatchedPools(servers.settings(), "worker-1")
    registry.apply(servers.nodes)
    until(lambda: {pool.name for pool in registry.pools()} == {"shard-0-primary", "shard-0-b"})
    until(lambda: all(pool.gauge().available for pool in registry.pools()))
    yield registry
    registry.close()


def writes_to(pool: NodePool) -> str:
    """The name of the node that took a write; empty where none does."""
    try:
        with pool.connection() as connection:
            connection.execute("SELECT set_config('statement_timeout', '0', true), pg_current_xact_id()")
            return connection.node
    except Unavailable:
        return ""


def test_the_primarys_pool_finds_the_replica_that_was_promoted_when_the_primary_died(
    servers: Servers, registry: WatchedPools
) -> None:
    pool = registry.primary("shard-0")
    assert writes_to(pool) == "shard-0-a"
    servers.stop("shard-0-a", signal.SIGQUIT)
    servers.sql("shard-0-b", "SELECT pg_promote()")

    until(lambda: writes_to(pool) == "shard-0-b")
    until(lambda: pool.gauge().available == 10)
    until(lambda: registry.states()["shard-0-b"].role == "primary")
    with pytest.raises(NodeUnavailable):
        registry.replica("shard-0-b")
    until(lambda: registry.states()["shard-0-a"].role == "unknown")


def test_a_replicas_pool_keeps_no_connection_to_a_node_that_has_become_a_primary(
    servers: Servers, registry: WatchedPools
) -> None:
    replica = registry.replica("shard-0-b")
    servers.stop("shard-0-a", signal.SIGQUIT)
    servers.sql("shard-0-b", "SELECT pg_promote()")

    def closed() -> bool:
        try:
            with replica.connection():
                return False
        except NodeUnavailable:
            return True

    until(closed)
    reads = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'worker-1/shard-0-b'"
    until(lambda: servers.sql("shard-0-b", reads) == [(0,)])


def test_a_replica_that_appears_later_gets_its_pool(servers: Servers) -> None:
    servers.stop("shard-0-b")
    registry = WatchedPools(servers.settings(), "worker-1")
    registry.apply(servers.nodes)
    until(lambda: registry.states()["shard-0-a"].healthy)
    with pytest.raises(NodeUnavailable):
        registry.replica("shard-0-b")
    servers.start("shard-0-b")

    until(lambda: "shard-0-b" in {pool.name for pool in registry.pools()})
    with registry.replica("shard-0-b").connection() as connection:
        assert connection.node == "shard-0-b"
    registry.close()

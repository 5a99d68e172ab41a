"""Small catalogs for tests: shards of one node each, connections, a count of how often one was asked."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import psycopg
from psycopg.conninfo import make_conninfo

from devcluster.bootstrap import CATALOG_DATABASE
from devcluster.cluster import Cluster
from devcluster.publish import settings_values
from pools.node import Node
from routing.catalog import Catalog, CatalogConnection, NewShard


@contextmanager
def empty_catalog(cluster: Cluster) -> Iterator[str]:
    """A catalog of its own, as it is before any shard is registered; its DSN, for the service's role."""
    name = f"test_{secrets.token_hex(4)}_catalog"
    primary = cluster.primary(cluster.topology.shard_names[0])
    with cluster.postgres.connect(primary) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{CATALOG_DATABASE}" STRATEGY wal_log')
    try:
        with cluster.postgres.connect(primary, name) as connection:
            connection.execute("TRUNCATE shards, nodes, partitions, ranges, pins, flags")
            connection.execute("UPDATE map_state SET epoch = 1")
        yield make_conninfo(settings_values(cluster)["CATALOG_DSN"], dbname=name)
    finally:
        with cluster.postgres.connect(primary) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def connect(dsn: str) -> CatalogConnection:
    return psycopg.connect(dsn, autocommit=True, target_session_attrs="read-write")


def catalog_at(dsn: str) -> Catalog:
    return Catalog(lambda: connect(dsn))


def shards(*names: str, first_port: int = 1) -> list[NewShard]:
    """Shards of one node each, on neighbouring ports."""
    ports = itertools.count(first_port)
    return [NewShard(name, 1.0, [Node(f"{name}-a", name, "127.0.0.1", next(ports))]) for name in names]


class CountingSource:
    """A source of connections for a `MapCache` that counts, and that a test can hold up."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.asked = 0
        self.open = threading.Event()
        self.open.set()

    def __call__(self) -> AbstractContextManager[CatalogConnection]:
        self.asked += 1
        self.open.wait()
        return connect(self.dsn)


def until(condition: Callable[[], object]) -> None:
    """Return once the condition holds; the test's own time limit ends a wait in vain."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.01)

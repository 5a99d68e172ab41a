"""Small catalogs for tests: shards of one node each, connections, a count of how often one was asked."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import psycopg

from pools.node import Node
from routing.catalog import Catalog, CatalogConnection, NewShard


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

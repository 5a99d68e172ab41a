"""Servers that a test may stop, freeze, restart and promote: two shards of a primary and one replica each."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psutil

import config
from config import Settings
from devcluster import publish
from devcluster.cluster import Cluster
from devcluster.processes import Process
from devcluster.topology import HOST, PostgresNode
from pools import Node
from tests.cluster_fixtures import running_cluster

T = TypeVar("T")


def until(condition: Callable[[], T], seconds: float = 30.0) -> T:
    """Wait until the condition is true, and return what it was."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)
    return found


class Servers:
    """A cluster by the names of its nodes. `sql` runs as the administrator."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.nodes = [Node(node.name, node.shard, HOST, node.port) for node in cluster.topology.nodes()]

    def settings(self, **changed: Any) -> Settings:
        """The settings that lead a worker here, some of them changed. Pools are of ten, unless they say otherwise."""
        changed = {"pool_size": 10, **changed}
        values = publish.settings_values(self.cluster) | {name.upper(): str(v) for name, v in changed.items()}
        return config.load(values | {"VAR": str(self.cluster.layout.var)})

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def sql(
        self, name: str, text: str, *parameters: Any, database: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        """Run one statement on one node and return its rows."""
        with self.cluster.postgres.connect(self._node(name), database) as connection:
            cursor = connection.execute(text, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def synchronous(self, name: str, standbys: str | None) -> None:
        """Have a primary's commits wait for these standbys; None: for whom they waited before."""
        change = f"SET synchronous_standby_names = '{standbys}'" if standbys is not None else "RESET ALL"
        before = self.sql(name, "SHOW synchronous_standby_names")
        self.sql(name, f"ALTER SYSTEM {change}")
        self.sql(name, "SELECT pg_reload_conf()")
        until(lambda: self.sql(name, "SHOW synchronous_standby_names") != before)

    def stop(self, name: str, number: int = signal.SIGINT) -> None:
        assert not self.cluster.launcher.stop([self._process(name)], [(number, 30.0)])

    def start(self, name: str) -> None:
        node = self._node(name)
        self.cluster.postgres.start(node, self.cluster.topology.nodes(node.shard))

    def pid(self, name: str) -> int:
        """The process id of a server's main process; the others are its children."""
        return self._process(name).pid

    def freeze(self, name: str) -> None:
        """Stop every process of a server where it stands; it goes on with `thaw`."""
        postmaster = self._postmaster(name)
        postmaster.suspend()  # first, so that no child is born while the others are stopped
        for child in postmaster.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.suspend()

    def thaw(self, name: str) -> None:
        postmaster = self._postmaster(name)
        for child in postmaster.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.resume()
        postmaster.resume()

    def _postmaster(self, name: str) -> psutil.Process:
        return psutil.Process(self._process(name).pid)

    def _process(self, name: str) -> Process:
        return next(process for process in self.cluster.launcher.recorded() if process.name == name)

    def _node(self, name: str) -> PostgresNode:
        return next(node for node in self.cluster.topology.nodes() if node.name == name)


@contextmanager
def running_servers(**topology: int) -> Iterator[Servers]:
    with running_cluster(**{"shards": 2, "replicas": 1, "locks": 0, **topology}) as cluster:
        yield Servers(cluster)

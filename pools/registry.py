"""All pools of one worker: one a shard's primary, one a replica, one for the catalog.

Who is what is discovered: a primary's pool lists every node of its shard and takes the one that accepts writes
(libpq's `target_session_attrs=read-write`); a replica's pool is open while its node is a replica.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from config import Settings
from errors import NodeUnavailable
from pools.connection import ShardConnection
from pools.node import Node
from pools.pool import NodePool
from pools.probe import NodeProbe, NodeState, PrimaryHistory

logger = logging.getLogger("pools")

CATALOG_POOL_SIZE = 2
# The probes' own patience, far below the requests': a node that says nothing for so long is not healthy.
PROBE_DEADLINE_SECONDS = 2.0
# The server gives a statement up before the client gives up the server, so that a slow statement ends with an answer.
SERVER_SHARE_OF_DEADLINE = 0.9
# Distinct statements a connection keeps prepared; the service has about a hundred, psycopg's default is 100.
PREPARED_STATEMENTS = 500


class PoolRegistry:
    """The pools of one worker, named `worker` in `application_name`. Opens nothing before `apply()` or `catalog()`."""

    def __init__(self, settings: Settings, worker: str) -> None:
        self._settings = settings
        self._worker = worker
        self._lock = threading.RLock()
        self._nodes: dict[str, Node] = {}
        self._names: dict[tuple[str, int], Node] = {}
        self._primaries: dict[str, NodePool] = {}
        self._replicas: dict[str, NodePool] = {}
        self._catalogs: dict[str, NodePool] = {}
        self._probes: dict[str, NodeProbe] = {}
        self._histories: dict[str, PrimaryHistory] = {}
        self._closed = False

    def apply(self, nodes: Sequence[Node]) -> None:
        """Open pools for new shards and nodes, close those of what is gone. Does not wait for any server."""
        wanted = {node.name: node for node in nodes}
        with self._lock:
            if self._closed or wanted == self._nodes:
                return
            gone = [node for name, node in self._nodes.items() if wanted.get(name) != node]
            new = [node for name, node in wanted.items() if self._nodes.get(name) != node]
            self._nodes = wanted
            self._names = {(node.host, node.port): node for node in nodes}
            shards = {node.shard for node in nodes}
            for node in gone:
                self._probes.pop(node.name).stop()
                self._close_replica(node.name)
            for shard in [shard for shard in self._primaries if shard not in shards]:
                self._primaries.pop(shard).close()
                self._histories.pop(shard)
            for shard in sorted(shards - self._primaries.keys()):
                self._histories[shard] = PrimaryHistory()
                self._primaries[shard] = pool = self._primary_pool(shard)
                pool.open()
            for node in new:
                self._probes[node.name] = probe = self._new_probe(node)
                probe.start()

    def primary(self, shard: str) -> NodePool:
        """The pool to whichever node of the shard accepts writes. Raises `NodeUnavailable` for an unknown shard."""
        try:
            return self._primaries[shard]
        except KeyError:
            raise NodeUnavailable(f"{shard} is not available.", retry_after_seconds=1) from None

    def replica(self, node: str) -> NodePool:
        """The pool to this replica. Raises `NodeUnavailable` where the node is not known to be one now."""
        try:
            return self._replicas[node]
        except KeyError:
            raise NodeUnavailable(f"{node} is not available as a replica.", retry_after_seconds=1) from None

    def catalog(self, *, writable: bool = True) -> NodePool:
        """The pool to the catalog's primary, or (for reading the map while that is away) to any node that has it."""
        name = "catalog" if writable else "catalog-any"
        pool = self._catalogs.get(name)
        if pool is None:
            with self._lock:
                pool = self._catalogs.get(name)
                if pool is None:
                    self._catalogs[name] = pool = self._catalog_pool(name, writable)
                    pool.open()
        return pool

    def states(self) -> Mapping[str, NodeState]:
        """Every node's state by its name, as last sampled; a fresh dictionary."""
        return {name: probe.state for name, probe in list(self._probes.items())}

    def pools(self) -> Iterable[NodePool]:
        return [*self._primaries.values(), *self._replicas.values(), *self._catalogs.values()]

    def close(self) -> None:
        """Close every pool and stop the probes. Connections given out are closed as they come back."""
        with self._lock:
            self._closed = True
            pools = list(self.pools())
            for probe in self._probes.values():
                probe.stop()
            self._primaries, self._replicas, self._catalogs, self._probes = {}, {}, {}, {}
        for pool in pools:
            pool.close()

    # What the probes find out.

    def _new_probe(self, node: Node) -> NodeProbe:
        return NodeProbe(
            node,
            connect=self._connect_probe,
            history=self._histories[node.shard],
            urgent=lambda: self._primary_of(node.shard) is None,
            changed=self._state_changed,
        )

    def _primary_of(self, shard: str) -> str | None:
        """The shard's one healthy primary, as the probes saw it; None where there is none, or more than one."""
        found = [
            probe.node.name
            for probe in list(self._probes.values())
            if probe.node.shard == shard and probe.state.healthy and probe.state.role == "primary"
        ]
        return found[0] if len(found) == 1 else None

    def _state_changed(self, node: Node, state: NodeState) -> None:
        """A replica's pool is opened when its node turns out to be one, and closed when it has become a primary."""
        with self._lock:
            if self._closed or self._nodes.get(node.name) != node:
                return
            if state.role == "replica" and node.name not in self._replicas:
                self._replicas[node.name] = pool = self._replica_pool(node)
                pool.open()
            elif state.role == "primary":
                self._close_replica(node.name)

    def _close_replica(self, name: str) -> None:
        pool = self._replicas.pop(name, None)
        if pool is not None:
            # Not here: closing waits for the pool's threads, and the caller holds the lock, or is a probe.
            threading.Thread(target=pool.close, name=f"close-{name}", daemon=True).start()

    # How connections are made.

    def _primary_pool(self, shard: str) -> NodePool:
        name = f"{shard}-primary"

        def conninfo() -> str:
            nodes = sorted(
                (n for n in self._nodes.values() if n.shard == shard), key=self._likely_primary_first
            )
            return self._conninfo(nodes, name, "read-write")

        return self._pool(name, shard, conninfo, self._settings.pool_size)

    def _likely_primary_first(self, node: Node) -> tuple[int, str]:
        """The order in which a primary's pool asks: who was seen as the primary, who is unknown, then the replicas."""
        probe = self._probes.get(node.name)
        role = probe.state.role if probe is not None else "unknown"
        return {"primary": 0, "unknown": 1, "replica": 2}[role], node.name

    def _replica_pool(self, node: Node) -> NodePool:
        conninfo = self._conninfo([node], node.name, "standby")
        return self._pool(node.name, node.name, lambda: conninfo, self._settings.replica_pool_size)

    def _catalog_pool(self, name: str, writable: bool) -> NodePool:
        parameters = conninfo_to_dict(self._settings.catalog_dsn)
        parameters["target_session_attrs"] = "read-write" if writable else "any"
        conninfo = make_conninfo(**{**parameters, **self._session(name)})
        return self._pool(name, "The catalog", lambda: conninfo, CATALOG_POOL_SIZE if writable else 1)

    def _pool(self, name: str, subject: str, conninfo: Any, size: int) -> NodePool:
        return NodePool(
            name,
            subject=subject,
            conninfo=conninfo,
            kwargs={"autocommit": True},
            configure=self._configure,
            size=size,
            max_waiting=self._settings.pool_max_waiting,
            timeout_seconds=self._settings.pool_timeout_seconds,
        )

    def _conninfo(self, nodes: Sequence[Node], name: str, target: str) -> str:
        return make_conninfo(
            host=",".join(node.host for node in nodes),
            port=",".join(str(node.port) for node in nodes),
            dbname=self._settings.database_name,
            user=self._settings.database_user,
            password=self._settings.database_password,
            target_session_attrs=target,
            **self._session(name),
        )

    def _session(self, name: str) -> dict[str, Any]:
        """Parameters of every connection. Times in milliseconds where the name does not say seconds."""
        deadline = int(self._settings.statement_timeout_seconds * 1000)
        return {
            "application_name": f"{self._worker}/{name}",
            # Bounds each address, so that a frozen first host does not keep from the next.
            "connect_timeout": self._settings.connect_timeout_seconds,
            # A peer that vanished without a word: unacknowledged data, then silence.
            "tcp_user_timeout": deadline,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "options": (
                f"-c statement_timeout={int(deadline * SERVER_SHARE_OF_DEADLINE)}"
                # A worker that stops in the middle of a transaction gives its locks back.
                f" -c idle_in_transaction_session_timeout={deadline} -c TimeZone=UTC"
            ),
        }

    def _configure(self, connection: ShardConnection) -> None:
        connection.deadline_seconds = self._settings.statement_timeout_seconds
        node = self._names.get((connection.info.host, connection.info.port))
        connection.node = node.name if node is not None else "catalog"
        connection.shard = node.shard if node is not None else "The catalog"
        connection.prepared_max = PREPARED_STATEMENTS
        row = connection.execute("SELECT system_identifier FROM pg_control_system()").fetchone()
        assert row is not None
        connection.system_identifier = row[0]

    def _connect_probe(self, node: Node) -> ShardConnection:
        connection = ShardConnection.connect(
            self._conninfo([node], f"probe-{node.name}", "any"), autocommit=True
        )
        connection.node, connection.shard = node.name, node.shard
        connection.deadline_seconds = PROBE_DEADLINE_SECONDS
        return connection

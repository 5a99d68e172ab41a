"""All pools of one worker: one to each shard's primary, one to each replica, one to the catalog.

Who is what is discovered: a primary's pool asks the nodes of its shard and takes the one that accepts
writes (libpq's `target_session_attrs=read-write`); a replica's pool is open while its node is a replica.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from config import Settings
from errors import NodeUnavailable
from pools.connection import ShardConnection
from pools.node import Node
from pools.pool import NodePool
from pools.probe import NodeProbe, NodeState, PrimaryHistory
from pools.session import Session

# For the epoch, the flags and the operator: nothing of a shop's path waits for the catalog.
CATALOG_POOL_SIZE = 2
# So its pool may find it later than a shard's: each attempt authenticates at the replicas too, who say no.
CATALOG_PROBE_SECONDS = 0.5
# The probes' patience, below a request's: a node that says nothing for so long is not healthy.
PROBE_DEADLINE_SECONDS = 2.0
# Distinct statements a connection keeps prepared; the service has about a hundred, psycopg's default is 100.
PREPARED_STATEMENTS = 500


class PoolRegistry:
    """The pools of one worker. Opens nothing before `apply()` or `catalog()`, which come after the fork."""

    def __init__(self, settings: Settings, worker: str = "worker") -> None:
        self._settings = settings
        self._session = Session(settings, worker)
        self._lock = threading.RLock()
        self._nodes: dict[str, Node] = {}
        self._primaries: dict[str, NodePool] = {}
        self._replicas: dict[str, NodePool] = {}
        self._catalogs: dict[str, NodePool] = {}
        self._probes: dict[str, NodeProbe] = {}
        self._histories: dict[str, PrimaryHistory] = {}
        self._closed = False

    def name_worker(self, worker: str) -> None:
        """Name the worker, as `application_name` shows it; before anything is opened."""
        self._session = Session(self._settings, worker)

    def apply(self, nodes: Sequence[Node]) -> None:
        """Open pools for new shards and nodes, close those of what is gone. Waits for no server."""
        wanted = {node.name: node for node in nodes}
        with self._lock:
            if self._closed or wanted == self._nodes:
                return
            gone = [node for name, node in self._nodes.items() if wanted.get(name) != node]
            new = [node for name, node in wanted.items() if self._nodes.get(name) != node]
            self._nodes = wanted
            shards = {node.shard for node in nodes}
            for node in gone:
                self._probes.pop(node.name).stop()
                self._close(self._replicas.pop(node.name, None))
            for shard in self._primaries.keys() - shards:
                self._close(self._primaries.pop(shard))
                del self._histories[shard]
            for shard in sorted(shards - self._primaries.keys()):
                self._histories[shard] = PrimaryHistory()
                self._primaries[shard] = pool = self._primary_pool(shard)
                pool.open()
            for node in new:
                self._probes[node.name] = probe = self._probe(node)
                probe.start()

    def primary(self, shard: str) -> NodePool:
        """The pool to whichever node of the shard accepts writes. Raises `NodeUnavailable` if unknown."""
        try:
            return self._primaries[shard]
        except KeyError:
            raise NodeUnavailable(f"{shard} is not available.", retry_after_seconds=1) from None

    def replica(self, node: str) -> NodePool:
        """The pool to this replica. Raises `NodeUnavailable` where the node is not known to be one now."""
        try:
            return self._replicas[node]
        except KeyError:
            raise NodeUnavailable(f"{node} is not available.", retry_after_seconds=1) from None

    def catalog(self, *, writable: bool = True) -> NodePool:
        """The pool to the catalog's primary, or (to read while that is away) to any node that has it."""
        name, target = ("catalog", "read-write") if writable else ("catalog-any", "any")
        with self._lock:
            pool = self._catalogs.get(name)
            if pool is None:
                conninfo = self._session.to_catalog(name, target)
                size = CATALOG_POOL_SIZE if writable else 1
                self._catalogs[name] = pool = self._pool(name, "The catalog", lambda: conninfo, size)
                pool.probe_seconds = CATALOG_PROBE_SECONDS
                pool.open()
        return pool

    def states(self) -> Mapping[str, NodeState]:
        """Every node's state by its name, as last sampled; a fresh dictionary."""
        return {name: probe.state for name, probe in list(self._probes.items())}

    def pools(self) -> Iterable[NodePool]:
        """All that are open, in no particular order; a fresh list."""
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

    def _probe(self, node: Node) -> NodeProbe:
        return NodeProbe(
            node,
            connect=self._connect_probe,
            history=self._histories[node.shard],
            urgent=lambda: self._primary_of(node.shard) is None,
            changed=self._state_changed,
        )

    def _connect_probe(self, node: Node) -> ShardConnection:
        conninfo = self._session.to_nodes([node], f"probe-{node.name}", "any")
        connection = ShardConnection.connect(conninfo, autocommit=True)
        connection.node, connection.subject = node.name, node.name
        connection.deadline_seconds = PROBE_DEADLINE_SECONDS
        return connection

    def _primary_of(self, shard: str) -> str | None:
        """The shard's one healthy primary, as the probes saw it; None where there is none or two."""
        probes = [probe for probe in list(self._probes.values()) if probe.node.shard == shard]
        found = [probe.node.name for probe in probes if probe.state.healthy and probe.state.role == "primary"]
        return found[0] if len(found) == 1 else None

    def _state_changed(self, node: Node, state: NodeState) -> None:
        """Follow a node's role: its own pool is open while it is a replica; the primary's moves to it."""
        with self._lock:
            if self._closed or self._nodes.get(node.name) != node:
                return
            if state.role == "replica" and node.name not in self._replicas:
                self._replicas[node.name] = replica = self._replica_pool(node)
                replica.open()
            elif state.role == "primary":
                self._close(self._replicas.pop(node.name, None))
                primary = self._primaries[node.shard]
                if primary.node not in ("", node.name) and self._primary_of(node.shard) == node.name:
                    # It still talks to the primary before this one, and would for as long as that one lives.
                    primary.drain()

    @staticmethod
    def _close(pool: NodePool | None) -> None:
        """Closing waits for the pool's threads: not here, where the caller holds the lock or is a probe."""
        if pool is not None:
            threading.Thread(target=pool.close, name=f"close-{pool.name}", daemon=True).start()

    # How pools are made.

    def _primary_pool(self, shard: str) -> NodePool:
        name = f"{shard}-primary"

        def conninfo() -> str:
            candidates = self._candidates(shard)
            if not candidates:
                raise NodeUnavailable(f"{shard} has no primary now.", retry_after_seconds=1)
            return self._session.to_nodes(candidates, name, "read-write")

        def look_again() -> None:
            for probe in list(self._probes.values()):
                if probe.node.shard == shard:
                    probe.wake()

        return self._pool(name, shard, conninfo, self._settings.pool_size, look_again)

    def _candidates(self, shard: str) -> list[Node]:
        """Whom a primary's pool asks, in this order: who was last seen as primary, then who is unknown.

        A replica would say no, after a whole authentication, twenty times a second from every worker. That one of
        them has become the primary is the probes' to see, which look ten times a second where there is none.
        """
        roles = {name: state.role for name, state in self.states().items()}
        nodes = [node for node in self._nodes.values() if node.shard == shard]
        candidates = [node for node in nodes if roles.get(node.name) != "replica"]
        return sorted(candidates, key=lambda node: (roles.get(node.name) != "primary", node.name))

    def _replica_pool(self, node: Node) -> NodePool:
        conninfo = self._session.to_nodes([node], node.name, "standby")
        return self._pool(node.name, node.name, lambda: conninfo, self._settings.replica_pool_size)

    def _pool(
        self,
        name: str,
        subject: str,
        conninfo: Callable[[], str],
        size: int,
        on_refusal: Callable[[], None] = lambda: None,
    ) -> NodePool:
        return NodePool(
            name,
            subject=subject,
            conninfo=conninfo,
            kwargs={"autocommit": True},
            configure=self._configure,
            size=size,
            max_waiting=self._settings.pool_max_waiting,
            timeout_seconds=self._settings.pool_timeout_seconds,
            on_refusal=on_refusal,
        )

    def _configure(self, connection: ShardConnection) -> None:
        connection.deadline_seconds = self._settings.statement_timeout_seconds
        connection.prepared_max = PREPARED_STATEMENTS
        address = connection.info.host, connection.info.port
        node = next((node for node in self._nodes.values() if (node.host, node.port) == address), None)
        connection.node = node.name if node is not None else "catalog"
        connection.subject = node.shard if node is not None else "The catalog"
        (connection.system_identifier,) = connection.execute(
            "SELECT system_identifier FROM pg_control_system()"
        ).fetchone() or (0,)

"""All pools of one worker: one to each shard's primary, one to each replica, one to the catalog.

Who is what is discovered by whoever samples the nodes (routing/replay.py) and told here: a primary's pool leads
to the node on the shard's newest timeline that accepts writes, a replica's is open while its node is a replica. Who
promoted it does not matter.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from config import Settings
from errors import NodeUnavailable
from pools.connection import ShardConnection, Tally
from pools.node import Node, NodeState
from pools.pool import NodePool
from pools.session import Session

# For the epoch, the flags and the operator: nothing of a shop's path waits for the catalog.
CATALOG_POOL_SIZE = 2
# So its pool may find it later than a shard's: each attempt authenticates at the replicas too, who say no.
CATALOG_PROBE_SECONDS = 0.5
# A sample's patience while it connects, below a request's.
SAMPLE_DEADLINE_SECONDS = 2.0
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
        self._states: Mapping[str, NodeState] = {}
        # The newest timeline that each cluster is known to be on, by its system identifier.
        self._timelines: dict[int, int] = {}
        self._tallies: dict[str, Tally] = {}
        self._catalog_turn = 0
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
            self._nodes = wanted
            shards = {node.shard for node in nodes}
            for node in gone:
                self._close(self._replicas.pop(node.name, None))
            for shard in self._primaries.keys() - shards:
                self._close(self._primaries.pop(shard))
            for shard in sorted(shards - self._primaries.keys()):
                self._primaries[shard] = pool = self._primary_pool(shard)
                pool.open()

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
                session = self._session
                size = CATALOG_POOL_SIZE if writable else 1
                self._catalogs[name] = pool = self._pool(
                    name, "The catalog", lambda: session.to_catalog(name, target, self._catalog_turn), size
                )
                pool.probe_seconds = CATALOG_PROBE_SECONDS
                pool.open()
        return pool

    def pools(self) -> Iterable[NodePool]:
        """All that are open, in no particular order; a fresh list."""
        return [*self._primaries.values(), *self._replicas.values(), *self._catalogs.values()]

    def take_statements(self) -> Mapping[str, int]:
        """How many statements requests have sent to each node since the last call. Called by one thread at a time."""
        taken = {}
        for node, tally in list(self._tallies.items()):
            now = tally.statements
            taken[node], tally.taken = now - tally.taken, now
        return taken

    def close(self) -> None:
        """Close every pool. Connections given out are closed as they come back."""
        with self._lock:
            self._closed = True
            pools = list(self.pools())
            self._primaries, self._replicas, self._catalogs = {}, {}, {}
        for pool in pools:
            pool.close()

    # Following what the nodes are.

    def connect(self, node: Node) -> ShardConnection:
        """A connection to one node, whatever its role, apart from the pools: for sampling it."""
        conninfo = self._session.to_nodes([node], f"sample-{node.name}", "any")
        connection = ShardConnection.connect(conninfo, autocommit=True)
        connection.node = connection.subject = node.name
        connection.deadline_seconds = SAMPLE_DEADLINE_SECONDS
        try:
            connection.identify()
        except BaseException:
            connection.abandon()
            raise
        return connection

    def follow(self, states: Mapping[str, NodeState]) -> None:
        """What the nodes were found to be, by name: open, close and move pools accordingly.

        Of one shard at most one node is a primary; one that is `unknown` does not answer, or was primary before.
        """
        with self._lock:
            before, self._states = self._states, states
            if self._closed:
                return
            for node in self._nodes.values():
                state, earlier = states.get(node.name), before.get(node.name)
                if state is not None and (earlier is None or earlier.role != state.role):
                    self._follow(node, state, earlier)
                if state is not None and state.role == "primary":
                    self.saw_timeline(state.system_identifier, state.timeline)

    def saw_timeline(self, system_identifier: int, timeline: int) -> None:
        """A cluster is known to have reached this timeline: whoever writes an older one is not its primary."""
        with self._lock:
            if timeline <= self._timelines.get(system_identifier, 0):
                return
            self._timelines[system_identifier] = timeline
            # One of these may still talk to the primary before this one, for as long as that one lives.
            for pool in [*self._primaries.values(), *self._catalogs.values()]:
                pool.sever(
                    lambda connection: (
                        connection.system_identifier == system_identifier
                        and 0 < connection.timeline < timeline
                    )
                )

    def _follow(self, node: Node, state: NodeState, earlier: NodeState | None) -> None:
        pool = self._replicas.get(node.name)
        if state.role == "primary":
            self._close(self._replicas.pop(node.name, None))
        elif state.role == "replica" and pool is None:
            self._replicas[node.name] = pool = self._replica_pool(node)
            pool.open()
        elif state.role == "unknown" and pool is not None and earlier is not None:
            # It does not answer any more: whoever waits for it is better told now than at the deadline.
            pool.give_up("it does not answer")

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

        return self._pool(name, shard, conninfo, self._settings.pool_size)

    def _candidates(self, shard: str) -> list[Node]:
        """Whom a primary's pool asks, in this order: who was last seen as primary, then who is unknown.

        A replica would say no, after a whole authentication, twenty times a second from every worker. That one of
        them has become the primary is seen as often by who samples them.
        """
        roles = {name: state.role for name, state in self._states.items()}
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
            store_share=self._settings.store_pool_share,
        )

    def _configure(self, connection: ShardConnection) -> None:
        connection.deadline_seconds = self._settings.statement_timeout_seconds
        connection.prepared_max = PREPARED_STATEMENTS
        address = connection.info.host, connection.info.port
        node = next((node for node in self._nodes.values() if (node.host, node.port) == address), None)
        connection.node = node.name if node is not None else "catalog"
        connection.subject = node.shard if node is not None else "The catalog"
        connection.tally = self._tallies.setdefault(connection.node, Tally())
        connection.identify()
        newest = self._timelines.get(connection.system_identifier, 0)
        if 0 < connection.timeline < newest:
            self._catalog_turn += 1  # the next attempt begins with another of the catalog's nodes
            raise NodeUnavailable(
                f"{connection.node} is on timeline {connection.timeline} of {newest}: it was primary before.",
                retry_after_seconds=1,
            )

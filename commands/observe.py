"""One look at every node, all side by side and each with a short patience: a dead one costs no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread

import psycopg

import sql
from commands.cluster import Cluster
from commands.terminal import error_text
from errors import MarketplaceError, StatementDeadline
from operations.load import Load, read_load
from operations.topology import ObservedPool, pool_name
from pools.connection import ShardConnection
from pools.node import Node, NodeState, Role
from routing.shard_map import ShardMap

# For each answer of a node; connecting to it has `connect_timeout_seconds`. A frozen node costs one of the
# two.
PATIENCE_SECONDS = 2.0

# Role, timeline, position and the age of what was replayed last in one statement: a role can change between two. The
# same as node_position() says, which is not there before the migrations.
_LOOK = """
SELECT in_recovery,
       CASE WHEN in_recovery THEN (SELECT received_tli FROM pg_stat_wal_receiver)
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::integer END,
       here.lsn::text, (here.lsn - '0/0'::pg_lsn)::bigint,
       extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8
FROM pg_is_in_recovery() AS role (in_recovery)
CROSS JOIN LATERAL (
    SELECT CASE WHEN in_recovery THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END AS lsn
) AS here
"""
# The service names its connections worker/pool.
_POOL = """
SELECT count(*), count(*) FILTER (WHERE state = 'idle')
FROM pg_stat_activity WHERE datname = current_database() AND split_part(application_name, '/', 2) = %s
"""


@dataclass(frozen=True, slots=True)
class Look:
    """What one node said. `error` is why it said nothing. `timeline` is None where a replica cannot tell."""

    node: Node
    role: Role = "unknown"
    timeline: int | None = None
    lsn: str | None = None
    position: int | None = None
    transaction_age_seconds: float | None = None
    stores: int | None = None
    pool: ObservedPool = field(default_factory=ObservedPool)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """Every node's look, and what follows from all of them together."""

    looks: Mapping[str, Look]

    def states(self) -> dict[str, NodeState]:
        return {name: self._state(look) for name, look in self.looks.items()}

    def gauges(self) -> dict[str, ObservedPool]:
        """By pool, as the service names them."""
        return {
            pool_name(look.node.shard, name, self.role(look)): look.pool for name, look in self.looks.items()
        }

    def role(self, look: Look) -> Role:
        """What the node says, but that it is primary only where no other of its shard is on a newer timeline.

        Then another one was promoted, and whoever says so was primary before and has not come back as a replica yet.
        """
        return (
            "unknown" if look.role == "primary" and look is not self.primary(look.node.shard) else look.role
        )

    def were_primary(self) -> Sequence[Look]:
        """Those that still take themselves for one."""
        return [look for look in self.looks.values() if look.role != self.role(look)]

    def stores(self, shard: str) -> int | None:
        """As the primary says; without one, as the replica that has replayed most."""
        looks = [look for look in self.looks.values() if look.node.shard == shard and look.stores is not None]
        best = max(looks, key=lambda look: (self.role(look) == "primary", look.position or 0), default=None)
        return best.stores if best else None

    def primary(self, shard: str) -> Look | None:
        """Of those that say they are, the one on the shard's newest timeline; as the service's sampler judges."""
        looks = [look for look in self.looks.values() if look.node.shard == shard]
        newest = max((look.timeline or 0 for look in looks), default=0)
        found = [look for look in looks if look.role == "primary" and look.timeline == newest]
        return max(found, key=lambda look: look.node.name, default=None)

    def _state(self, look: Look) -> NodeState:
        name, role = look.node.name, self.role(look)
        if role == "unknown":
            return NodeState(name)
        if role == "primary":
            return NodeState(name, "primary", True, 0, 0.0)
        primary = self.primary(look.node.shard)
        if primary is None or primary.position is None or look.position is None:
            return NodeState(name, "replica", True)
        behind = max(0, primary.position - look.position)
        # An idle primary's last transaction may be old; a replica that has it is not behind for that.
        return NodeState(name, "replica", True, behind, look.transaction_age_seconds if behind else 0.0)


def observe(cluster: Cluster, shard_map: ShardMap) -> Observation:
    """Ask every node at once. Takes about as long as the slowest may, however many they are."""
    nodes = shard_map.nodes
    with ThreadPoolExecutor(max(1, len(nodes)), "observe") as threads:
        looks = threads.map(lambda node: _look(cluster.node_dsn(node), node), nodes)
        return Observation({look.node.name: look for look in looks})


def ask_load(cluster: Cluster) -> Load | None:
    """What the workers have reported; None where the catalog's primary does not say so in time."""
    answers: SimpleQueue[Load | None] = SimpleQueue()

    def ask() -> None:
        load = None
        with suppress(psycopg.Error, MarketplaceError):
            load = read_load(cluster.catalog)
        answers.put(load)

    # A daemon: the command ends without waiting for a node that is frozen.
    Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=PATIENCE_SECONDS)
    except Empty:
        return None


def _look(dsn: str, node: Node) -> Look:
    try:
        with ShardConnection.connect(dsn, autocommit=True) as connection:
            connection.node = connection.subject = node.name
            connection.deadline_seconds = PATIENCE_SECONDS
            in_recovery, timeline, lsn, position, age = connection.execute(_LOOK).fetchone() or (None,) * 5
            role: Role = "replica" if in_recovery else "primary"
            pool = connection.execute(_POOL, [pool_name(node.shard, node.name, role)]).fetchone() or ()
            return Look(
                node, role, timeline, lsn, position, age, _count_stores(connection), ObservedPool(*pool)
            )
    except (psycopg.Error, StatementDeadline) as error:
        return Look(node, error=error_text(error))


def _count_stores(connection: ShardConnection) -> int | None:
    try:
        # Asked of every node, so that a shard whose primary is away still says how many it has.
        row = connection.execute(sql.query("count_stores").text).fetchone()
    except psycopg.errors.UndefinedTable:
        return None  # not migrated yet
    return row[0] if row else None

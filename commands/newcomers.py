"""Whether servers that are to become a shard are fit for it: one primary, its streaming replicas, and nobody's data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from string import ascii_lowercase

import psycopg
from psycopg.conninfo import conninfo_to_dict

from commands import failover_upstream as upstream
from commands.cluster import Cluster
from commands.terminal import Failure, error_text
from errors import StatementDeadline
from pools.connection import ShardConnection
from pools.node import Node
from routing.shard_map import ShardMap

# For each answer of a server.
_PATIENCE_SECONDS = 5.0
_DEFAULT_PORT = 5432
# What the catalog takes for a node's.
_NODE_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")

_LOOK = """
SELECT in_recovery,
       (SELECT system_identifier FROM pg_control_system()),
       current_setting('server_version_num')::integer / 10000,
       current_setting('wal_level'),
       current_setting('cluster_name'),
       current_setting('primary_conninfo'),
       CASE WHEN in_recovery THEN (SELECT received_tli FROM pg_stat_wal_receiver WHERE status = 'streaming')
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::integer END,
       ARRAY(SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'),
       current_setting('synchronous_standby_names')
FROM pg_is_in_recovery() AS role (in_recovery)
"""
_FOREIGN = """
SELECT count(*) FILTER (WHERE relname = 'schema_migrations') = 0 AND count(*) > 0 FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
"""
_OF_STORES = """
SELECT relname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attname = 'store_id'
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND NOT attisdropped ORDER BY relname
"""


@dataclass(frozen=True, slots=True)
class Newcomer:
    """What one server said. `timeline` is None of a replica that does not stream; `streams_to` are a primary's."""

    address: str
    in_recovery: bool
    system_identifier: int
    version: int
    wal_level: str
    cluster_name: str
    conninfo: str
    timeline: int | None
    streams_to: Sequence[str]
    synchronous_standby_names: str

    @property
    def name_at_primary(self) -> str:
        return upstream.name_in(self.conninfo) or self.cluster_name or "walreceiver"


def addresses(dsns: Sequence[str]) -> list[tuple[str, int]]:
    """Host and port of each DSN; a role and a password in it do not count. Raises `Failure` where it names none."""
    found = []
    for dsn in dsns:
        try:
            values = conninfo_to_dict(dsn)
        except psycopg.ProgrammingError as error:
            raise Failure(f"--node takes a DSN, such as 'host=db7 port=5432': {error_text(error)}") from error
        host, port = str(values.get("host") or ""), str(values.get("port") or _DEFAULT_PORT)
        if not host or "," in host or not port.isdecimal():
            raise Failure("each --node names one server: host=... port=...")
        found.append((host, int(port)))
    if len(set(found)) < len(found):
        raise Failure("a server is named twice")
    return found


def examine(
    cluster: Cluster, shard_map: ShardMap, name: str, servers: Sequence[tuple[str, int]]
) -> list[Node]:
    """The nodes that these servers will be, the primary first. Raises `Failure`, in one line, where one is not fit."""
    nodes = [Node(f"{host}:{port}", name, host, port) for host, port in servers]
    for node in nodes:
        if known := [one for one in shard_map.nodes if (one.host, one.port) == (node.host, node.port)]:
            raise Failure(f"{node.name} is {known[0].name} already")
    with ThreadPoolExecutor(len(nodes) + len(shard_map.shards), "examine") as threads:
        looks = threads.map(lambda node: _look(cluster, node), nodes)
        others = threads.map(lambda shard: _look_at_shard(cluster, shard_map, shard.name), shard_map.shards)
        found = list(looks)
        primary = _check_group(found)
        _check_beside(found, dict(zip((shard.name for shard in shard_map.shards), others, strict=True)))
    _check_empty(cluster, nodes[found.index(primary)])
    ordered = sorted(zip(found, nodes, strict=True), key=lambda pair: pair[0] is not primary)
    names = _names(name, [look for look, _ in ordered], shard_map)
    return [Node(named, name, node.host, node.port) for named, (_, node) in zip(names, ordered, strict=True)]


def unconfirmed(cluster: Cluster, nodes: Sequence[Node]) -> bool:
    """Whether a commit on these would wait for no replica although there is one."""
    look = _look(cluster, nodes[0])
    return len(nodes) > 1 and not look.synchronous_standby_names


def _look(cluster: Cluster, node: Node) -> Newcomer:
    address = f"{node.host}:{node.port}"
    try:
        with ShardConnection.connect(cluster.node_dsn(node), autocommit=True) as connection:
            look = _ask(connection, address)
    except (psycopg.Error, StatementDeadline) as error:
        raise Failure(f"{address} cannot be asked: {error_text(error)}") from error
    try:
        with ShardConnection.connect(cluster.service_dsn(node), autocommit=True) as connection:
            connection.deadline_seconds = _PATIENCE_SECONDS
            connection.identify()
    except (psycopg.Error, StatementDeadline) as error:
        role = cluster.settings.database_user
        raise Failure(f"the service's role {role} cannot use {address}: {error_text(error)}") from error
    return look


def _look_at_shard(cluster: Cluster, shard_map: ShardMap, shard: str) -> Newcomer:
    try:
        with ShardConnection.connect(cluster.shard_dsn(shard_map, shard), autocommit=True) as connection:
            return _ask(connection, shard)
    except (psycopg.Error, StatementDeadline) as error:
        raise Failure(
            f"the primary of {shard}, to compare with, does not answer: {error_text(error)}"
        ) from error


def _ask(connection: ShardConnection, address: str) -> Newcomer:
    connection.deadline_seconds = _PATIENCE_SECONDS
    return Newcomer(address, *(connection.execute(_LOOK).fetchone() or ()))


def _check_group(found: Sequence[Newcomer]) -> Newcomer:
    """One primary, and replicas that stream from it."""
    primaries = [look for look in found if not look.in_recovery]
    if len(primaries) != 1:
        said = ", ".join(look.address for look in primaries) or "none"
        raise Failure(f"one of the servers has to be the primary; these accept writes: {said}")
    (primary,) = primaries
    for look in found:
        if look.wal_level != "logical":
            raise Failure(f"{look.address} has wal_level={look.wal_level}: moving stores takes logical")
        if look is primary:
            continue
        if look.system_identifier != primary.system_identifier:
            raise Failure(
                f"{look.address} is no replica of {primary.address}: it is a copy of another server"
            )
        if look.timeline != primary.timeline or look.name_at_primary not in primary.streams_to:
            raise Failure(f"{look.address} does not stream from {primary.address} now")
    names = [look.name_at_primary for look in found if look is not primary]
    if len(set(names)) < len(names):
        raise Failure(f"the replicas of {primary.address} need a cluster_name each: {', '.join(names)}")
    return primary


def _check_beside(found: Sequence[Newcomer], shards: dict[str, Newcomer]) -> None:
    for look in found:
        for shard, other in shards.items():
            if look.system_identifier == other.system_identifier:
                raise Failure(f"{look.address} is a server of {shard}, or a copy of one")
            if look.version != other.version:
                raise Failure(
                    f"{look.address} runs PostgreSQL {look.version}, and {shard} {other.version}: copies of a store"
                    " are compared by hashes, which differ between the two"
                )


def _check_empty(cluster: Cluster, primary: Node) -> None:
    with ShardConnection.connect(cluster.node_dsn(primary), autocommit=True) as connection:
        (foreign,) = connection.execute(_FOREIGN).fetchone() or (False,)
        if foreign:
            raise Failure(
                f"{cluster.settings.database_name} on {primary.name} has tables that no migration here has made"
            )
        for (table,) in connection.execute(_OF_STORES).fetchall():
            text = psycopg.sql.SQL("SELECT EXISTS (SELECT FROM {})").format(
                psycopg.sql.Identifier("public", table)
            )
            if (connection.execute(text).fetchone() or (False,))[0]:
                raise Failure(f"{primary.name} holds a marketplace's data already: {table} is not empty")


def _names(shard: str, found: Sequence[Newcomer], shard_map: ShardMap) -> list[str]:
    """Each server's own (cluster_name), where all have one; else the shard's with a letter."""
    own = [look.cluster_name for look in found]
    known = {node.name for node in shard_map.nodes}
    if len(set(own)) == len(own) and all(_NODE_NAME.fullmatch(name) and name not in known for name in own):
        return own
    return [f"{shard}-{letter}" for letter in ascii_lowercase[: len(found)]]

"""Which nodes of a shard have to be brought back: what lies on disk, and what they and their primary say themselves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psycopg

from devcluster import lineage
from devcluster.errors import ClusterError
from devcluster.postgres import Postgres
from devcluster.topology import PostgresNode

# The least that libpq waits, and ample on loopback: whoever does not answer is dead or frozen.
_ANSWER_SECONDS = 2


def left_behind(postgres: Postgres, nodes: Sequence[PostgresNode]) -> list[PostgresNode]:
    """The nodes that were failed over, or whose way back was cut short, by what lies on disk."""
    primaries = lineage.newest_primaries({node: postgres.folder(node) for node in nodes})
    if len(primaries) != 1:
        return []
    return [
        node
        for node in nodes
        if node not in primaries
        and (not postgres.is_standby(node) if postgres.made(node) else aside(postgres, node).exists())
    ]


def strayed(postgres: Postgres, nodes: Sequence[PostgresNode]) -> list[PostgresNode]:
    """The nodes that run and cannot follow the primary, as they and the primary themselves say.

    Such a replica had got more from the old primary than the one that was promoted.
    """
    with suppress(ClusterError, psycopg.Error):
        primary = primary_that_answers(postgres, nodes)
        well = following(postgres, primary)
        return [
            node
            for node in nodes
            if node != primary and node.name not in well and has_strayed(postgres, node, primary)
        ]
    return []


def primary_that_answers(postgres: Postgres, nodes: Sequence[PostgresNode]) -> PostgresNode:
    """A shard's primary. Raises `ClusterError` where it does not write the timeline that is the newest on disk."""
    names = {node.name: node for node in nodes}
    shard = nodes[0].shard
    primary = names[lineage.primary(shard, {name: postgres.folder(node) for name, node in names.items()})]
    try:
        writes = _written_timeline(postgres, primary)
    except psycopg.Error as error:
        raise ClusterError(f"{primary.name}, the primary of {shard}, does not answer") from error
    if writes != lineage.timeline(postgres.folder(primary)):
        raise ClusterError(f"{primary.name} does not write the newest timeline of {shard}")
    return primary


def following(postgres: Postgres, primary: PostgresNode) -> set[str]:
    """The names of the replicas that the primary sends its WAL to."""
    return {
        name for name, state in _connected(postgres, primary).items() if state in ("catchup", "streaming")
    }


def _written_timeline(postgres: Postgres, node: PostgresNode) -> int:
    """The timeline that a server writes; 0 where it only replays. From the WAL file's name: after a promotion the
    control file still tells the old one."""
    with postgres.connect(node, timeout_seconds=_ANSWER_SECONDS) as connection:
        row = connection.execute(
            "SELECT CASE WHEN pg_is_in_recovery() THEN 0 ELSE"
            " ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::integer END"
        ).fetchone()
    return int(row[0]) if row else 0


def has_strayed(postgres: Postgres, node: PostgresNode, primary: PostgresNode) -> bool:
    """Whether a node that runs has what the primary never had; one that does not answer has not.

    A replica that has asks the primary for its WAL time and again, and gets no further than the state "startup". For
    moments a replica that is well is in that state, too; and its control file may name an older timeline than it
    replays. So it is strayed when that was found more than once.
    """
    folder = postgres.folder(primary)
    newest, forks = lineage.timeline(folder), lineage.history(folder)
    with suppress(psycopg.Error), postgres.connect(node, timeout_seconds=_ANSWER_SECONDS) as connection:
        row = connection.execute(
            "SELECT pg_is_in_recovery(), greatest(timeline_id, min_recovery_end_timeline),"
            " coalesce(pg_last_wal_replay_lsn() - '0/0'::pg_lsn, 0)"
            " FROM pg_control_checkpoint(), pg_control_recovery()"
        ).fetchone()
        assert row is not None
        recovers, timeline, replayed = row
        if timeline == newest:
            return False
        if not recovers:  # a primary that somebody has given a standby.signal
            return True
        asks = _connected(postgres, primary).get(node.name) == "startup"
        return asks and (timeline not in forks or replayed > forks[timeline])
    return False


def _connected(postgres: Postgres, primary: PostgresNode) -> dict[str, str]:
    """The replicas that are connected to the primary, and in which state."""
    with postgres.connect(primary, timeout_seconds=_ANSWER_SECONDS) as connection:
        rows = connection.execute("SELECT application_name, state FROM pg_stat_replication").fetchall()
    return dict(rows)


def aside(postgres: Postgres, node: PostgresNode) -> Path:
    """Where a node's folder lies on its way back."""
    return postgres.layout.data / f".rejoining-{node.name}"

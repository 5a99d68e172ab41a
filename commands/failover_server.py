"""One node of a shard in a failover: what it says of itself, and each thing that is done to it. One step, one method.

Every wait has an end. Nothing is ever cancelled: who does not answer in time is left with the statement, and the
connection is closed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import psycopg
from psycopg import errors as pg_errors
from psycopg import waiting
from psycopg.rows import class_row
from psycopg.sql import SQL, Literal

import sql
from commands import failover_upstream as upstream
from commands.failover_look import LOOK, Look
from commands.failover_plan import Standing
from pools.connection import ShardConnection
from pools.node import Node
from routing.lineage import Lineage
from routing.token import Position

# For the connection and for each answer. libpq would wait for two at least.
PATIENCE_SECONDS = 1.0
# How long shutting the gate waits for the writes under way, during which new ones wait behind it.
GATE_LOCK = "3s"
_GATE_PATIENCE_SECONDS = 5.0
_COMMIT_PATIENCE_SECONDS = 5.0
# The gate opens by itself if this run is killed; longer than all that is done before a promotion may take.
_GATE_SHUT_FOR = "30 s"
_ALTERED_FILE = "postgresql.auto.conf"

_SHUT_GATE = """
INSERT INTO closed_timelines (timeline, until) VALUES (wal_timeline(), clock_timestamp() + %s::interval)
ON CONFLICT (timeline) DO UPDATE SET until = excluded.until
"""
# A commit that waits for the standbys as every other does, and touches no table.
_COMMIT = """
SELECT set_config('synchronous_commit', 'on', true), pg_logical_emit_message(true, 'failover', 'takes writes')
"""
_CLIENTS = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
# A worker keeps its samplers' connections to every node.
_COUNT_CLIENTS = f"SELECT count(*) {_CLIENTS} AND application_name NOT LIKE '%%/sample-%%'"
_END_CLIENTS = f"SELECT count(pg_terminate_backend(pid)) {_CLIENTS}"
# Followers of a replica are none of its own: what their slots keep is kept for nobody.
_FORGET_FOLLOWERS = """
SELECT pg_drop_replication_slot(slot_name), pg_create_physical_replication_slot(slot_name)
FROM pg_replication_slots
WHERE slot_name = ANY(%s) AND NOT active AND (restart_lsn IS NOT NULL OR wal_status = 'lost')
"""


class Server:
    """A node that answered. `seen` is the last look; `before` the first, with what is to be put back."""

    def __init__(self, node: Node, connection: ShardConnection) -> None:
        self.node = node
        self.name = node.name
        self._connection = connection
        self.wanted = ""  # what `follow` set
        self.seen = self.before = self._look()

    @classmethod
    def connect(cls, node: Node, dsn: str) -> Self:
        """Raises `psycopg.Error` or `StatementDeadline` where the node does not answer in time."""
        try:
            connection = waiting.wait_conn(ShardConnection._connect_gen(dsn), 0.1, timeout=PATIENCE_SECONDS)
        except pg_errors._WaitTimeout:
            raise psycopg.OperationalError(f"no answer within {PATIENCE_SECONDS:g} s") from None
        connection.autocommit = True
        connection.node = connection.subject = node.name
        connection.deadline_seconds = PATIENCE_SECONDS
        return cls(node, connection)

    def close(self) -> None:
        self._connection.close()

    def look(self) -> Look:
        self.seen = self._look()
        return self.seen

    def lock(self) -> bool:
        """Take the node for this failover, until the connection ends; False where another one has it."""
        return bool(self._value("SELECT pg_try_advisory_lock(hashtext('failover'))"))

    # As a replica.

    @property
    def votes_as(self) -> str:
        """The name under which it confirms commits."""
        return upstream.name_in(self.seen.conninfo) or self.seen.cluster_name or "walreceiver"

    @property
    def touched(self) -> bool:
        """Whether `follow` was called."""
        return bool(self.wanted)

    @property
    def cut_off(self) -> bool:
        """Whether, at the last look, it had taken up what `follow` set and received nothing."""
        return bool(self.wanted) and self.seen.conninfo == self.wanted and not self.seen.receives

    def standing(self, *, cut_off: bool) -> Standing:
        seen = self.seen
        position = Position(seen.system_identifier, seen.timeline, seen.written)
        return Standing(self.name, self.votes_as, position, seen.replayed, cut_off, seen.counted)

    def resume(self) -> bool:
        """Have it replay, should somebody have paused that. False where it is being promoted already."""
        try:
            self._connection.execute("SELECT pg_wal_replay_resume()")
        except pg_errors.ObjectNotInPrerequisiteState:
            return False
        return True

    def follow(self, conninfo: str) -> None:
        """Set primary_conninfo; the startup process then ends the WAL receiver and starts another one."""
        self.wanted = conninfo
        self._connection.execute(SQL("ALTER SYSTEM SET primary_conninfo = {}").format(Literal(conninfo)))
        self._connection.execute("SELECT pg_reload_conf()")

    def put_back(self, siblings: Sequence[Node], primary: Node | None) -> None:
        """Undo `follow`. What a killed run has left is not put back: then it asks for the primary everywhere."""
        if self.before.marked:
            self.follow(upstream.whoever_is_primary(self.before.conninfo, primary, siblings))
        elif (self.before.conninfo_file or "").endswith(_ALTERED_FILE):
            self.follow(self.before.conninfo)
        else:
            self.reset()

    def reset(self) -> None:
        """Have the configuration's own primary_conninfo again."""
        self._connection.execute("ALTER SYSTEM RESET primary_conninfo")
        self._connection.execute("SELECT pg_reload_conf()")

    def lineage(self) -> Lineage:
        """The history of the timeline it is on; where it has none, nothing of another timeline is part of it."""
        identifier, timeline = self.seen.system_identifier, self.seen.timeline
        text = self._value(sql.query("timeline_history").text, {"timeline": timeline})
        return Lineage.parse(identifier, timeline, text) if text else Lineage(identifier, timeline)

    def keep_wal_for(self, slot: str) -> None:
        """Have a slot for a replica that will follow this one; one whose WAL is gone is of no use."""
        if slot:
            self._connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                " WHERE slot_name = %s AND NOT active AND wal_status = 'lost'",
                [slot],
            )
            self._connection.execute(
                "SELECT pg_create_physical_replication_slot(%(slot)s)"
                " WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %(slot)s)",
                {"slot": slot},
            )

    def forget_followers(self, slots: Sequence[str]) -> bool:
        """Keep no WAL for replicas that followed this one, and do so no more. False while one still does."""
        self._connection.execute(_FORGET_FOLLOWERS, [list(slots)])
        kept = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = ANY(%s) AND restart_lsn IS NOT NULL)"
        return not self._value(kept, [list(slots)])

    def promote(self) -> None:
        """Ask for it. It is primary when a look says so."""
        self._connection.execute("SELECT pg_promote(false)")

    # As a primary.

    def shut_gate(self, *, wait: bool) -> int:
        """Let no write begin in this timeline, and return where the log is flushed after the last that did.

        `wait` for those under way, and raise `LockNotAvailable` where they do not end. Not waiting is for a primary
        whose commits hang already, since a failover was killed: they would not end.
        """
        self._connection.deadline_seconds = _GATE_PATIENCE_SECONDS
        with self._confirmed_by_nobody():
            if wait:
                self._connection.execute(SQL("SET LOCAL lock_timeout = {}").format(Literal(GATE_LOCK)))
                self._connection.execute("SELECT pg_advisory_xact_lock(hashtext('closed_timelines'))")
            self._connection.execute(_SHUT_GATE, [_GATE_SHUT_FOR])
        self._connection.deadline_seconds = PATIENCE_SECONDS
        return self.look().written

    def open_gate(self) -> None:
        with self._confirmed_by_nobody():
            self._connection.execute("DELETE FROM closed_timelines WHERE timeline = wal_timeline()")

    def confirming(self) -> int:
        """How many replicas there are that confirm commits."""
        return int(
            self._value(
                "SELECT count(*) FROM pg_stat_replication"
                " WHERE state = 'streaming' AND sync_state IN ('sync', 'quorum')"
            )
        )

    def commit(self) -> None:
        """Raises `StatementDeadline` where nobody confirms it."""
        self._connection.deadline_seconds = _COMMIT_PATIENCE_SECONDS
        self._connection.phase = "commit"
        self._connection.execute(_COMMIT)
        self._connection.deadline_seconds = PATIENCE_SECONDS

    def checkpoint(self) -> None:
        """Write the timeline to the control file, where pg_rewind looks for it."""
        self._connection.deadline_seconds = 60.0
        self._connection.execute("CHECKPOINT")

    def clients(self) -> int:
        """How many connections there are of others, but for those that only sample."""
        return int(self._value(_COUNT_CLIENTS))

    def end_clients(self) -> int:
        """End every connection of others; how many."""
        return int(self._value(_END_CLIENTS))

    @contextmanager
    def _confirmed_by_nobody(self) -> Iterator[None]:
        """A transaction of this node's own affairs: its commit must not hang where the replicas are cut off."""
        with self._connection.transaction():
            self._connection.execute("SET LOCAL synchronous_commit = local")
            yield

    def _look(self) -> Look:
        try:
            return self._look_once()
        except pg_errors.ObjectNotInPrerequisiteState:
            # Promoted while the statement ran: some of it only a replica can tell.
            return self._look_once()

    def _look_once(self) -> Look:
        with self._connection.cursor(row_factory=class_row(Look)) as cursor:
            look = cursor.execute(LOOK).fetchone()
        assert look is not None
        return look

    def _value(self, text: str, parameters: Any = None) -> Any:
        row = self._connection.execute(text, parameters).fetchone()
        assert row is not None
        return row[0]

"""PostgreSQL's own logical replication of one store: publication and slot at its source, subscription at its target.

Everything is named after the move, and registered in the catalog before it is made: whoever comes next finds it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Timer
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg.sql import SQL, Identifier, Literal

from moves.errors import MoveFailed, MoveInterrupted, MoverReplaced
from moves.record import Kind, Move, Record, Resource
from moves.servers import Servers
from moves.side import Side
from moves.tables import Table
from pools.connection import ShardConnection
from routing.shard_map import ShardMap

FORTH, BACK = "move", "back"
# What belongs to moves begins with one of these; see `drop_strays`.
PREFIXES = (f"{FORTH}_", f"{BACK}_")
MARKS = Identifier("public", "move_marks")

# A slot's beginning waits for every transaction that runs: one that runs for long keeps stores from moving.
SLOT_SECONDS = 30.0
DROP_SECONDS = 10.0
# For the writes under way when a publication loses its tables.
WRITES_SECONDS = 1.0
_POLL_SECONDS = 0.01

# Counted, so that the scan is over before the slot begins. Where that decodes what changed a catalog, PostgreSQL then
# cannot release what the statement still holds ("buffer pin is not owned by resource owner").
_SLOT = """
SELECT pg_create_logical_replication_slot(%(name)s, 'pgoutput')
WHERE (SELECT count(*) FROM moving_stores WHERE id = %(store)s AND move_id = %(move)s AND term = %(term)s) = 1
"""
_DROP_SLOT = """
SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots WHERE slot_name = %(name)s AND NOT active
"""
_SLOT_PID = (
    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %(name)s AND active"
)
_HAS_SLOT = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %(name)s)"
# Subscriptions are the whole cluster's; only this database's can be dropped here.
_HAS_SUBSCRIPTION = """
SELECT EXISTS (
    SELECT FROM pg_subscription AS s JOIN pg_database AS d ON d.oid = s.subdbid
    WHERE s.subname = %(name)s AND d.datname = current_database()
)
"""
_ENABLED = """
SELECT s.subenabled FROM pg_subscription AS s JOIN pg_database AS d ON d.oid = s.subdbid
WHERE s.subname = %(name)s AND d.datname = current_database()
"""
_SUBSCRIPTIONS = """
SELECT s.subname FROM pg_subscription AS s JOIN pg_database AS d ON d.oid = s.subdbid
WHERE s.subname LIKE ANY (%(patterns)s) AND d.datname = current_database()
"""
_SLOTS = """
SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE ANY (%(patterns)s) AND database = current_database()
"""
_PUBLICATIONS = "SELECT pubname FROM pg_publication WHERE pubname LIKE ANY (%(patterns)s)"
_PUBLISHED = "SELECT schemaname, tablename FROM pg_publication_tables WHERE pubname = %(name)s"
_WRITES = """
SELECT coalesce(array_agg(DISTINCT virtualtransaction), '{}') FROM pg_locks
WHERE mode = 'RowExclusiveLock' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_ARE_UNDER_WAY = "SELECT EXISTS (SELECT FROM pg_locks WHERE virtualtransaction = ANY (%s))"
_LOST = "SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = %(name)s"
_LAG = """
SELECT (pg_current_wal_flush_lsn() - replay_lsn)::bigint FROM pg_stat_replication WHERE application_name = %(name)s
"""


def name_of(move: Move, direction: str) -> str:
    """Of publication, slot and subscription in one direction."""
    return f"{direction}_{move.id.hex}"


class Snapshot:
    """A slot's beginning: the snapshot of the source at which it begins, held open while rows are copied by it."""

    def __init__(self, servers: Servers, shard_map: ShardMap, side: Side, name: str) -> None:
        self._connection = servers.connect_for_replication(shard_map, side.shard)
        pid = self._connection.info.backend_pid
        # This connection knows no deadline: the other one ends it.
        deadline = Timer(SLOT_SECONDS, side.run, ["SELECT pg_terminate_backend(%(pid)s)", {"pid": pid}])
        deadline.start()
        try:
            command = SQL("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput (SNAPSHOT 'export')")
            row = self._connection.execute(command.format(Identifier(name))).fetchone()
        except psycopg.OperationalError as error:
            self._connection.close()
            raise MoveInterrupted(
                f"the slot could not begin within {SLOT_SECONDS:g} s: a transaction on {side.shard} runs longer"
            ) from error
        finally:
            deadline.cancel()
            deadline.join()
        self.id: str = row[2] if row else ""
        try:
            with side.held():
                pass
        except MoverReplaced:
            # It was frozen just before: nobody would look for this slot any more.
            self._connection.execute(SQL("DROP_REPLICATION_SLOT {}").format(Identifier(name)))
            self._connection.close()
            raise

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_error: object) -> None:
        self._connection.close()


def publish(record: Record, move: Move, side: Side, name: str, tables: Sequence[Table]) -> None:
    """A publication of the store's rows, and of no others. Not of TRUNCATE, for which no filter holds: it would empty
    the other shard's table of all stores."""
    record.register(move, Resource(side.shard, "publication", name))
    store = Literal(str(move.store_id))
    parts = [SQL("{} WHERE (store_id = {}::uuid)").format(table.identifier, store) for table in tables]
    parts.append(SQL("{} WHERE (id = {}::uuid)").format(MARKS, Literal(str(move.id))))
    with side.held():
        side.run("SET LOCAL lock_timeout = '3s'")
        statement = SQL("CREATE PUBLICATION {} FOR TABLE {} WITH (publish = 'insert, update, delete')")
        side.run(statement.format(Identifier(name), SQL(", ").join(parts)))


def make_slot(record: Record, move: Move, side: Side, name: str) -> None:
    """A slot that begins now."""
    record.register(move, Resource(side.shard, "slot", name))
    # One statement: nobody comes between the look at the term and the slot.
    if side.run(_SLOT, {**side.values, "name": name}) is None:
        raise MoverReplaced(f"the store is in other hands on {side.shard}")


def subscribe(record: Record, move: Move, side: Side, name: str, conninfo: str, *, enabled: bool) -> None:
    """A subscription to the slot and publication of that name. What came by replication does not go back by it."""
    record.register(move, Resource(side.shard, "subscription", name))
    statement = SQL(
        "CREATE SUBSCRIPTION {name} CONNECTION {conninfo} PUBLICATION {name} WITH (create_slot = false,"
        " slot_name = {slot}, copy_data = false, enabled = {enabled}, origin = none, streaming = off,"
        " disable_on_error = true)"
    ).format(name=Identifier(name), conninfo=Literal(conninfo), slot=Literal(name), enabled=Literal(enabled))
    with side.held():
        side.run(statement)


def enable(side: Side, name: str) -> None:
    with side.held():
        if side.run(_HAS_SUBSCRIPTION, {"name": name}):
            side.run(SQL("ALTER SUBSCRIPTION {} ENABLE").format(Identifier(name)))


def check(source: Side, target: Side, name: str) -> None:
    """Raises `MoveFailed` where what arrives cannot be applied, `MoveInterrupted` where the slot is gone."""
    enabled = target.run(_ENABLED, {"name": name})
    if enabled is None:
        raise MoveInterrupted(f"{target.shard} has lost the subscription")
    if not enabled:
        raise MoveFailed(
            f"{target.shard} could not apply a change: a row is there already, or is not; see the server's log"
        )
    check_slot(source, name)


def check_slot(source: Side, name: str) -> None:
    """Raises `MoveInterrupted` where it is gone, or too much was written for the log to be kept for it."""
    is_lost = source.run(_LOST, {"name": name})
    if is_lost is None:
        raise MoveInterrupted(f"{source.shard} has lost the slot, as after a failover")
    if is_lost:
        raise MoveInterrupted(
            f"{source.shard} was written more than it keeps for the slot (max_slot_wal_keep_size)"
        )


def lag_bytes(source: Side, name: str) -> int | None:
    lag = source.run(_LAG, {"name": name})
    return int(lag) if lag is not None else None


def drop(side: Side, kind: Kind, name: str) -> None:
    """Make sure that it is not there (any more). Raises `MoveInterrupted` where it does not go."""
    if kind == "subscription":
        _drop_subscription(side.connection, name)
    elif kind == "slot":
        _drop_slot(side.connection, name)
    elif kind == "publication":
        _drop_publication(side.connection, name)


def drop_strays(connection: ShardConnection, registered: Callable[[], set[str]]) -> list[str]:
    """Drop what is called like a move's and belongs to none: a mover that was frozen may have made it when it woke."""
    like = {"patterns": [f"{prefix}________________________________" for prefix in PREFIXES]}
    drops = (
        ("subscription", _SUBSCRIPTIONS, _drop_subscription),
        ("slot", _SLOTS, _drop_slot),
        ("publication", _PUBLICATIONS, _drop_publication),
    )
    found = [
        (kind, str(name), drop_one)
        for kind, statement, drop_one in drops
        for (name,) in connection.execute(statement, like).fetchall()
    ]
    if not found:
        return []
    known = registered()  # after the look: what is made is registered before
    strays = [each for each in found if each[1] not in known]
    for _, name, drop_one in strays:
        drop_one(connection, name)
    return [f"{kind} {name}" for kind, name, _ in strays]


def _drop_publication(connection: ShardConnection, name: str) -> None:
    """Its tables first, and itself when every write has ended that may have seen it there.

    An UPDATE or a DELETE, of any store, looks up its table's publications and then each of them, and fails where one is
    gone by then ("cache lookup failed for publication").
    """
    tables = connection.execute(_PUBLISHED, {"name": name}).fetchall()
    if tables:
        with connection.transaction():
            connection.execute("SET LOCAL lock_timeout = '3s'")
            parts = SQL(", ").join(Identifier(*table) for table in tables)
            connection.execute(SQL("ALTER PUBLICATION {} DROP TABLE {}").format(Identifier(name), parts))
        under_way = connection.execute(_WRITES).fetchone() or ([],)
        give_up = time.monotonic() + WRITES_SECONDS
        while (connection.execute(_ARE_UNDER_WAY, under_way).fetchone() or (False,))[0]:
            if time.monotonic() > give_up:
                break
            time.sleep(_POLL_SECONDS)
    connection.execute(SQL("DROP PUBLICATION IF EXISTS {}").format(Identifier(name)))


def _drop_subscription(connection: ShardConnection, name: str) -> None:
    """Without its slot, which is dropped by itself: the other shard may be away."""
    if not _value(connection, _HAS_SUBSCRIPTION, name):
        return
    with connection.transaction():
        for change in ("DISABLE", "SET (slot_name = NONE)"):
            connection.execute(SQL("ALTER SUBSCRIPTION {} {}").format(Identifier(name), SQL(change)))
        connection.execute(SQL("DROP SUBSCRIPTION {}").format(Identifier(name)))


def _drop_slot(connection: ShardConnection, name: str) -> None:
    """Whoever reads from it is ended: its subscription is gone, or is to go."""
    give_up = time.monotonic() + DROP_SECONDS
    while _value(connection, _HAS_SLOT, name):
        try:
            if _value(connection, _DROP_SLOT, name):
                return
        except (pg.ObjectInUse, pg.UndefinedObject):
            pass  # taken, or dropped, since the look
        if time.monotonic() > give_up:
            raise MoveInterrupted(f"slot {name} on {connection.subject} stays in use")
        connection.execute(_SLOT_PID, {"name": name})
        time.sleep(_POLL_SECONDS)


def _value(connection: ShardConnection, statement: str, name: str) -> Any:
    row = connection.execute(statement, {"name": name}).fetchone()
    return row[0] if row else None

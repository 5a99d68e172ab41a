"""Replication slots: a primary keeps its WAL for each replica that has one, until that replica has it.

Every server has one for each sibling from its start, so that it can serve them from the moment it is promoted. One
that was never used keeps no WAL.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import psycopg

from devcluster.errors import ClusterError

_IN_USE_SECONDS = 5.0
_POLL_SECONDS = 0.02


def prepare(connection: psycopg.Connection, slots: Sequence[str]) -> None:
    """Make those that are missing.

    Nobody follows a replica, so a slot that was used there is left from when the server was primary: it would keep
    WAL for good, and be of no use to anyone once that was thrown away all the same.
    """
    connection.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = ANY(%s)"
        " AND pg_is_in_recovery() AND NOT active AND (restart_lsn IS NOT NULL OR wal_status = 'lost')",
        [list(slots)],
    )
    connection.execute(
        "SELECT pg_create_physical_replication_slot(slot) FROM unnest(%s::name[]) AS slot WHERE NOT EXISTS"
        " (SELECT FROM pg_replication_slots WHERE slot_name = slot)",
        [list(slots)],
    )


def reserve(connection: psycopg.Connection, slot: str) -> None:
    """Have a primary keep its WAL from now on, for a replica that does not run yet."""
    drop(connection, slot)
    connection.execute("SELECT pg_create_physical_replication_slot(%s, true)", [slot])


def drop(connection: psycopg.Connection, slot: str) -> None:
    """Drop a stopped replica's slot on its primary, once the process that served it there has noticed."""
    deadline = time.monotonic() + _IN_USE_SECONDS
    while True:
        try:
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
                [slot],
            )
        except psycopg.errors.ObjectInUse as error:
            if time.monotonic() > deadline:
                raise ClusterError(f"the slot {slot} is in use: {error}") from error
            time.sleep(_POLL_SECONDS)
        else:
            return


def is_lost(connection: psycopg.Connection, slot: str) -> bool:
    """Whether a primary has thrown away WAL that the replica with this slot still needed."""
    lost = connection.execute(
        "SELECT FROM pg_replication_slots WHERE slot_name = %s AND wal_status = 'lost'", [slot]
    )
    return lost.rowcount > 0

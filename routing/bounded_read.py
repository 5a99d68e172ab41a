"""A read on a primary that says how much it has seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pools.connection import ShardConnection
from pools.flight import flight
from routing.scope import Scope
from routing.token import Position
from sql import query as named
from sql.loader import Query

POSITION = named("read_position")
QUIET = named("no_write_in_progress")

Row = tuple[Any, ...]


def read_bounded(
    scope: Scope, connection: ShardConnection, query: Query, parameters: Mapping[str, Any]
) -> tuple[list[Row], Position | None]:
    """A read on a primary, and up to where it has certainly seen everything; None where that cannot be said.

    That is not simply where the log stood before: a commit is in the log for a while before anybody sees it here, as it
    waits for a replica. Where no write is in progress there is none of that kind. Else nobody was told of them yet, and
    whoever is told later is told a position at or behind that one, so all *before* it was seen: unless a replica has
    shown one of them already.
    """
    stood, quiet, result = connection.cursor(), connection.cursor(), connection.cursor()
    with flight(connection):
        stood.execute(POSITION.text, prepare=True)
        quiet.execute(QUIET.text, prepare=True)
        result.execute(query.text, parameters, prepare=True)
    timeline, lsn = stood.fetchone() or (0, 0)
    (is_quiet,) = quiet.fetchone() or (False,)
    rows = result.fetchall()
    if not is_quiet and scope.flags.read_replicas:
        return rows, None
    return rows, Position(connection.system_identifier, timeline, lsn if is_quiet else lsn - 1)

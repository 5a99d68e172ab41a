"""The first copy: every row of the store as of one snapshot, the one at which the slot begins."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing

from psycopg.sql import SQL, Composable, Literal

from moves.record import Move
from moves.servers import DEADLINE_SECONDS
from moves.side import Side
from moves.tables import Table
from pools.connection import ShardConnection

# A table of a large store takes its time, and both servers may be busy.
COPY_SECONDS = 600.0
# Rows between two reports.
REPORT_ROWS = 2_000

Report = Callable[[int, int], None]  # rows so far, rows in all


def copy_rows(
    move: Move,
    reader: ShardConnection,
    target: Side,
    tables: Sequence[Table],
    *,
    snapshot: str,
    report: Report,
) -> int:
    """Copy the store's rows, table after table; how many. `reader` is a connection to the source of its own.

    `report` may raise, to stop it.
    """
    reader.deadline_seconds = target.connection.deadline_seconds = COPY_SECONDS
    where = SQL("WHERE store_id = {}::uuid").format(Literal(str(move.store_id)))
    copied = 0
    with reader.transaction():
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        reader.execute(SQL("SET TRANSACTION SNAPSHOT {}").format(Literal(snapshot)))
        reader.execute("SET LOCAL statement_timeout = 0")
        reader.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        counts = [SQL("SELECT count(*) FROM {} {}").format(table.identifier, where) for table in tables]
        total = sum((reader.execute(count).fetchone() or (0,))[0] for count in counts)
        report(0, total)
        for table in tables:
            with target.held():
                target.run("SET LOCAL session_replication_role = replica")
                target.run("SET LOCAL statement_timeout = 0")
                target.run("SET LOCAL idle_in_transaction_session_timeout = '60s'")
                # Closed at once where `report` raises: nothing else can be said on either connection before.
                with closing(_copied(reader, target.connection, table, where)) as rows:
                    for _ in rows:
                        copied += 1
                        if copied % REPORT_ROWS == 0:
                            report(copied, total)
    target.connection.deadline_seconds = DEADLINE_SECONDS
    return copied


def _copied(
    reader: ShardConnection, writer: ShardConnection, table: Table, where: Composable
) -> Generator[None, None, None]:
    """One step a row."""
    columns = table.column_list()
    out = SQL("COPY (SELECT {} FROM {} {}) TO STDOUT").format(columns, table.identifier, where)
    into = SQL("COPY {} ({}) FROM STDIN").format(table.identifier, columns)
    with reader.cursor().copy(out) as rows, writer.cursor().copy(into) as copy:
        for row in rows:
            copy.write(row)
            yield

"""The first copy: every row of the store as of one snapshot, the one at which the slot begins.

It is read in one transaction, and written in many: a slice each, with a rest behind it (pace.py). What a slice writes
to the log is what the next commit of somebody else waits for, so it is kept small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from psycopg.sql import SQL, Composable, Literal

from moves.pace import Pace, SliceSize
from moves.record import Move
from moves.servers import DEADLINE_SECONDS
from moves.side import Side
from moves.slices import of_store, slices
from moves.tables import Table
from pools.connection import ShardConnection

# Counting a large store's rows takes its time.
COUNT_SECONDS = 600.0

Report = Callable[[int, int], None]  # rows so far, rows in all


def copy_rows(
    move: Move,
    reader: ShardConnection,
    target: Side,
    tables: Sequence[Table],
    *,
    snapshot: str,
    pace: Pace,
    report: Report,
) -> int:
    """Copy the store's rows, table after table; how many. `reader` is a connection to the source of its own.

    `report` is called after each slice, and may raise, to stop it.
    """
    copied = 0
    with reader.transaction():
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        reader.execute(SQL("SET TRANSACTION SNAPSHOT {}").format(Literal(snapshot)))
        reader.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        total = _count(move, reader, tables)
        report(0, total)
        # A slice is read by the key's index, also where nobody has told the planner yet how large the table is.
        reader.execute("SET LOCAL enable_seqscan = off")
        for table in tables:
            for rows in _copy_table(move, reader, target, table, pace):
                copied += rows
                report(copied, total)
    return copied


def _count(move: Move, reader: ShardConnection, tables: Sequence[Table]) -> int:
    reader.deadline_seconds = COUNT_SECONDS
    reader.execute("SET LOCAL statement_timeout = 0")
    where = of_store(move.store_id)
    counts = [SQL("SELECT count(*) FROM {} WHERE {}").format(table.identifier, where) for table in tables]
    total = sum((reader.execute(count).fetchone() or (0,))[0] for count in counts)
    reader.deadline_seconds = DEADLINE_SECONDS
    return int(total)


def _copy_table(move: Move, reader: ShardConnection, target: Side, table: Table, pace: Pace) -> Iterator[int]:
    """The rows of each slice, when it has been copied."""
    size = SliceSize()
    for where in slices(reader, table, move.store_id, size.next):
        with pace.slice() as work:
            rows, size_bytes = _copy_slice(reader, target, table, where)
            work.rows = rows
        size.weighed(rows, size_bytes)
        yield rows


def _copy_slice(reader: ShardConnection, target: Side, table: Table, where: Composable) -> tuple[int, int]:
    """How many rows they were, and how many bytes."""
    columns = table.column_list()
    out = SQL("COPY (SELECT {} FROM {} WHERE {}) TO STDOUT").format(columns, table.identifier, where)
    into = SQL("COPY {} ({}) FROM STDIN").format(table.identifier, columns)
    with reader.cursor().copy(out) as copy:
        rows = [bytes(row) for row in copy]
    lines = b"".join(rows)
    if rows:
        with target.copying(), target.connection.cursor().copy(into) as copy:
            copy.write(lines)
    return len(rows), len(lines)

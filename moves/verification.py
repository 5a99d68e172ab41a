"""Whether two shards have the same rows of a store: by content, in any order, each column of each row.

For each table: how many rows, and the sums of two different 64-bit hashes of the whole row, its key among it. A sum
does not depend on the order; a byte, a missing row, one too many, or two rows that changed places make it another one.

Both sides are read at one position of the source's log. The whole of it while writes go on (baseline.py). What has
been written since then, on either side, and which rows there are, is compared when no write is under way any more:
together that is the whole again. For each key that both sides have, the row either is on both as it was when all was
compared, or is among those written since on one of them, and then is the same on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from uuid import UUID

from psycopg.sql import SQL, Composed, Literal

from moves.pace import COMPARED, COMPARED_ROWS, Pace
from moves.slices import of_store, slices
from moves.tables import Table
from pools.connection import ShardConnection

# PostgreSQL's hash of a record is linear in the hashes of its columns: summed as it is, it would not see that two rows
# have exchanged a column. So it is hashed once more.
_WHOLE = """
SELECT count(*),
    coalesce(sum(hashint8extended(hash_record_extended({row}, 0), 0)), 0),
    coalesce(sum(hashint8extended(hash_record_extended({row}, 7305), 0)), 0)
FROM {table} WHERE {where}
"""
# Most rows are older than all that ran at the snapshot, which costs one comparison each to know.
_SINCE = """
SELECT count(*),
    coalesce(sum({key_hash}), 0),
    count(*) FILTER (WHERE is_new),
    coalesce(sum(hashint8extended(hash_record_extended({row}, 0), 0)) FILTER (WHERE is_new), 0),
    coalesce(sum(hashint8extended(hash_record_extended({row}, 7305), 0)) FILTER (WHERE is_new), 0)
FROM (
    SELECT *, CASE WHEN age(xmin) > {age} THEN false ELSE written_since(xmin, {since}::pg_snapshot) END AS is_new
    FROM {table} WHERE {where}
) AS t
"""
_AGE = "SELECT age((pg_snapshot_xmin(%(since)s::pg_snapshot)::text::bigint %% 4294967296)::text::xid)"

Digest = tuple[int | Decimal, ...]
Digests = dict[str, Digest]


def whole_digest(connection: ShardConnection, store_id: UUID, tables: Sequence[Table]) -> Digests:
    """Of every row, table by table. In a transaction of the caller's, where it is to be of one moment."""
    return {
        table.name: _read(
            connection,
            SQL(_WHOLE).format(row=table.row(), table=table.identifier, where=of_store(store_id)),
        )
        for table in tables
    }


def sliced_digest(
    connection: ShardConnection,
    store_id: UUID,
    tables: Sequence[Table],
    pace: Pace,
    report: Callable[[int], None],
) -> Digests:
    """As `whole_digest`, a slice at a time, in a transaction of the caller's. `report` may raise, to stop it."""
    connection.execute("SET LOCAL enable_seqscan = off")
    found: Digests = {}
    rows = 0
    for table in tables:
        total: Digest = (0, 0, 0)
        for where in slices(connection, table, store_id, lambda: COMPARED_ROWS):
            with pace.slice() as work:
                some = _read(
                    connection, SQL(_WHOLE).format(row=table.row(), table=table.identifier, where=where)
                )
                work.rows = COMPARED * int(some[0])
            total = tuple(one + other for one, other in zip(total, some, strict=True))
            rows += int(some[0])
            report(rows)
        found[table.name] = total
    return found


def digest_since(connection: ShardConnection, store_id: UUID, tables: Sequence[Table], since: str) -> Digests:
    """Of the rows written after the snapshot `since` of this server, and of all keys."""
    (age,) = connection.execute(_AGE, {"since": since}).fetchone() or (0,)
    return {
        table.name: _read(
            connection,
            SQL(_SINCE).format(
                key_hash=table.key_hash(),
                row=table.row(),
                table=table.identifier,
                where=of_store(store_id),
                since=Literal(since),
                age=Literal(age),
            ),
        )
        for table in tables
    }


def on_both(
    source: ShardConnection, target: ShardConnection, read: Callable[[ShardConnection], Digests]
) -> list[str]:
    """What is not the same, a line a table; both sides are read at once, each as of one moment."""

    def at_one_moment(connection: ShardConnection) -> Digests:
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return read(connection)

    with ThreadPoolExecutor(2) as threads:
        here, there = threads.map(at_one_moment, (source, target))
    return differences(here, there, source.subject, target.subject)


def differences(here: Digests, there: Digests, source: str, target: str) -> list[str]:
    return [
        f"{name}: {here[name][0]} rows on {source}, {there[name][0]} on {target}"
        + (", of other content" if here[name][0] == there[name][0] else "")
        for name in here
        if here[name] != there[name]
    ]


def _read(connection: ShardConnection, statement: Composed) -> Digest:
    return connection.execute(statement).fetchone() or ()

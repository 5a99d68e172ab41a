"""Whether two shards have the same rows of a store: by content, in any order, each column of each row.

For each table: how many rows, and the sums of two different 64-bit hashes of the whole row, its key among it. A sum
does not depend on the order; a byte, a missing row, one too many, or two rows that changed places make it another one.
It is read on both sides at one position: nothing may be written meanwhile, and all that was has arrived.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from psycopg.sql import SQL, Literal

from moves.tables import Table
from pools.connection import ShardConnection

# PostgreSQL's hash of a record is linear in the hashes of its columns: summed as it is, it would not see that two rows
# have exchanged a column. So it is hashed once more.
_DIGEST = """
SELECT count(*),
    coalesce(sum(hashint8extended(hash_record_extended({row}, 0), 0)), 0),
    coalesce(sum(hashint8extended(hash_record_extended({row}, 7305), 0)), 0)
FROM {table} WHERE store_id = {store}::uuid
"""


@dataclass(frozen=True, slots=True)
class Digest:
    """One table's rows of one store."""

    rows: int
    first: Decimal
    second: Decimal


def digest(connection: ShardConnection, store_id: UUID, tables: Sequence[Table]) -> dict[str, Digest]:
    """Of every table, as of one snapshot."""
    found = {}
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        for table in tables:
            statement = SQL(_DIGEST).format(
                row=table.row(), table=table.identifier, store=Literal(str(store_id))
            )
            found[table.name] = Digest(*(connection.execute(statement).fetchone() or (0, 0, 0)))
    return found


def differences(
    source: ShardConnection, target: ShardConnection, store_id: UUID, tables: Sequence[Table]
) -> list[str]:
    """What is not the same, a line a table; both sides are read at once."""
    with ThreadPoolExecutor(2) as threads:
        here, there = threads.map(lambda connection: digest(connection, store_id, tables), (source, target))
    return [
        f"{name}: {here[name].rows} rows on {source.subject}, {there[name].rows} on {target.subject}"
        + (", of other content" if here[name].rows == there[name].rows else "")
        for name in here
        if here[name] != there[name]
    ]

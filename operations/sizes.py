"""How many rows each store has on a shard: counted, and in very large tables a sample of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from uuid import UUID

from psycopg.sql import SQL, Identifier, Literal

from moves.tables import tables_of
from pools.connection import ShardConnection

# Of one table, about 200 MB: a second or less. A whole count of a smaller one reads only its key, which begins with
# `store_id`; of a larger one so many pages are drawn, which misses small stores, and no whale.
SAMPLED_PAGES = 25_000

_PAGES = "SELECT pg_relation_size(%s::regclass) / current_setting('block_size')::bigint"
_COUNT = SQL("SELECT store_id, count(*) FROM {table} GROUP BY store_id")
# The same pages each time, as long as the table is the same: two plans in a row agree.
_SAMPLE = SQL(
    "SELECT store_id, count(*) FROM {table} TABLESAMPLE SYSTEM ({percent}) REPEATABLE (0) GROUP BY store_id"
)


def rows_by_store(connection: ShardConnection, sampled_pages: int = SAMPLED_PAGES) -> Mapping[UUID, int]:
    """Rows of all tables together, by store; also of stores that are only being copied here, or have left."""
    counts: Counter[UUID] = Counter()
    # The store's own row is made where it arrives, and no table's that moves.
    for table in [Identifier("public", "stores"), *(table.identifier for table in tables_of(connection))]:
        counts.update(_count(connection, table, sampled_pages))
    return counts


def _count(connection: ShardConnection, table: Identifier, sampled_pages: int) -> dict[UUID, int]:
    (pages,) = connection.execute(_PAGES, [table.as_string(connection)]).fetchone() or (0,)
    if pages <= sampled_pages:
        return dict(connection.execute(_COUNT.format(table=table)).fetchall())
    percent = Literal(100 * sampled_pages / pages)
    drawn = connection.execute(_SAMPLE.format(table=table, percent=percent))
    return {store: round(count * pages / sampled_pages) for store, count in drawn}

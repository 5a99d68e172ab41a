"""A store's rows of one table, cut in the order of their key.

Work on many rows is done a slice at a time, with rests in between (pace.py); none of it is longer than a request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from uuid import UUID

from psycopg.sql import SQL, Composable, Identifier, Literal

from moves.tables import Column, Table
from pools.connection import ShardConnection

# The last row of the next slice, by the primary key's index; none where fewer are left.
_LAST = "SELECT {texts} FROM {table} WHERE {after} ORDER BY {key} OFFSET {rows} LIMIT 1"


def of_store(store_id: UUID) -> Composable:
    return SQL("store_id = {}::uuid").format(Literal(str(store_id)))


def slices(
    connection: ShardConnection, table: Table, store_id: UUID, rows: Callable[[], int]
) -> Iterator[Composable]:
    """Conditions, each of which so many rows meet, and every row of the store just one; in a transaction of the
    caller's, where that is to be so of one moment. `rows` is asked before each."""
    key, after = table.key, of_store(store_id)
    if not key:
        yield after
        return
    while True:
        statement = SQL(_LAST).format(
            texts=SQL(", ").join(SQL("{}::text").format(Identifier(column.name)) for column in key),
            table=table.identifier,
            after=after,
            key=_names(key),
            rows=Literal(rows() - 1),
        )
        last = connection.execute(statement).fetchone()
        if last is None:
            yield after
            return
        yield SQL("{} AND ({}) <= ({})").format(after, _names(key), _values(key, last))
        after = SQL("{} AND ({}) > ({})").format(of_store(store_id), _names(key), _values(key, last))


def _names(key: Sequence[Column]) -> Composable:
    return SQL(", ").join(Identifier(column.name) for column in key)


def _values(key: Sequence[Column], texts: Sequence[str]) -> Composable:
    parts = [SQL("{}::" + column.type).format(Literal(text)) for column, text in zip(key, texts, strict=True)]
    return SQL(", ").join(parts)

"""Which tables hold a store's rows: those with a column `store_id`, as PostgreSQL itself says. Nobody keeps a list.

But for `stores`: a row there says that the store lives here, to every reader. It is not copied and not replicated, but
made when the copy is ready to be read (side.py), and taken away where the store departs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Composable, Identifier

from moves.errors import MoveFailed
from pools.connection import ShardConnection

STORE = "store_id"
# PostgreSQL's hashes that take a seed, of types whose equal values are the same ones. Others go by their text.
_HASHES = {
    "uuid": "uuid_hash_extended",
    "smallint": "hashint2extended",
    "integer": "hashint4extended",
    "bigint": "hashint8extended",
}

# Types that are hashed as they are: equal hashes mean equal values, on whichever server. All others are compared as
# text, since they have no hash, or one by which different texts are equal (1.0 and 1.00 in jsonb and numeric, 24 hours
# and a day), or one that depends on the server (an enum's is of its row in pg_enum).
HASHED = [
    "bool",
    "int2",
    "int4",
    "int8",
    "text",
    "varchar",
    "bytea",
    "uuid",
    "date",
    "timestamp",
    "timestamptz",
]

# Generated columns are made anew where the row arrives.
_COLUMNS = """
SELECT c.relname, a.attname,
    (
        SELECT array_position(i.indkey::int2[], a.attnum) FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary
    ) AS key_position,
    t.typnamespace <> 'pg_catalog'::regnamespace OR t.typname <> ALL (%(hashed)s) AS by_text,
    format_type(a.atttypid, a.atttypmod)
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
JOIN pg_type AS t ON t.oid = a.atttypid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname <> 'stores'
    AND EXISTS (
        SELECT FROM pg_attribute AS s WHERE s.attrelid = c.oid AND s.attname = 'store_id' AND NOT s.attisdropped
    )
ORDER BY c.relname, a.attname
"""
_KEYLESS = """
SELECT c.relname FROM pg_class AS c
JOIN pg_attribute AS s ON s.attrelid = c.oid AND s.attname = 'store_id' AND NOT s.attisdropped
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND NOT EXISTS (
    SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary AND s.attnum = ANY (i.indkey)
)
"""


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    key_position: int | None
    by_text: bool
    type: str

    def hash(self, seed: Composable) -> Composable:
        """For a column of a key: it is never null."""
        name = Identifier(self.name)
        if (function := _HASHES.get(self.type)) is not None:
            return SQL("{}({}, {})").format(Identifier(function), name, seed)
        return SQL('hashtextextended({}::text COLLATE "C", {})').format(name, seed)


@dataclass(frozen=True, slots=True)
class Table:
    """A tenant table, with the columns that move."""

    name: str
    columns: tuple[Column, ...]

    @property
    def identifier(self) -> Identifier:
        return Identifier("public", self.name)

    def column_list(self) -> Composable:
        return SQL(", ").join(Identifier(column.name) for column in self.columns)

    def row(self) -> Composable:
        """One row's content as a record that can be hashed."""
        return _record(self.columns)

    @property
    def key(self) -> tuple[Column, ...]:
        """Its primary key, in the index's order, without the store."""
        keyed = [(column.key_position, column) for column in self.columns if column.key_position is not None]
        return tuple(column for _, column in sorted(keyed, key=lambda one: one[0]) if column.name != STORE)

    def key_hash(self) -> Composable:
        """A hash of its key, each column's with the one before as its seed: a third of what a record's costs."""
        seed: Composable = SQL("0")
        for column in self.key:
            seed = column.hash(seed)
        return seed


def _record(columns: Sequence[Column]) -> Composable:
    parts = [
        SQL("{}::text").format(Identifier(column.name)) if column.by_text else Identifier(column.name)
        for column in columns
    ]
    return SQL("ROW({})").format(SQL(", ").join(parts))


def tables_of(connection: ShardConnection) -> list[Table]:
    """The tenant tables of a shard. Raises `MoveFailed` where one's key leaves the store out: then a row filter on the
    store could not follow its updates."""
    keyless = [name for (name,) in connection.execute(_KEYLESS)]
    if keyless:
        raise MoveFailed(f"{', '.join(keyless)}: store_id is not part of the primary key")
    columns: dict[str, list[Column]] = {}
    for table, *column in connection.execute(_COLUMNS, {"hashed": HASHED}):
        columns.setdefault(table, []).append(Column(*column))
    return [Table(name, tuple(found)) for name, found in columns.items()]


def same_tables(source: ShardConnection, target: ShardConnection) -> list[Table]:
    """The tables, which both shards have alike. Raises `MoveFailed` where they differ."""
    here, there = tables_of(source), tables_of(target)
    if here != there:
        names = sorted({table.name for table in set(here) ^ set(there)})
        raise MoveFailed(f"the shards' schemas differ in {', '.join(names)}: run flask shards migrate")
    return here

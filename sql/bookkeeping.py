"""What a database knows of its migrations: `schema_migrations`, and `schema_snapshot` to tell drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.types.json import Jsonb

from errors import MigrationError
from sql.migration_files import Migration
from sql.session import Connection
from sql.snapshot import Snapshot, after_change, fingerprint_of, take_snapshot

_TABLES = """
CREATE TABLE IF NOT EXISTS public.schema_migrations (
    version     integer PRIMARY KEY,
    name        text NOT NULL,
    checksum    text NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT now(),
    duration_ms integer NOT NULL
);
CREATE TABLE IF NOT EXISTS public.schema_snapshot (
    one_row     boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    fingerprint text NOT NULL,
    objects     jsonb NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
)
"""


@dataclass(frozen=True, slots=True)
class AppliedMigration:
    """A row of `schema_migrations`."""

    version: int
    name: str
    checksum: str


class Bookkeeping:
    """The two tables, through one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._before: Snapshot = {}

    def create(self) -> None:
        self._connection.execute(_TABLES)

    def applied(self) -> list[AppliedMigration]:
        """In order; none where the table is not there yet."""
        if not self._exists("schema_migrations"):
            return []
        rows = self._connection.execute(
            "SELECT version, name, checksum FROM public.schema_migrations ORDER BY version"
        )
        return [AppliedMigration(*row) for row in rows]

    def snapshot_before(self) -> None:
        """Call before a migration, so that `add` can tell its changes from others."""
        self._before = take_snapshot(self._connection)

    def add(self, migration: Migration, duration_ms: int) -> None:
        """The migration is done: its row, and what it changed in the schema. Call it in the migration's own
        transaction where it has one: a run that dies leaves all of it or nothing."""
        self._connection.execute(
            "INSERT INTO public.schema_migrations (version, name, checksum, duration_ms)"
            " VALUES (%s, %s, %s, %s)",
            [migration.version, migration.name, migration.checksum, duration_ms],
        )
        after = take_snapshot(self._connection)
        recorded = self.recorded_snapshot()
        self._write(after if recorded is None else after_change(recorded, self._before, after))

    def recorded_snapshot(self) -> Snapshot | None:
        """The schema that the last migration left, and that should still be; None where there is none yet."""
        if not self._exists("schema_snapshot"):
            return None
        row = self._connection.execute("SELECT objects FROM public.schema_snapshot").fetchone()
        return row[0] if row else None

    def record_missing_snapshot(self) -> None:
        """Take the schema as it is where none is written down: so a person accepts a change by hand, after
        TRUNCATE schema_snapshot."""
        if self.recorded_snapshot() is None:
            self._write(take_snapshot(self._connection))

    def _write(self, snapshot: Snapshot) -> None:
        self._connection.execute(
            "INSERT INTO public.schema_snapshot (fingerprint, objects) VALUES (%s, %s)"
            " ON CONFLICT (one_row) DO UPDATE"
            " SET fingerprint = excluded.fingerprint, objects = excluded.objects, recorded_at = now()",
            [fingerprint_of(snapshot), Jsonb(snapshot)],
        )

    def _exists(self, table: str) -> bool:
        row = self._connection.execute("SELECT to_regclass(%s) IS NOT NULL", [f"public.{table}"]).fetchone()
        return bool(row and row[0])


def check_applied(applied: Sequence[AppliedMigration], migrations: Sequence[Migration]) -> None:
    """Raises `MigrationError` where the database's history is not the beginning of this checkout's files."""
    for position, row in enumerate(applied):
        if row.version != position + 1:
            raise MigrationError(
                f"{row.name} is applied, but {position + 1:04} before it is not: mend it by hand"
            )
        if position >= len(migrations):
            raise MigrationError(
                f"{row.name} is applied, and this checkout does not know it: it is older than the database"
            )
        migration = migrations[position]
        if row.name != migration.name:
            raise MigrationError(
                f"{row.name} is applied, and is called {migration.path.name} here: name it back"
            )
        if row.checksum != migration.checksum:
            raise MigrationError(
                f"{migration.path.name} was edited after it was applied: put it back, write a new one"
            )

"""Is a shard's schema what its migrations left? Told in words, for each shard and between shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psycopg

from errors import MigrationError
from sql.bookkeeping import Bookkeeping, check_applied
from sql.migrate import Target
from sql.migration_files import read_migrations
from sql.session import connect, error_line
from sql.snapshot import Snapshot, describe_differences, fingerprint_of, take_snapshot


@dataclass(frozen=True, slots=True)
class SchemaState:
    """One target's schema. `versions` and `pending` are migrations' names; `differences` says in words what
    was changed by hand since the last migration."""

    target: str
    versions: tuple[str, ...]
    pending: tuple[str, ...]
    fingerprint: str
    recorded_fingerprint: str | None
    differences: tuple[str, ...]
    snapshot: Snapshot

    @property
    def drifted(self) -> bool:
        return self.recorded_fingerprint is not None and self.fingerprint != self.recorded_fingerprint


def fingerprint(dsn: str) -> str:
    """The hash of a database's live schema. Raises `MigrationError` where it cannot be reached."""
    with connect(dsn) as connection:
        return fingerprint_of(take_snapshot(connection))


def schema_state(target: Target, folder: Path) -> SchemaState:
    """Read one target, changing nothing. Raises `MigrationError`: unreachable, or its history does not fit
    the folder's files."""
    migrations = read_migrations(folder)
    try:
        with connect(target.dsn) as connection:
            bookkeeping = Bookkeeping(connection)
            applied = bookkeeping.applied()
            recorded = bookkeeping.recorded_snapshot()
            live = take_snapshot(connection)
        check_applied(applied, migrations)
    except psycopg.Error as error:
        raise MigrationError(f"{target.name}: {error_line(error)}") from error
    except MigrationError as error:
        raise MigrationError(f"{target.name}: {error}") from error
    words = describe_differences(live, recorded, "in the database", "in the migrations") if recorded else []
    return SchemaState(
        target=target.name,
        versions=tuple(row.name for row in applied),
        pending=tuple(migration.name for migration in migrations[len(applied) :]),
        fingerprint=fingerprint_of(live),
        recorded_fingerprint=fingerprint_of(recorded) if recorded else None,
        differences=tuple(words),
        snapshot=live,
    )


def differences(first: SchemaState, second: SchemaState) -> list[str]:
    """Between two shards, in words, one object each: "column products.foo only on shard-1"."""
    names = f"on {first.target}", f"on {second.target}"
    return describe_differences(first.snapshot, second.snapshot, *names)


def drift(targets: Sequence[Target], folder: Path) -> list[str]:
    """What `shards status` should warn of, one line each: a change by hand, a migration that is missing, two
    shards that differ, a shard whose schema cannot be read. Empty: all is as it should be."""
    with ThreadPoolExecutor(max_workers=max(len(targets), 1), thread_name_prefix="schema") as threads:
        states = list(threads.map(lambda target: _state_or_error(target, folder), targets))
    return list(_warnings(states))


def _state_or_error(target: Target, folder: Path) -> SchemaState | MigrationError:
    try:
        return schema_state(target, folder)
    except MigrationError as error:
        return error


def _warnings(states: Sequence[SchemaState | MigrationError]) -> Iterator[str]:
    for state in states:
        if isinstance(state, MigrationError):
            yield str(state)
            continue
        yield from (f"{state.target}: {name} is not applied" for name in state.pending)
        yield from (f"{state.target}: {words}" for words in state.differences)
    readable = [state for state in states if isinstance(state, SchemaState)]
    for first, second in pairwise(readable):
        # Where one lacks a migration or was changed by hand, the two must differ, and it has been said.
        if first.versions == second.versions and not first.drifted and not second.drifted:
            yield from differences(first, second)

"""Migrations for each shard: every primary at once, no shop queued behind any of them.

For each target, in a thread of its own: connect to the node that accepts writes, take an advisory lock so
that two runs cannot meet, refuse what does not fit (an applied file that was edited, a version this checkout
does not know), apply what is left, each migration in its own transaction with its row in `schema_migrations`,
and write down the schema that results (`schema_snapshot`), so that a change by hand can be told later
(drift.py).

A migration that waits for a lock makes everyone after it wait too: PostgreSQL's lock queue is fair. So it
waits 100 ms at first and 1 s at most, gives up, lets the shop through, and tries again; never without a
limit.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors as pg

from errors import MigrationError
from sql.bookkeeping import Bookkeeping, check_applied
from sql.migration_files import Migration, MigrationStatement, read_migrations
from sql.session import Connection, Watch, connect, error_line

# Two integers: a space of their own, apart from fence_store's 64-bit keys. "mark", "migr" in ASCII.
_ADVISORY_LOCK = (0x6D61726B, 0x6D696772)


@dataclass(frozen=True, slots=True)
class Target:
    """One database to migrate. `dsn` may name all nodes of a shard: the one that accepts writes is taken."""

    name: str
    dsn: str = field(repr=False)  # holds a password


@dataclass(slots=True)
class Outcome:
    """What became of one target. `applied` are the names applied now (in a dry run: that would be), `already`
    those of earlier runs; `error` says in one line why it stopped."""

    target: str
    applied: list[str] = field(default_factory=list)
    already: list[str] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a run waits, for what.

    A migration waits `first_lock_seconds` for its lock, half as long again at each try, `last_lock_seconds`
    at most: that is the longest the shop can stand still behind it. Between two tries it stays away for as
    long, with jitter. CONCURRENTLY waits for transactions that are open, but lets everyone pass meanwhile, so
    it may wait long.
    """

    attempts: int = 30
    first_lock_seconds: float = 0.1
    last_lock_seconds: float = 1.0
    concurrent_lock_seconds: float = 600.0
    other_run_seconds: float = 60.0
    # A server that answers no new connection for so long is taken for frozen, and its run is given up.
    frozen_seconds: float = 15.0


def migrate(
    targets: Sequence[Target],
    folder: Path,
    *,
    dry_run: bool = False,
    report: Callable[[str], None] | None = None,
    patience: Patience = Patience(),
) -> list[Outcome]:
    """Bring every target up to date, side by side; one that fails does not stop the others.

    `report` gets one line for each step, from several threads but never two at once. Raises `MigrationError`
    before anything is touched where the folder itself is not in order; what goes wrong at a target is in its
    `Outcome`.
    """
    migrations = read_migrations(folder)
    reporting = threading.Lock()

    def say(line: str) -> None:
        with reporting:
            if report:
                report(line)

    runs = [_Run(target, migrations, patience, say) for target in targets]
    with ThreadPoolExecutor(max_workers=max(len(runs), 1), thread_name_prefix="migrate") as threads:
        futures = [threads.submit(run.outcome, dry_run=dry_run) for run in runs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            # Ctrl-C: cut the connections, or the threads would go on to their end first.
            for run in runs:
                run.cut()
            raise


class _Run:
    """One target's run, in its own thread."""

    def __init__(
        self,
        target: Target,
        migrations: Sequence[Migration],
        patience: Patience,
        say: Callable[[str], None],
    ) -> None:
        self._target = target
        self._migrations = migrations
        self._patience = patience
        self._report = say
        self._outcome = Outcome(target.name)
        self._watch: Watch | None = None

    def outcome(self, *, dry_run: bool) -> Outcome:
        try:
            with (
                connect(self._target.dsn) as connection,
                Watch(connection, self._patience.frozen_seconds) as watch,
            ):
                self._watch = watch
                try:
                    self._migrate(connection, dry_run=dry_run)
                except psycopg.OperationalError as error:
                    if watch.frozen:
                        raise MigrationError("stopped answering while the migration ran") from error
                    raise
        except MigrationError as error:
            self._outcome.error = str(error)
        except psycopg.Error as error:
            self._outcome.error = error_line(error)
        if self._outcome.error:
            self._say(f"failed: {self._outcome.error}")
        return self._outcome

    def _say(self, line: str) -> None:
        self._report(f"{self._target.name}: {line}")

    def cut(self) -> None:
        if self._watch:
            self._watch.cut()

    def _migrate(self, connection: Connection, *, dry_run: bool) -> None:
        bookkeeping = Bookkeeping(connection)
        if dry_run:
            pending = self._pending(bookkeeping)
            for migration in pending:
                self._say(f"would apply {migration.name} (lock: {migration.lock})")
            self._outcome.applied = [migration.name for migration in pending]
            return
        self._exclude_other_runs(connection)
        bookkeeping.create()
        pending = self._pending(bookkeeping)
        if not pending:
            self._say(f"nothing to do, {len(self._outcome.already)} applied earlier")
        for migration in pending:
            bookkeeping.snapshot_before()
            milliseconds = self._apply(connection, bookkeeping, migration)
            self._outcome.applied.append(migration.name)
            self._say(f"{migration.name} applied in {milliseconds} ms")
        bookkeeping.record_missing_snapshot()

    def _pending(self, bookkeeping: Bookkeeping) -> Sequence[Migration]:
        applied = bookkeeping.applied()
        check_applied(applied, self._migrations)
        self._outcome.already = [row.name for row in applied]
        return self._migrations[len(applied) :]

    def _exclude_other_runs(self, connection: Connection) -> None:
        """Asks again and again instead of waiting inside pg_advisory_lock: a statement that waits keeps a
        snapshot, and the other run's CREATE INDEX CONCURRENTLY would wait for that to go: a deadlock."""
        deadline = time.monotonic() + self._patience.other_run_seconds
        waiting = False
        while not _value(connection, "SELECT pg_try_advisory_lock(%s, %s)", _ADVISORY_LOCK):
            if time.monotonic() > deadline:
                raise MigrationError(
                    f"another run still migrates it after {self._patience.other_run_seconds:g} s: try later"
                )
            if not waiting:
                self._say("another run is migrating it: waiting")
                waiting = True
            time.sleep(0.1)

    def _apply(self, connection: Connection, bookkeeping: Bookkeeping, migration: Migration) -> int:
        """Returns the milliseconds that the successful attempt took."""
        if migration.in_transaction:
            attempt = partial(_in_transaction, connection, bookkeeping, migration)
            return self._patiently(migration.name, attempt, connection)
        started = time.monotonic()
        for statement in migration.statements:
            self._alone(connection, migration, statement)
        milliseconds = _milliseconds_since(started)
        with connection.transaction():
            bookkeeping.add(migration, milliseconds)
        return milliseconds

    def _alone(self, connection: Connection, migration: Migration, statement: MigrationStatement) -> None:
        """One statement outside of a transaction."""
        if not statement.concurrent:
            self._patiently(migration.name, partial(_execute, connection, migration, statement), connection)
            return
        _set_lock_timeout(connection, self._patience.concurrent_lock_seconds)
        if statement.index and _is_invalid(connection, statement.index):
            # A failed attempt left it: no query uses it, and IF NOT EXISTS would take it for done.
            self._say(f"{migration.name}: dropping the invalid index {statement.index} of an earlier attempt")
            drop = psycopg.sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}")
            connection.execute(drop.format(psycopg.sql.Identifier(statement.index)))
        _execute(connection, migration, statement)

    def _patiently(self, name: str, attempt: Callable[[], Any], connection: Connection) -> int:
        """Climb the ladder of lock timeouts. Returns the milliseconds of the attempt that succeeded."""
        seconds = self._patience.first_lock_seconds
        for number in range(1, self._patience.attempts + 1):
            _set_lock_timeout(connection, seconds)
            started = time.monotonic()
            try:
                attempt()
            except (pg.LockNotAvailable, pg.DeadlockDetected) as error:
                if number == self._patience.attempts:
                    raise MigrationError(
                        f"{name} gave up: in {number} attempts its lock was never free within {seconds:g} s;"
                        " sql/inspect/locks.sql shows who holds it"
                    ) from error
                if number == 1:
                    self._say(f"{name} waits for a lock")
            else:
                return _milliseconds_since(started)
            # As long as it kept others waiting, they now have the table to themselves.
            time.sleep(seconds * random.uniform(0.5, 1.5))  # noqa: S311 -- jitter
            seconds = min(seconds * 1.5, self._patience.last_lock_seconds)
        raise AssertionError("unreachable: the last attempt returns or raises")


def _in_transaction(connection: Connection, bookkeeping: Bookkeeping, migration: Migration) -> None:
    started = time.monotonic()
    with connection.transaction():
        for statement in migration.statements:
            _execute(connection, migration, statement)
        bookkeeping.add(migration, _milliseconds_since(started))


def _execute(connection: Connection, migration: Migration, statement: MigrationStatement) -> None:
    """Raises `MigrationError` with the file's line; lets lock timeouts and lost connections through."""
    try:
        connection.execute(statement.text.encode())
    except (pg.LockNotAvailable, pg.DeadlockDetected):
        raise
    except psycopg.Error as error:
        if connection.closed:
            raise
        position = error.diag.statement_position
        line = statement.line + (statement.text.count("\n", 0, int(position) - 1) if position else 0)
        raise MigrationError(f"{migration.path.name}:{line}: {error_line(error)}") from error


def _is_invalid(connection: Connection, index: str) -> bool:
    return bool(
        _value(
            connection,
            "SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(quote_ident(%s))",
            [index],
        )
    )


def _set_lock_timeout(connection: Connection, seconds: float) -> None:
    _value(connection, "SELECT set_config('lock_timeout', %s, false)", [f"{round(seconds * 1000)}ms"])


def _value(connection: Connection, query: Any, parameters: Sequence[Any]) -> Any:
    row = connection.execute(query, parameters).fetchone()
    return row[0] if row else None


def _milliseconds_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)

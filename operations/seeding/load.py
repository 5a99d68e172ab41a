"""Puts rows into the shards: COPY over one connection a shard, all shards side by side, all or nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from uuid import UUID

import psycopg

from errors import MarketplaceError, StatementDeadline
from operations.seeding.rows import Row
from pools.connection import ShardConnection
from sql.session import error_line

# The columns of the lines that rows.py writes. Tables in the order that the foreign keys want.
COLUMNS: Mapping[str, str] = {
    "stores": "store_id, name, currency, epoch, created_at",
    "api_keys": "store_id, key_id, secret_hash, created_at",
    "customers": "store_id, id, email, name, password_hash, created_at",
    "products": "store_id, id, title, description, price, stock, attributes, created_at, updated_at",
    "orders": "store_id, id, customer_id, shopper_id, status, currency, total, created_at, updated_at",
    "order_items": "store_id, order_id, line, product_id, title, unit_price, quantity",
}
TABLES = tuple(COLUMNS)
_COPY = {table: f"COPY {table} ({columns}) FROM STDIN".encode() for table, columns in COLUMNS.items()}
_COUNT = b"SELECT count(*) FROM stores WHERE store_id = ANY(%s)"
_DELETE = [f"DELETE FROM {table} WHERE store_id = ANY(%s)".encode() for table in reversed(TABLES)]  # noqa: S608

# Rows are sent in batches of about this many, all tables of a batch in turn: enough that many small stores
# share one COPY, few enough that a batch is a few megabytes and the progress bar moves.
BATCH_ROWS = 10_000

# For the seeding session only. The search index first collects new entries in a list (GIN's fast update) and
# sorts them in when it is full; 16 MB of them together, in place of 4 MB, cost a sixth less CPU
# (docs/seeding.md).
_SESSION = b"SET gin_pending_list_limit = '16MB'; SET work_mem = '64MB'; SET statement_timeout = 0"

# No exchange takes this long on a server that works: one that is frozen, or a commit that no replica confirms.
PATIENCE_SECONDS = 60.0


class SeedError(MarketplaceError):
    """Nothing was seeded; the message names the shard and the reason in one line."""


class _Stopped(Exception):  # noqa: N818
    """Another shard failed, or the run was interrupted: no failure of this one."""


@dataclass(frozen=True, slots=True)
class ShardLoad:
    """What goes to one shard: `dsn` leads to its primary, `rows` is consumed once, by a thread of its own."""

    shard: str
    dsn: str
    store_ids: tuple[UUID, ...]
    rows: Iterable[Row]


def load(
    loads: Sequence[ShardLoad],
    committing: Callable[[], AbstractContextManager[None]],
    progress: Callable[[int], None],
    patience_seconds: float = PATIENCE_SECONDS,
) -> int:
    """Fill every shard, then commit everywhere; returns the number of rows, of all tables.

    `progress` is told how many rows were just sent, from several threads. `committing` is entered when every
    row is on its shard and nothing is visible yet, and left after the commits; what it raises on entry undoes
    everything. Raises `SeedError`: then no shard has any of the rows.
    """
    stop = threading.Event()
    with ExitStack() as links, ThreadPoolExecutor(max(1, len(loads)), "seed") as threads:
        opened = [(part, links.enter_context(_connected(part, patience_seconds))) for part in loads]
        for part, link in opened:
            _refuse_repeat(part, link)
        running = {
            threads.submit(_fill, link, part.rows, progress, stop): (part, link) for part, link in opened
        }
        try:
            total = _all_rows(running)
            with committing():
                _commit(opened)
        except BaseException:
            stop.set()
            raise
    return total


def vacuum(loads: Sequence[ShardLoad]) -> None:
    """Do now what autovacuum would do later: statistics for the planner, the search index's list sorted in.

    Where it cannot be done, such as by a role that does not own the tables, autovacuum does it.
    """
    statement = f"VACUUM (ANALYZE) {', '.join(TABLES)}".encode()

    def run(part: ShardLoad) -> None:
        with suppress(psycopg.Error), psycopg.connect(part.dsn, autocommit=True) as link:
            link.execute(statement)

    with ThreadPoolExecutor(max(1, len(loads)), "vacuum") as threads:
        list(threads.map(run, loads))


def _connected(part: ShardLoad, patience_seconds: float) -> ShardConnection:
    """A connection which, as a context, rolls back on its way out of an exception."""
    try:
        link = ShardConnection.connect(part.dsn)
        link.subject, link.deadline_seconds = part.shard, patience_seconds
        link.execute(_SESSION)
        link.commit()
    except (psycopg.Error, StatementDeadline) as error:
        raise SeedError(f"{_told(part, error)}. Nothing was seeded") from error
    return link


def _refuse_repeat(part: ShardLoad, link: ShardConnection) -> None:
    there = link.execute(_COUNT, [list(part.store_ids)]).fetchone()
    if there and there[0]:
        raise SeedError(
            f"{there[0]} of these stores are on {part.shard} already: this random seed was used before."
            " Nothing was changed; take another --random-seed"
        )


def _fill(
    link: ShardConnection, rows: Iterable[Row], progress: Callable[[int], None], stop: threading.Event
) -> int:
    total = waiting = 0
    batch: dict[str, list[str]] = {table: [] for table in TABLES}
    for table, line in rows:
        batch[table].append(line)
        waiting += 1
        if waiting == BATCH_ROWS:
            total += _send(link, batch, progress, stop)
            waiting = 0
    return total + _send(link, batch, progress, stop)


def _send(
    link: ShardConnection,
    batch: Mapping[str, list[str]],
    progress: Callable[[int], None],
    stop: threading.Event,
) -> int:
    if stop.is_set():
        raise _Stopped
    sent = 0
    for table, lines in batch.items():
        if lines:
            with link.cursor() as cursor, cursor.copy(_COPY[table]) as copy:
                copy.write("\n".join(lines) + "\n")
            sent += len(lines)
            lines.clear()
    progress(sent)
    return sent


def _all_rows(running: Mapping[Future[int], tuple[ShardLoad, ShardConnection]]) -> int:
    """Wait for every shard, or for the first that fails, which is named."""
    done, _ = wait(running, return_when=FIRST_EXCEPTION)
    for future in done:
        error = future.exception()
        part, link = running[future]
        if link.overdue:
            # Its connection is closed by now, and that is all that the end of its COPY says.
            raise SeedError(
                f"{part.shard} did not answer within {link.deadline_seconds:g} s: nothing was seeded"
            )
        if isinstance(error, psycopg.Error):
            raise SeedError(f"{_told(part, error)}. Nothing was seeded") from error
    return sum(future.result() for future in running)


def _commit(opened: Sequence[tuple[ShardLoad, ShardConnection]]) -> None:
    """Commit shard by shard; where one fails, take the rows out of all again.

    Two-phase commit would close this gap, at the price of `max_prepared_transactions` on every server.
    """
    for part, link in opened:
        try:
            link.commit()
        except (psycopg.Error, StatementDeadline) as error:
            left = [other.shard for other, _ in opened if not _removed(other)]
            rest = f"Rows may be left on {', '.join(left)}" if left else "Nothing was seeded"
            raise SeedError(f"{_told(part, error)}. {rest}") from error


def _removed(part: ShardLoad) -> bool:
    with suppress(psycopg.Error), psycopg.connect(part.dsn) as link:
        for statement in _DELETE:
            link.execute(statement, [list(part.store_ids)])
        return True
    return False


def _told(part: ShardLoad, error: psycopg.Error | StatementDeadline) -> str:
    reason = error_line(error) if isinstance(error, psycopg.Error) else error.detail
    return f"{part.shard}: {reason.rstrip('.')}"

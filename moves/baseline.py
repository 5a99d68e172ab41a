"""Both copies compared whole while writes go on: two snapshots, one on each shard, of the same position.

    source   no write is under way ─▶ snapshot ─▶ a mark in the log ─▶ writes go on
    target   the mark's row is locked ─▶ the subscriber stands before it ─▶ snapshot ─▶ it goes on

A subscriber applies in the order of commits, so what the target has when it stands before the mark is what the source
had when the mark was written. Writes wait for each other's end once, for a few milliseconds; not for the comparison.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from psycopg import errors as pg

from moves import replication
from moves.errors import MoveFailed, MoveInterrupted
from moves.pace import Pace
from moves.record import Move
from moves.side import Side
from moves.tables import Table
from moves.verification import Digests, differences, sliced_digest
from pools.connection import ShardConnection

# How long writers may queue behind one that is under way, and how often that is tried, with a pause in between.
STILL_SECONDS = 0.1
TRIES, PAUSE_SECONDS = 5, 0.2
STAND_SECONDS = 3.0
_POLL_SECONDS = 0.002

_BLOCKS = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE %(pid)s = ANY (pg_blocking_pids(pid)))"

Connect = Callable[[str], ShardConnection]


@dataclass(frozen=True, slots=True)
class Baseline:
    """Snapshots of the two shards, as PostgreSQL writes them, at which both copies were the same."""

    leaving: str
    arriving: str


def compare_whole(
    move: Move,
    leaving: Side,
    arriving: Side,
    name: str,
    *,
    tables: Sequence[Table],
    connect: Connect,
    pace: Pace,
    report: Callable[[int], None],
) -> Baseline | None:
    """Compare all rows. None where there was no moment without a write under way: then it is for the switch to do.

    `name` is the subscription's. `report` is told how many rows are done, by two threads; it may raise, to stop.
    Raises `MoveFailed` where they differ.
    """
    with (
        closing(connect(leaving.shard)) as here,
        closing(connect(arriving.shard)) as there,
        closing(connect(arriving.shard)) as watch,
    ):
        for connection in (here, there):
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            connection.execute("SET LOCAL statement_timeout = 0")
        with arriving.holding_marks() as pid:
            source = _snapshot_before_mark(leaving, here)
            if source is None or not _stands(leaving, arriving, name, watch, pid):
                return None
            baseline = Baseline(source, _snapshot(there))
        broken = threading.Event()

        def go_on(rows: int) -> None:
            if broken.is_set():
                raise MoveInterrupted("the other side could not be compared")
            report(rows)

        def digest(one: ShardConnection) -> Digests:
            try:
                return sliced_digest(one, move.store_id, tables, pace, go_on)
            except BaseException:
                broken.set()
                raise

        with ThreadPoolExecutor(2) as threads:
            ours, theirs = threads.map(digest, (here, there))
        found = differences(ours, theirs, leaving.shard, arriving.shard)
        if found:
            raise MoveFailed(f"the copies differ: {'; '.join(found)}")
        return baseline


def _snapshot_before_mark(leaving: Side, here: ShardConnection) -> str | None:
    for _ in range(TRIES):
        try:
            with leaving.without_writes(STILL_SECONDS):
                source = _snapshot(here)
                leaving.write_mark()
        except pg.LockNotAvailable:
            time.sleep(PAUSE_SECONDS)
        else:
            return source
    return None


def _stands(leaving: Side, arriving: Side, name: str, watch: ShardConnection, pid: int) -> bool:
    """Wait until the subscriber waits for the process that holds the mark's row; False where it takes too long."""
    began = time.monotonic()
    while not (watch.execute(_BLOCKS, {"pid": pid}).fetchone() or (False,))[0]:
        replication.check(leaving, arriving, name)
        if time.monotonic() - began > STAND_SECONDS:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _snapshot(connection: ShardConnection) -> str:
    """The transaction's snapshot, which is taken with its first look."""
    (text,) = connection.execute("SELECT pg_current_snapshot()::text").fetchone() or ("",)
    return str(text)

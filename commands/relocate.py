"""Bringing many stores to other shards: the options, the progress, Ctrl-C; and `flask shards gather`.

`operations/relocation.py` asks for the moves and follows them; a mover drives them.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar
from uuid import UUID

import click
import psycopg
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from commands.cluster import Cluster, open_cluster
from commands.moves import driven
from commands.terminal import LINE_SECONDS, Failure, plain_errors
from errors import Unavailable
from moves.process import MoverProcess
from operations.rebalance import Transfer
from operations.relocation import Pace, Relocation
from operations.sizes import rows_by_store
from pools.connection import ShardConnection
from routing.shard_map import ShardMap

_LOOK_SECONDS = 0.2
_MOVER_SECONDS = 1.0
# A catalog that fails over meanwhile answers again in this time; moves go on without this command.
_PATIENCE_SECONDS = 60.0
# Counting is one statement a table.
_COUNT_SECONDS = 600.0
# As a shell says that a command was ended by SIGINT.
_INTERRUPTED = 130

T = TypeVar("T")


def pace_options(command: Callable[..., T]) -> Callable[..., T]:
    """How fast stores are moved: the command gets a `pace`."""

    @functools.wraps(command)
    def wrapped(at_once: int, rows_per_second: float | None, undo_seconds: float, **others: object) -> T:
        return command(pace=Pace(at_once, rows_per_second, undo_seconds), **others)

    for option in (
        click.option(
            "--undo-seconds",
            type=click.FloatRange(min=0),
            default=0.0,
            show_default=True,
            help="How long each move can be undone. Six at a time can be.",
        ),
        click.option(
            "--rows-per-second",
            type=click.FloatRange(min=0, min_open=True),
            help="Begin the next move no earlier than this rate allows.",
        ),
        click.option(
            "--at-once",
            type=click.IntRange(min=1),
            default=2,
            show_default=True,
            help="Stores on the move at one time; a mover copies two.",
        ),
    ):
        wrapped = option(wrapped)
    return wrapped


def count_rows(cluster: Cluster, shard_map: ShardMap, shards: Collection[str]) -> dict[UUID, int]:
    """The rows of each store that lives on one of these shards."""

    def count(shard: str) -> dict[UUID, int]:
        with ShardConnection.connect(cluster.shard_dsn(shard_map, shard), autocommit=True) as connection:
            connection.deadline_seconds = _COUNT_SECONDS
            rows = rows_by_store(connection)
        # Others are being copied there, or have left.
        return {
            store: number
            for store, number in rows.items()
            if shard_map.route(store, sharding=True).shard == shard
        }

    with ThreadPoolExecutor(max(len(shards), 1)) as threads:
        return {store: rows for found in threads.map(count, shards) for store, rows in found.items()}


def relocate(
    cluster: Cluster, process: MoverProcess, title: str, transfers: Iterable[Transfer], pace: Pace
) -> Relocation:
    """Move them, with a look at how far it is; what became of it. Ctrl-C ends the command, and says what is left."""
    relocation = Relocation(cluster.catalog, transfers, pace)
    looked, answered = 0.0, time.monotonic()
    try:
        with _shown(title, relocation) as show:
            while True:
                try:
                    relocation.advance()
                    answered = time.monotonic()
                except (psycopg.OperationalError, Unavailable):
                    if time.monotonic() - answered > _PATIENCE_SECONDS:
                        raise
                show()
                if relocation.is_over:
                    return relocation
                if (now := time.monotonic()) - looked > _MOVER_SECONDS:
                    process.look()
                    looked = now
                time.sleep(_LOOK_SECONDS)
    except KeyboardInterrupt:
        click.echo(
            f"Stopped: {len(relocation.done)} stores moved, {relocation.under_way} are on the move and go on,"
            f" {relocation.waiting} have not begun. Run it again to go on.",
            err=True,
        )
        raise SystemExit(_INTERRUPTED) from None


def raise_for_failed(relocation: Relocation) -> None:
    if relocation.failed:
        reasons = "; ".join(f"{store}: {reason}" for store, reason in relocation.failed.items())
        moved = len(relocation.done)
        raise Failure(f"{moved} stores moved, {len(relocation.failed)} stay where they were: {reasons}")


@click.command("gather")
@pace_options
@plain_errors
def gather_command(pace: Pace) -> None:
    """Have every store live on the first shard, as the flag `sharding` asks before it goes off.

    A few at a time, while they are read and written. Stopped, it goes on when it is run again.
    """
    cluster = open_cluster()
    shard_map, flags = cluster.snapshot()
    first, gathered = shard_map.first_shard, 0
    with driven(cluster) as process:
        while flags.sharding and (transfers := _elsewhere(cluster)):
            relocation = relocate(cluster, process, "Gathering", transfers, pace)
            gathered += len(relocation.done)
            raise_for_failed(relocation)
    click.echo(f"Every store lives on {first}: {gathered} moved there.")


def _elsewhere(cluster: Cluster) -> list[Transfer]:
    """The stores that do not live on the first shard now."""
    shard_map = cluster.snapshot().map
    first = shard_map.first_shard
    others = [shard.name for shard in shard_map.shards if shard.name != first]
    rows = count_rows(cluster, shard_map, others)
    return [
        Transfer(store, shard_map.route(store, sharding=True).shard, first, number)
        for store, number in sorted(rows.items())
    ]


@contextmanager
def _shown(title: str, relocation: Relocation) -> Iterator[Callable[[], None]]:
    """On stderr, a bar on a terminal, else a line every few seconds. Gives the function that shows how far it is."""
    if not sys.stderr.isatty():
        yield _Lines(title, relocation)
        return
    columns = (TextColumn(title), BarColumn(), TextColumn("{task.fields[said]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=relocation.rows_total, said="")
        yield lambda: bar.update(task, completed=relocation.rows, said=_said(relocation))


class _Lines:
    def __init__(self, title: str, relocation: Relocation) -> None:
        self._title, self._relocation = title, relocation
        self._began = time.monotonic()
        self._next = self._began + LINE_SECONDS

    def __call__(self) -> None:
        if (now := time.monotonic()) >= self._next:
            self._next = now + LINE_SECONDS
            rows, whole = self._relocation.rows, self._relocation.rows_total
            left = f", about {(now - self._began) * (whole - rows) / rows:,.0f} s left" if rows else ""
            click.echo(f"{self._title}: {_said(self._relocation)}{left}", err=True)


def _said(relocation: Relocation) -> str:
    ended = len(relocation.done) + len(relocation.failed)
    failed = f", {len(relocation.failed)} failed" if relocation.failed else ""
    return (
        f"{ended:,} of {relocation.stores_total:,} stores,"
        f" {relocation.rows:,} of {relocation.rows_total:,} rows{failed}"
    )

"""`flask shards move`, `undo` and `mover`: one store to another shard, with a look at how far it is."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from uuid import UUID

import click
import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

import logs
from commands.cluster import Cluster, open_cluster
from commands.terminal import LINE_SECONDS, Failure, plain_errors
from errors import NotFound
from moves.mover import Mover
from moves.process import MoverProcess
from moves.record import Move
from operations.moves import find_move, move_store, undo_move
from sql import query

_LOOK_SECONDS = 0.1
_MOVER_SECONDS = 1.0
# A service that runs finds what is asked for within this; a mover of this command's own would tie the command down.
_SERVICE_SECONDS = 2.0
# A mover of somebody else's takes over within this, where there is one.
_PATIENCE_SECONDS = 10.0

Show = Callable[[Move], None]


@click.command("move")
@click.argument("store_id", type=click.UUID)
@click.argument("shard")
@plain_errors
def move_command(store_id: UUID, shard: str) -> None:
    """Have the store STORE_ID live on SHARD. It is read and written meanwhile.

    Shows rows, lag and what it waits for. Ctrl-C leaves the move to the service, which goes on with it; where none
    runs, the next mover does. Fails where the store stays where it was.
    """
    cluster = open_cluster()
    check_store(cluster, store_id)
    move = move_store(cluster.catalog, store_id, shard, cluster.settings.move_undo_seconds)
    with driven(cluster) as process:
        move = follow(cluster, process, move, lambda found: found.finished_at is not None)
        if move.state != "done":
            raise Failure(f"{store_id} stays on {move.from_shard}: {move.error}")
        pause = (
            f", its writers waited {move.write_pause_ms:.0f} ms" if move.write_pause_ms is not None else ""
        )
        click.echo(f"{store_id} lives on {move.to_shard}: {move.rows_copied:,} rows{pause}.")
        if move.undo_seconds:
            click.echo(f"For {move.undo_seconds:g} s it can be undone: flask shards undo {move.id}")


@click.command("undo")
@click.argument("move_id", type=click.UUID)
@plain_errors
def undo_command(move_id: UUID) -> None:
    """Take the move MOVE_ID back: before its switch, or after it while there is time. No write is lost."""
    cluster = open_cluster()
    move = undo_move(cluster.catalog, move_id)
    with driven(cluster) as process:
        move = follow(
            cluster, process, move, lambda found: found.state == "rolled_back" or not found.undo_asked
        )
        if move.state != "rolled_back":
            raise Failure(f"{move.store_id} stays on {move.to_shard}: {move.error}")
        click.echo(f"{move.store_id} lives on {move.from_shard} again.")


@click.command("mover")
@click.option(
    "--check", is_flag=True, help="Drive nothing; fail where there is something to do and nobody does it."
)
@plain_errors
def mover_command(check: bool) -> None:
    """Drive moves, whoever asks for them, until a signal.

    For a service that has no administrator's role, such as the containers'; else its workers start a mover themselves.
    """
    cluster = open_cluster()
    if check:
        with cluster.catalog.connect() as connection:
            (idle,) = connection.execute(query("has_work_for_mover").text).fetchone() or (False,)
        if idle:
            raise Failure("stores are to be moved, and no mover is at work")
        return
    logs.configure(cluster.settings)
    stopping = Event()
    movers: list[Mover] = []

    def stop(_number: int, _frame: object) -> None:
        stopping.set()
        for mover in movers:
            mover.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    while not stopping.is_set():
        movers[:] = [Mover(cluster.settings)]
        try:
            movers[0].run()
        except psycopg.Error as error:
            click.echo(f"the catalog does not answer: {' '.join(str(error).split())}", err=True)
        stopping.wait(_MOVER_SECONDS)


def check_store(cluster: Cluster, store_id: UUID) -> None:
    """Raises `NotFound` where there is no such store."""
    shard_map, flags = cluster.snapshot()
    home = shard_map.route(store_id, sharding=flags.sharding).shard
    with psycopg.connect(cluster.shard_dsn(shard_map, home), autocommit=True) as connection:
        if connection.execute(query("read_store").text, {"store_id": store_id}).fetchone() is None:
            raise NotFound(f"There is no store {store_id}.")


@contextmanager
def driven(cluster: Cluster) -> Iterator[MoverProcess]:
    """A mover of this command's own where nobody else's drives; then it is waited for, until nothing is left to do."""
    process = MoverProcess(cluster.settings, cluster.catalog)
    try:
        yield process
        if process.is_running():
            click.echo(
                "No service runs: waits until all is tidied up. Ctrl-C leaves that to the next mover.",
                err=True,
            )
            process.wait()
    finally:
        process.stop()


def follow(cluster: Cluster, process: MoverProcess, move: Move, is_over: Callable[[Move], bool]) -> Move:
    """Show the move until it is over."""
    asked = time.monotonic()
    looked = asked + _SERVICE_SECONDS - _MOVER_SECONDS
    with _shown() as show:
        while True:
            if (now := time.monotonic()) - looked > _MOVER_SECONDS:
                process.look()
                looked = now
            found = find_move(cluster.catalog, move.id)
            show(found)
            if is_over(found):
                return found
            if not process.is_possible and found.attempt == 0 and now - asked > _PATIENCE_SECONDS:
                raise Failure("nobody drives it: ADMIN_USER is not set here, and no flask shards mover runs")
            time.sleep(_LOOK_SECONDS)


@contextmanager
def _shown() -> Iterator[Show]:
    """On stderr, a bar on a terminal, else a line for each step, and one every few seconds."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[more]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("waits for a mover", total=None, more="")
        began = time.monotonic()

        def show(move: Move) -> None:
            rate = move.rows_copied / max(time.monotonic() - began, 0.001)
            left = ((move.rows_total or 0) - move.rows_copied) / max(rate, 0.001)
            more = _more(move)
            if move.state == "copying" and move.rows_copied:
                more = f"{rate:,.0f} rows/s, {left:,.0f} s left"
            description = f"{move.state}: {move.step}" if move.step else move.state
            bar.update(
                task, description=description, completed=move.rows_copied, total=move.rows_total, more=more
            )

        yield show


class _Lines:
    def __init__(self) -> None:
        self._said, self._next = "", 0.0

    def __call__(self, move: Move) -> None:
        now, step = time.monotonic(), f"{move.state}: {move.step}"
        if step != self._said or now >= self._next:
            self._said, self._next = step, now + LINE_SECONDS
            rows = (
                f", {move.rows_copied:,} of {move.rows_total:,} rows" if move.rows_total is not None else ""
            )
            click.echo(f"{step}{rows}{_more(move)}", err=True)


def _more(move: Move) -> str:
    return f", {move.lag_bytes:,} bytes behind" if move.lag_bytes else ""

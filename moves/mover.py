"""The mover: drives every move that is not at its end, a few at a time, until there is none.

One of them is at work at any time (lease.py). Nothing of what it does is in its memory only: whoever comes after it
reads in the catalog where each move stands, and goes on or takes back (drive.py).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from time import monotonic

import psycopg

from config import Settings
from errors import MarketplaceError, StatementDeadline, Unavailable
from moves import replication
from moves.drive import AGAIN, Drive
from moves.errors import MoveInterrupted, MoverReplaced
from moves.lease import Lease
from moves.pace import Pace
from moves.record import Move, Record
from moves.servers import CatalogConnections, Servers
from routing.catalog import Catalog

logger = logging.getLogger("moves")

# Stores that are copied at one time. Others, which wait for their end or are tidied, do not count.
COPIES = 2
# Each replicates back while it can be undone, which takes a slot and two processes.
UNDOABLE = 6
POLL_SECONDS = 0.1
# Between two looks whether a move that can be undone still can.
WATCH_SECONDS = 5.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 5.0


class Mover:
    """Drives moves in threads of this process."""

    def __init__(self, settings: Settings) -> None:
        self._connections = CatalogConnections(settings)
        self._catalog = Catalog(self._connections)
        self._servers = Servers(settings)
        self._pace = Pace(settings.move_rows_per_second)
        self._stopping = threading.Event()
        self._running: dict[object, Future[None]] = {}
        self._watched: dict[object, float] = {}
        self._pauses: dict[object, tuple[float, float]] = {}  # move -> until when, and how long the next is

    def stop(self) -> None:
        """Ask `run` to return; what is under way is taken up by the next one."""
        self._stopping.set()

    def run(self) -> bool:
        """Until there is nothing left to do. False where another mover does it."""
        try:
            lease = self._take()
            while lease is not None:
                logger.info("drives the moves, as the mover of term %d", lease.term)
                try:
                    self._run(lease)
                except MoverReplaced as error:
                    logger.warning("stopped driving moves: %s", error)
                else:
                    return True
                finally:
                    lease.release()
                # The catalog was away, or another mover has taken over: then that one goes on.
                lease = self._take_when_it_answers()
        finally:
            self._connections.close()
        return False

    def _take(self) -> Lease | None:
        lease = Lease(self._connections)
        return lease if lease.take() else None

    def _take_when_it_answers(self) -> Lease | None:
        while not self._stopping.wait(POLL_SECONDS):
            with suppress(psycopg.Error, Unavailable):
                return self._take()
        return None

    def _run(self, lease: Lease) -> None:
        record = Record(self._catalog, lease.term)
        ended = threading.Event()
        searched = False

        def check() -> None:
            lease.check()
            if self._stopping.is_set() or ended.is_set():
                raise MoverReplaced("the mover is stopping")

        with ThreadPoolExecutor(COPIES + UNDOABLE, thread_name_prefix="move") as threads:
            try:
                while not self._stopping.is_set():
                    lease.check()
                    moves = self._untidied(record)
                    if moves == [] and not self._running:
                        if searched:
                            return
                        searched = True
                        self._drop_strays(record)
                        continue  # something may have been asked for meanwhile
                    for move in self._next(moves or []):
                        self._running[move.id] = threads.submit(self._drive, record, move, check)
                    self._stopping.wait(POLL_SECONDS)
                    self._running = {move: one for move, one in self._running.items() if not one.done()}
            finally:
                ended.set()

    def _untidied(self, record: Record) -> list[Move] | None:
        """None where the catalog does not say."""
        try:
            return record.untidied()
        except (psycopg.Error, StatementDeadline) as error:
            logger.warning("the catalog does not answer the mover: %s", error)
            return None

    def _next(self, moves: list[Move]) -> list[Move]:
        """Those that have something to be done now, and may."""
        now = monotonic()
        copying = sum(1 for move in moves if move.is_undecided and move.id in self._running)
        undoable = sum(1 for move in moves if not move.is_undecided)
        first = {move.store_id: move for move in reversed(moves)}  # one store's moves, one after the other
        chosen = []
        # Before others that stood in the middle of a switch: their writers may be waiting.
        for move in sorted(first.values(), key=lambda move: (move.state != "verifying", move.id)):
            if move.id in self._running or self._pauses.get(move.id, (0.0, 0.0))[0] > now:
                continue
            if move.is_undecided:
                if copying >= COPIES or undoable + copying >= UNDOABLE:
                    continue
                copying += 1
            elif move.is_open and not move.undo_asked and not move.due:
                if self._watched.get(move.id, 0.0) + WATCH_SECONDS > now:
                    continue
                self._watched[move.id] = now
            chosen.append(move)
        return chosen

    def _drive(self, record: Record, move: Move, check: Callable[[], None]) -> None:
        try:
            with Drive(self._servers, record, move, check, self._pace) as drive:
                drive.advance()
        except MoverReplaced as error:
            logger.info("move %s is left to the next mover: %s", move.id, error)
        except (psycopg.Error, MarketplaceError) as error:
            self._put_off(record, move, error)
        except Exception as error:
            logger.exception("move %s", move.id)
            self._put_off(record, move, error)
        else:
            self._pauses.pop(move.id, None)

    def _put_off(self, record: Record, move: Move, error: Exception) -> None:
        """Something did not answer, or an attempt came to nothing: later again, from what the catalog says."""
        logger.warning("move %s of store %s: %s", move.id, move.store_id, error)
        _, pause = self._pauses.get(move.id, (0.0, FIRST_PAUSE_SECONDS))
        self._pauses[move.id] = (monotonic() + pause, min(pause * 2, LONGEST_PAUSE_SECONDS))
        if (
            not isinstance(error, MoveInterrupted | psycopg.Error | StatementDeadline)
            or not move.is_undecided
        ):
            return
        try:
            record.note(move, f"{AGAIN}{' '.join(str(error).split())}"[:200])
        except (psycopg.Error, MarketplaceError) as another:
            logger.info("move %s: %s", move.id, another)

    def _drop_strays(self, record: Record) -> None:
        """What a mover made that woke up when it had been replaced; shards that are away are left for the next time."""
        shard_map = record.shard_map()
        for shard in shard_map.shards:
            try:
                connection = self._servers.connect(shard_map, shard.name)
                try:
                    names = partial(record.resource_names, shard.name)
                    for dropped in replication.drop_strays(connection, names):
                        logger.warning("%s had %s, which belongs to no move: dropped", shard.name, dropped)
                finally:
                    connection.close()
            except (psycopg.Error, MarketplaceError) as error:
                logger.info("%s could not be searched for strays: %s", shard.name, error)

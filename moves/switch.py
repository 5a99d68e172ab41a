"""The switch: writes wait, both sides are compared at one position, and one commit in the catalog decides.

    block ─▶ drain ─▶ mark ─▶ arrived ─▶ compare ─▶ hold ─▶ prepare ─▶ DECIDE ─▶ depart ─▶ open
      └──────── whatever goes wrong up to here: unblock, and nothing has changed ───┘ └── only forward

The same for undoing a move, with the sides exchanged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg import errors as pg

from errors import CommitInDoubt, MarketplaceError, StatementDeadline, Unavailable
from moves import replication
from moves.baseline import Baseline
from moves.errors import MarkLate, MoveFailed, MoveInterrupted
from moves.record import Move, Pause, Record
from moves.side import Side
from moves.tables import Table
from moves.verification import digest_since, on_both, whole_digest
from routing.token import Position

logger = logging.getLogger("moves")

# How long writers may wait, until the block is given up: less than they are ready to (routing/router.py).
BLOCK_SECONDS = 3.0
# For the writes under way, and for what they wrote to arrive: a fraction of the block.
DRAIN_SECONDS = 1.0
ARRIVE_SECONDS = 1.5
DEPART_SECONDS = 1.0
# For the target's commit, and the replica that confirms it: writers wait for both without end.
PREPARE_SECONDS = 1.0
# As long as a change of the map may take to reach every worker.
OLD_MAPS_SECONDS = 1.0
CHECK_SECONDS = 0.2
_POLL_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class Handover:
    """A switch: from where to where, by which subscription."""

    record: Record
    move: Move
    leaving: Side
    arriving: Side
    subscription: str
    tables: Sequence[Table]
    baseline: Baseline | None = None

    def run(self, home_row: Any) -> tuple[int, float, float]:
        """Up to the decision: its epoch, when the block began, and the seconds that comparing took.

        `home_row` is the store's row in `stores`. Raises `MoveFailed` where the sides differ, `MoveInterrupted` where
        it took too long, and whatever else went wrong; in each case writes pass again, at once, unless it is the old
        home that does not answer: then when the block is over.
        """
        began = time.monotonic()
        self.leaving.block(BLOCK_SECONDS)
        try:
            compared = self._wait_and_compare(home_row)
            self.leaving.hold_block()
            at = self._prepare(home_row)
            epoch = self.record.decide(self.move, self.arriving.shard, at)
        except CommitInDoubt:
            raise  # whoever comes next looks which it was
        except Exception as error:
            with suppress(psycopg.Error, MarketplaceError):
                self.take_back()
            if isinstance(error, pg.LockNotAvailable | pg.QueryCanceled):
                raise MoveInterrupted("the writes under way did not end in time") from error
            if isinstance(error, Unavailable) and not isinstance(error, StatementDeadline):
                raise MoveInterrupted(error.detail) from error
            raise
        return epoch, began, compared

    def take_back(self) -> None:
        """Nothing was decided: the store stays. Its writes first, whatever becomes of the other shard."""
        self.leaving.unblock()
        self.arriving.retract()

    def _wait_and_compare(self, home_row: Any) -> float:
        """The seconds that comparing took."""
        self.leaving.drain(DRAIN_SECONDS)
        if self.leaving.home_row() != home_row:
            raise MoveInterrupted("the store's own row has changed meanwhile")
        await_mark(self.leaving, self.arriving, self.subscription, ARRIVE_SECONDS)
        began = time.monotonic()
        self._compare()
        return time.monotonic() - began

    def _prepare(self, home_row: Any) -> Position:
        connection = self.arriving.connection
        usual, connection.deadline_seconds = connection.deadline_seconds, PREPARE_SECONDS
        try:
            return self.arriving.prepare(home_row)
        finally:
            connection.deadline_seconds = usual

    def _compare(self) -> None:
        """What was written since the baseline; all of it where there is none, or where that makes a difference: it may
        only look as if (`written_since`). Raises `MoveFailed` where it is one, `MoveInterrupted` where the block was
        over before that was known."""
        here, there = self.leaving.connection, self.arriving.connection
        if self.baseline is not None:
            since = {here: self.baseline.leaving, there: self.baseline.arriving}
            if not on_both(here, there, lambda one: digest_since(one, *self._rows, since[one])):
                return
        if found := on_both(here, there, lambda one: whole_digest(one, *self._rows)):
            # Where it is over, or this was the primary of another timeline, writes may have passed.
            self.leaving.hold_block()
            raise MoveFailed(f"the copies differ: {'; '.join(found)}")

    @property
    def _rows(self) -> tuple[UUID, Sequence[Table]]:
        return self.move.store_id, self.tables


def complete(leaving: Side, arriving: Side, epoch: int) -> None:
    """After the decision: only forward, and again and again until it is done.

    Where the old home does not answer the new one opens without it: its block lasts, and what it does not hear now it
    hears when it is tidied. But first every worker has had the time to learn of the new map: one with the old map may
    reach the old home, and would read there what others have changed.
    """
    leaving.connection.deadline_seconds = DEPART_SECONDS
    try:
        leaving.depart()
    except (psycopg.OperationalError, StatementDeadline):
        logger.warning("%s does not answer: the store opens on %s without it", leaving.shard, arriving.shard)
        time.sleep(OLD_MAPS_SECONDS)
    arriving.open(epoch)


def await_mark(source: Side, target: Side, name: str, seconds: float) -> float:
    """Wait until all that the source has committed so far is on the target; how long it took, in seconds."""
    began = time.monotonic()
    wanted = source.write_mark()
    looked_at = began
    while target.mark() < wanted:
        now = time.monotonic()
        if now - looked_at > CHECK_SECONDS:
            looked_at = now
            replication.check(source, target, name)
        if now - began > seconds:
            raise MarkLate(f"what {source.shard} has written did not arrive within {seconds:g} s")
        # Often while writers may wait for it; a subscriber that is far behind needs the processor more.
        time.sleep(max(_POLL_SECONDS, (now - began) / 10))
    return time.monotonic() - began


def paused(began: float, compared: float) -> Pause:
    return Pause((time.monotonic() - began) * 1000, compared * 1000)

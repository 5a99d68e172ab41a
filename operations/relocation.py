"""Many stores to other shards, a few at a time and no faster than is wished.

What is to be done stands in the catalog, as pins that stay and as moves: whoever stops in the middle leaves a state
that the next one goes on from. Moves that are under way already, whoever asked for them, are waited for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from uuid import UUID

from errors import Conflict, NotFound
from moves.record import Move, read_move
from operations.moves import find_move, move_store, pin_store
from operations.rebalance import Transfer
from routing.catalog import Catalog
from sql import query


@dataclass(frozen=True, slots=True)
class Pace:
    """`rows_per_second`: by when the next move begins, not inside one; None: as fast as it goes."""

    at_once: int = 2
    rows_per_second: float | None = None
    undo_seconds: float = 0.0


class Relocation:
    """Asks for moves and follows them. For one thread; whoever uses it sees to it that a mover is at work."""

    def __init__(
        self,
        catalog: Catalog,
        transfers: Iterable[Transfer],
        pace: Pace,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._pace = pace
        self._clock = clock
        self._waiting = deque(transfers)
        self._under_way: dict[UUID, Transfer] = {}  # by move
        self._next_start = clock()
        self._rows_under_way = 0
        self.stores_total = len(self._waiting)
        self.rows_total = sum(transfer.rows for transfer in self._waiting)
        self.done: list[Transfer] = []
        self.failed: dict[UUID, str] = {}
        self._rows_ended = 0

    @property
    def is_over(self) -> bool:
        return not self._waiting and not self._under_way

    @property
    def waiting(self) -> int:
        """Stores that nobody has asked for yet."""
        return len(self._waiting)

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    @property
    def rows(self) -> int:
        """Those that have come through, also of stores that are still on their way."""
        return min(self._rows_ended + self._rows_under_way, self.rows_total)

    def advance(self) -> None:
        """Look how far they are, and ask for as many more as may begin. Raises where the catalog does not answer;
        nothing is lost by that, and it can be called again."""
        self._look()
        while (
            self._waiting and len(self._under_way) < self._pace.at_once and self._clock() >= self._next_start
        ):
            self._ask(self._waiting[0])
            self._waiting.popleft()

    def _look(self) -> None:
        with self._catalog.connect() as connection:
            found = [read_move(connection, move_id) for move_id in self._under_way]
        moves = [move for move in found if move is not None]
        self._rows_under_way = 0
        for move in moves:
            if self._is_out_of_the_way(move):
                self._end(self._under_way.pop(move.id), move)
            else:
                self._rows_under_way += min(move.rows_copied, self._under_way[move.id].rows)

    def _is_out_of_the_way(self, move: Move) -> bool:
        """With the old rows deleted, or, where that is put off, as soon as it is decided."""
        return move.tidied_at is not None or (move.undo_seconds > 0 and move.finished_at is not None)

    def _end(self, transfer: Transfer, move: Move | None, error: str | None = None) -> None:
        self._rows_ended += transfer.rows
        if move is not None and move.state == "done" and move.to_shard != transfer.to_shard:
            error = f"somebody has moved it to {move.to_shard}"
        elif move is not None and move.state != "done":
            error = move.error or move.state
        if error is None:
            self.done.append(transfer)
        else:
            self.failed[transfer.store_id] = error

    def _ask(self, transfer: Transfer) -> None:
        store, shard, undo_seconds = transfer.store_id, transfer.to_shard, self._pace.undo_seconds
        try:
            if transfer.pinned:
                move = pin_store(self._catalog, store, shard, undo_seconds)
            else:
                move = move_store(self._catalog, store, shard, undo_seconds, stays=True)
        except Conflict as error:
            move = self._found_under_way(store)
            if move is None:
                self._end(transfer, None, None if self._lives_there(transfer) else str(error))
                return
        except NotFound as error:
            self._end(transfer, None, str(error))
            return
        if move is None:
            self._end(transfer, None)
            return
        self._under_way[move.id] = transfer
        if self._pace.rows_per_second:
            begins = max(self._next_start, self._clock())
            self._next_start = begins + transfer.rows / self._pace.rows_per_second

    def _found_under_way(self, store: UUID) -> Move | None:
        with self._catalog.connect() as connection:
            row = connection.execute(query("find_move_under_way").text, {"store": store}).fetchone()
        return find_move(self._catalog, row[0]) if row else None

    def _lives_there(self, transfer: Transfer) -> bool:
        """It has arrived meanwhile."""
        shard_map, flags = self._catalog.load()
        return shard_map.route(transfer.store_id, sharding=flags.sharding).shard == transfer.to_shard

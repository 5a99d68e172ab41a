"""How fast a mover works, so that everybody else hardly notices: a limit, and a brake.

The limit is a number of rows a second, of all moves together. The brake is what gh-ost (its doc/throttle.md) calls a
nice ratio: after each slice of work comes a rest, so many times as long as the slice took. On a machine that has little
to do the limit rules. Where processors, disks or replicas are busy a slice takes longer, for it waits for what others
wait for too (one that is written, for a replica's disk), and the rests grow with it. Nobody has to say what busy means.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Rows of one slice: a few milliseconds' work, which is about what a request takes. Fewer where rows are large.
SLICE_ROWS = 250
SLICE_BYTES = 64 * 1024
# A row that is only read and hashed, or deleted, costs so much of one that is copied.
COMPARED = 0.3
DELETED = 0.5
COMPARED_ROWS = 500
# Rests to work, and the longest: somebody waits for the move, too.
BRAKE = 2.0
LONGEST_REST_SECONDS = 0.5
_MOSTLY, _LAST_SLICES = 0.5, 20


@dataclass(slots=True)
class Work:
    """What was done in a slice, in rows that are copied."""

    rows: float = 0.0


class Pace:
    """One for all moves of a mover, and all its threads."""

    def __init__(
        self,
        rows_per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """0 rows a second: no limit, and no brake."""
        self._rows_per_second = rows_per_second
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._braked = 0.0  # the share of the last slices for which the brake ruled

    @property
    def says(self) -> str:
        """What keeps it from going faster."""
        if not self._rows_per_second:
            return "no limit"
        if self._braked > _MOSTLY:
            return "slower than it may, for the servers are busy"
        return f"at most {self._rows_per_second:,.0f} rows/s"

    @contextmanager
    def slice(self) -> Iterator[Work]:
        """Inside a slice's work is done, and said how much it was; then comes the rest."""
        began = self._clock()
        work = Work()
        yield work
        if self._rows_per_second:
            self._rest(began, work.rows)

    def _rest(self, began: float, rows: float) -> None:
        now = self._clock()
        brake = min(BRAKE * (now - began), LONGEST_REST_SECONDS)
        with self._lock:
            self._free_at = max(self._free_at, began) + rows / self._rows_per_second
            limit = self._free_at - now
            self._braked += (float(brake > limit) - self._braked) / _LAST_SLICES
        if (rest := max(brake, limit)) > 0:
            self._sleep(rest)


class SliceSize:
    """How many rows the next slice shall have, by what the last one weighed."""

    def __init__(self) -> None:
        self._next = SLICE_ROWS

    def next(self) -> int:
        return self._next

    def weighed(self, rows: int, size_bytes: int) -> None:
        if rows:
            self._next = max(1, min(SLICE_ROWS, SLICE_BYTES * rows // size_bytes))

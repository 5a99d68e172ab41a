"""How far behind a replica is, in bytes and in seconds, by this process's clock. Unknown is None, and never 0."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from operator import itemgetter

# How many ends of the log are kept: at twenty a second, the last ten minutes.
HISTORY = 12_000
# Without news of where the log ends for so long, nobody knows how far behind anyone is.
NEWS_SECONDS = 1.0


class LogEnd:
    """Where a shard's log ended when: turns a replica's position into seconds.

    An idle primary's log does not grow, so a replica that has all of it is 0 s behind however old the last
    transaction is.
    """

    def __init__(self) -> None:
        self._ends: deque[tuple[int, float]] = deque(maxlen=HISTORY)  # position, when it was first seen
        self._last_news = float("-inf")

    def record(self, lsn: int, now: float) -> None:
        """The log was seen to end there."""
        if self._ends and lsn < self._ends[-1][0]:
            # Another primary, behind the old one: what the old one wrote last is of no history of ours.
            self._ends.clear()
        if not self._ends or lsn > self._ends[-1][0]:
            self._ends.append((lsn, now))
        self._last_news = now

    def lag(self, lsn: int, transaction_age: float | None, now: float) -> tuple[int | None, float | None]:
        """Bytes and seconds a replica at `lsn` is behind. `transaction_age`: of the last one it replayed."""
        ends = self._ends
        if not ends or now - self._last_news > NEWS_SECONDS:
            return None, None
        first_not_replayed = bisect_right(ends, lsn, key=itemgetter(0))
        if first_not_replayed == len(ends):
            return 0, 0.0
        seconds = now - ends[first_not_replayed][1]
        if first_not_replayed == 0 and transaction_age is not None:
            seconds = max(seconds, transaction_age)  # further behind than this process remembers
        return ends[-1][0] - lsn, seconds

"""Buyers who place one order after the other, and what they were told: load for as long as a block lasts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from lab.ground import new_key
from lab.servers import wait_for

BUYERS = 4
PAUSE_SECONDS = 0.01
# Before an order that was not acknowledged is sent again.
AGAIN_SECONDS = 0.05
COLUMN_SECONDS = 0.25
_END_SECONDS = 10

# Places the order of this key; whether it was acknowledged.
Place = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One order, sent once. Times of the monotonic clock."""

    key: str
    began: float
    ended: float
    acknowledged: bool


class Buyers:
    """`enter` gives each of them a way to place orders, of one thread. What is not acknowledged is sent again."""

    def __init__(self, enter: Callable[[], Place]) -> None:
        self.attempts: list[Attempt] = []
        self._enter = enter
        self._done = threading.Event()
        # Not waited for in the end: a commit may hang until the servers are mended, which comes after.
        self._threads = [threading.Thread(target=self._buy, daemon=True) for _ in range(BUYERS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        deadline = time.monotonic() + _END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def acknowledged(self) -> list[str]:
        return [each.key for each in list(self.attempts) if each.acknowledged]

    def await_acknowledged(self, count: int) -> None:
        """So many more."""
        enough = len(self.acknowledged) + count
        wait_for(lambda: len(self.acknowledged) >= enough, f"{count} more orders are acknowledged")

    def _buy(self) -> None:
        place = self._enter()
        while not self._done.wait(PAUSE_SECONDS):
            key, acknowledged = new_key(), False
            while not acknowledged and not self._done.is_set():
                began = time.monotonic()
                acknowledged = place(key)
                self.attempts.append(Attempt(key, began, time.monotonic(), acknowledged))
                if not acknowledged:
                    self._done.wait(AGAIN_SECONDS)

    def longest_gap(self) -> float:
        """For how many seconds no order was acknowledged."""
        moments = sorted(each.ended for each in self.attempts if each.acknowledged)
        return max((later - earlier for earlier, later in pairwise(moments)), default=0.0)

    def over_time(self, since: float) -> dict[str, Sequence[float]]:
        """From a moment on, by quarters of a second: orders acknowledged, attempts that failed, the longest in ms."""
        recent = [each for each in self.attempts if each.ended >= since]
        count = 1 + max((int((each.ended - since) / COLUMN_SECONDS) for each in recent), default=0)
        acknowledged, failed, longest = [0.0] * count, [0.0] * count, [0.0] * count
        for each in recent:
            column = int((each.ended - since) / COLUMN_SECONDS)
            (acknowledged if each.acknowledged else failed)[column] += 1
            longest[column] = max(longest[column], round(1000 * (each.ended - each.began), 1))
        return {
            "orders_over_time": acknowledged,
            "errors_over_time": failed,
            "longest_ms_over_time": longest,
        }

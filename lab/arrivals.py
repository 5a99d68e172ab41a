"""Requests that come when they are due, whether those before them have been answered or not: an open model.

Each is timed from when it was due. So what waits in line is seen, which a client that waits for its answer before it
asks again would hide.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from statistics import quantiles

# Asks once; whether that was answered well.
Ask = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Arrival:
    """`due` is of the monotonic clock."""

    due: float
    milliseconds: float
    good: bool


class Arrivals:
    """So many clients, each of which takes the next request as soon as it is free and the request is due."""

    def __init__(self, new_client: Callable[[], Ask], clients: int, dues_seconds: Sequence[float]) -> None:
        """`new_client` is called once in each client's thread; `dues_seconds` count from the beginning."""
        self.ended: list[Arrival] = []
        self._new_client = new_client
        self._dues_seconds = dues_seconds
        self._next = count()
        self._began = 0.0
        self._stopped = threading.Event()
        self._failed: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]
        self._ready = threading.Barrier(clients + 1)

    @contextmanager
    def running(self) -> Iterator[float]:
        """Gives the moment from which dues count. The block's end waits for all answers; not where it fails."""
        for thread in self._threads:
            thread.start()
        try:
            with suppress(threading.BrokenBarrierError):  # by a client that failed, which is told below
                self._ready.wait()
                self._began = time.monotonic() + 0.01
                self._ready.wait()
            self._tell()
            yield self._began
            for thread in self._threads:
                thread.join()
        finally:
            self._stopped.set()
            self._ready.abort()
        self._tell()

    def _tell(self) -> None:
        if self._failed:
            raise self._failed[0]

    def _run(self) -> None:
        try:
            ask = self._new_client()
            self._ready.wait()
            self._ready.wait()
            while (number := next(self._next)) < len(self._dues_seconds):
                due = self._began + self._dues_seconds[number]
                if self._stopped.wait(max(0.0, due - time.monotonic())):
                    return
                good = ask()
                self.ended.append(Arrival(due, 1000 * (time.monotonic() - due), good))
        except threading.BrokenBarrierError:
            return
        except BaseException as error:  # noqa: BLE001 - told by the thread that began all this
            self._failed.append(error)
            self._ready.abort()


def steadily(per_second: float, seconds: float) -> list[float]:
    """When requests of a steady rate are due."""
    return [number / per_second for number in range(round(per_second * seconds))]


def percentile(arrivals: Sequence[Arrival], percent: int) -> float:
    """Of their milliseconds."""
    return quantiles([each.milliseconds for each in arrivals], n=100, method="inclusive")[percent - 1]

"""How a greenlet waits for a server: on the event loop's own watcher, kept for the life of the connection.

psycopg waits through gevent's emulation of `select.poll`, which makes a watcher and an event for every wait,
and goes around the loop even where the socket is ready already, as it is each time a pipeline asks whether it
may send. Asking the operating system first and keeping the watchers halves the processor time of an exchange
(docs/pools.md).
"""

from __future__ import annotations

import select
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeVar

from gevent import Timeout, get_hub, monkey
from psycopg import errors as pg_errors
from psycopg.abc import PQGen
from psycopg.waiting import READY_R, READY_W, WAIT_R, WAIT_RW, WAIT_W

T = TypeVar("T")

# libev's names for "readable" and "writable" in gevent's loop.io().
_LOOP_READ, _LOOP_WRITE = 1, 2
_EVENTS = {
    WAIT_R: (select.POLLIN, _LOOP_READ),
    WAIT_W: (select.POLLOUT, _LOOP_WRITE),
    WAIT_RW: (select.POLLIN | select.POLLOUT, _LOOP_READ | _LOOP_WRITE),
}
# An end or an error of the connection is for libpq to read and to report.
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR


class CooperativeWait:
    """Drives psycopg's generators on one socket, for one greenlet at a time."""

    def __init__(self, fileno: int) -> None:
        make_poll = monkey.get_original("select", "poll")
        loop = get_hub().loop
        self._ways: dict[int, tuple[Callable[[int], list[tuple[int, int]]], Any]] = {}
        for state, (poll_events, loop_events) in _EVENTS.items():
            poller = make_poll()
            poller.register(fileno, poll_events)
            self._ways[state] = poller.poll, loop.io(fileno, loop_events)

    def run(self, gen: PQGen[T], seconds: float) -> T:
        """The generator's result. Raises psycopg's `_WaitTimeout` where it is not there after `seconds`.

        What has arrived is always processed first: a greenlet that did not get its turn for long is not late.
        """
        deadline = monotonic() + seconds
        try:
            state = next(gen)
            while True:
                poll, watcher = self._ways[state]
                events = poll(0)
                if events:
                    happened = events[0][1]
                    ready = READY_R if happened & _READABLE and state != WAIT_W else 0
                    if happened & (select.POLLOUT | select.POLLHUP | select.POLLERR) and state != WAIT_R:
                        ready |= READY_W
                    state = gen.send(ready)
                else:
                    self._pause(watcher, deadline - monotonic())
        except StopIteration as stop:
            result: T = stop.value
            return result

    def close(self) -> None:
        """Before the socket is closed: the loop must not look at a number that is another socket's next."""
        for _, watcher in self._ways.values():
            watcher.close()

    @staticmethod
    def _pause(watcher: Any, seconds: float) -> None:
        """Let other greenlets run until the socket is ready, or for `seconds` (the caller looks which)."""
        if seconds <= 0:
            raise pg_errors._WaitTimeout("wait timeout expired")
        timeout = Timeout.start_new(seconds)
        try:
            get_hub().wait(watcher)
        except Timeout as expired:
            if expired is not timeout:
                raise
        finally:
            timeout.close()

"""One Redis-compatible server: connections that cost little, a breaker, and a probe off every request's path.

redis-py takes two to four times the processor time (`python -m bench.positions`), much of it for taking a connection:
it asks the operating system whether it still lives, and counts what it does. Here a connection is used as it is. One
that the server has closed fails at once, and the commands are sent again over a new one: so they must bear being done
twice.

A server that does not answer costs its time once: after a failure it counts as away, and whoever asks is refused at
once, while a thread of its own looks every `PROBE_SECONDS` whether it answers again. No request ever tries for that.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from time import monotonic
from typing import Any

import redis

from ephemeral.client import MAX_CONNECTIONS, EphemeralUnanswered, EphemeralUnavailable
from ephemeral.line import REPLICA, Line, Lines, Reply
from ephemeral.scripts import Command

logger = logging.getLogger("ephemeral")

# In line, behind others who do get their answers: who finds the server away gives his turn back at once.
QUEUE_SECONDS = 2.0
# A server that is back is found within this and its answer's time; a few commands every so often are no load.
PROBE_SECONDS = 0.1
# One that is lost again so soon is not well, and costs a request its patience each time it is let back in: it is looked
# for half as often each time, down to the last, which still finds it within 2 s.
STEADY_SECONDS = 5.0
LONGEST_PROBE_SECONDS = 0.8

_DETAIL = "The Redis-compatible server does not answer."


class RedisNode:
    """One server. For any number of greenlets or threads, each with a connection of its own meanwhile."""

    def __init__(
        self,
        name: str,
        new_connection: Callable[[], Any],
        *,
        max_connections: int = MAX_CONNECTIONS,
        probe_seconds: float = PROBE_SECONDS,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        """`new_connection` makes one of redis-py's, with its patience for their timeouts, and does not connect it.
        `lost` is told when the server goes away, and must not wait."""
        self.name = name
        # From when and until when nobody takes another server for this one; always, where nobody could.
        self.sole_from, self.sole_until = -inf, inf
        self.lost_at = -inf
        self._new_connection = new_connection
        self._probe_seconds = self._pause_seconds = probe_seconds
        self._here_since = -inf
        self._tell_lost = lost
        self._lock = threading.Lock()
        self._here = threading.Event()
        self._here.set()
        self._closed = threading.Event()
        self._lines = Lines(max_connections)

    @property
    def here(self) -> bool:
        """Whether it answered when it was asked last."""
        return self._here.is_set()

    def ask(self, commands: Sequence[Command]) -> list[Reply]:
        """Send all commands in one packet, then read all replies. Raises `EphemeralUnavailable`."""
        packet = Packet(self, commands)
        try:
            packet.send()
            return packet.read()
        finally:
            packet.end()

    def close(self) -> None:
        """Look for it no longer, and keep no connection that nobody uses."""
        self._closed.set()
        self._lines.close()

    def open(self) -> Line:
        """A new connection."""
        return Line.open(self._new_connection())

    def find(self, *, primary: bool) -> bool:
        """Whether it answers, with its memory loaded; with `primary` also that it is no replica. Not for requests."""
        try:
            line = self.open()
        except (redis.RedisError, OSError):
            return False
        try:
            line.send([("EXISTS", "probe")])
            line.replies(1)
        except (redis.RedisError, OSError):
            return False
        finally:
            line.close()
        return line.role != REPLICA or not primary

    def take(self) -> Line | None:
        """A connection that nobody else uses meanwhile, None where one is to be opened; raises where it is away."""
        if not self._here.is_set():
            raise unavailable()
        try:
            line = self._lines.take(QUEUE_SECONDS)
        except TimeoutError as error:
            raise unavailable() from error
        if not self._here.is_set():  # found to be away while this caller waited in line
            self._lines.give_back(line)
            raise unavailable()
        return line

    def give_back(self, line: Line | None) -> None:
        """For every `take`; None where its connection is no good any more."""
        if line is not None and self._closed.is_set():
            line.close()
            line = None
        self._lines.give_back(line)

    def lose(self, error: Exception) -> None:
        """The server is away from now on, and looked for."""
        with self._lock:
            self.lost_at = monotonic()
            if not self._here.is_set() or self._closed.is_set():
                return
            self._here.clear()
            steady = self.lost_at - self._here_since >= STEADY_SECONDS
            longer = min(2 * self._pause_seconds, LONGEST_PROBE_SECONDS)
            self._pause_seconds = self._probe_seconds if steady else longer
        logger.warning("the Redis-compatible server %s is away, and done without: %r", self.name, error)
        threading.Thread(target=self._probe, name="redis-probe", daemon=True).start()
        self._tell_lost()

    def _probe(self) -> None:
        while not self._closed.wait(self._pause_seconds):
            if self.find(primary=False):
                self._here_since = monotonic()
                self._here.set()
                logger.warning("the Redis-compatible server %s answers again", self.name)
                return


class Packet:
    """Commands on their way to one server, and their replies on the way back. Used once: `send`, `read`, `end`."""

    __slots__ = ("_commands", "_line", "_node", "sent")

    def __init__(self, node: RedisNode, commands: Sequence[Command]) -> None:
        """Raises `EphemeralUnavailable` where the server is away; else `end` has to follow."""
        self._node = node
        self._commands = commands
        self._line = node.take()
        self.sent = False  # and not read

    def send(self) -> None:
        """Over a connection that there is; where there is none, `read` opens one. Raises `EphemeralUnavailable`."""
        if self._line is not None:
            try:
                self._send(self._line)
            except redis.ConnectionError:  # the server was restarted, or closes idle connections
                self._drop()
            except (redis.RedisError, OSError) as error:
                self._lose(error)

    def read(self, deadline: float | None = None) -> list[Reply]:
        """All replies, until the deadline, if any. Raises `EphemeralUnavailable`."""
        try:
            if self.sent and self._line is not None:
                try:
                    return self._read(self._line, deadline)
                except redis.ConnectionError:  # as above
                    self._drop()
            if deadline is not None and monotonic() >= deadline:
                raise unavailable()  # what other servers took is not this one's fault
            self._line = self._node.open()
            self._send(self._line)
            return self._read(self._line, deadline)
        except (redis.RedisError, OSError) as error:
            self._lose(error)
        raise AssertionError  # not reached

    def end(self) -> None:
        """Give the connection back; one with replies unread would tell them to the next one who uses it."""
        if self.sent:
            self._drop()
        self._node.give_back(self._line)

    def _send(self, line: Line) -> None:
        self.sent = True  # or part of it
        line.send(self._commands)

    def _read(self, line: Line, deadline: float | None) -> list[Reply]:
        values = line.replies(len(self._commands), deadline)
        self.sent = False
        node, server = self._node, line.server
        if node.sole_until != inf and not node.sole_from <= monotonic() <= node.sole_until:
            server = replace(server, sole=False)
        return [Reply(value, server) for value in values]

    def _drop(self) -> None:
        if self._line is not None:
            self._line.close()
        self._line, self.sent = None, False

    def _lose(self, error: Exception) -> None:
        self._drop()
        self._node.lose(error)
        raise EphemeralUnanswered(_DETAIL, retry_after_seconds=1) from error


def unavailable() -> EphemeralUnavailable:
    return EphemeralUnavailable(_DETAIL, retry_after_seconds=1)

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
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from time import monotonic
from typing import Any, NamedTuple

import redis
from redis.exceptions import ReadOnlyError

from ephemeral.client import EphemeralUnavailable
from ephemeral.scripts import Command

logger = logging.getLogger("ephemeral")

# What a request may lose to a server that has just frozen is 0.1 s: this leaves a fifth of it for going on without.
PATIENCE_SECONDS = 0.08
# In line, behind others who do get their answers: who finds the server away gives his turn back at once.
QUEUE_SECONDS = 2.0
# A server that is back is found within this and its answer's time; a few commands every so often are no load.
PROBE_SECONDS = 0.1
# Whoever is made a replica, and then a primary again, was found dead in between by others who wait for longer.
ROLE_SECONDS = 1.0
MAX_CONNECTIONS = 64

_ROLE = ("INFO", "replication")


@dataclass(frozen=True, slots=True)
class Server:
    """Who is at the other end of a connection.

    `run_id` changes with every start of the server, and whenever it becomes a primary: what it has in memory then may
    be another's. It is empty where the server would not tell. `may_evict`: it throws away what has not expired yet when
    its memory is full. `sole`: no other server is taken for the primary by anybody; only Sentinel makes this a question
    (`ephemeral/sentinels.py`).
    """

    run_id: str
    may_evict: bool
    sole: bool = True


NOBODY = Server(run_id="", may_evict=True, sole=False)


class Reply(NamedTuple):
    """Bytes, int, dict, list or None, or the error that the server replied, not raised; and which server that was.

    A tuple because it costs a third of a frozen dataclass, and a request has several.
    """

    value: Any
    server: Server


@dataclass(slots=True)
class _Line:
    """A connection that waits for no reply, and what the server said of itself."""

    connection: Any
    server: Server
    role: str
    told_at: float

    def send(self, commands: Sequence[Command]) -> None:
        self.connection.send_packed_command(self.connection.pack_commands(commands), check_health=False)

    def reply(self, deadline: float | None = None) -> Any:
        """The next one, or the error that the server replied; until the deadline, if any, else for its patience."""
        try:
            # Not decoded: what is no UTF-8 is for the reader to refuse.
            if deadline is None:
                return self.connection.read_response(disable_decoding=True, disconnect_on_error=False)
            seconds = max(deadline - monotonic(), 0.001)
            return self.connection.read_response(
                disable_decoding=True, disconnect_on_error=False, timeout=seconds
            )
        except redis.ResponseError as error:
            if isinstance(error, ReadOnlyError):
                self.told_at = -inf
            return error
        except redis.TimeoutError:
            # A worker that did not get round to reading for so long finds its timer run out and the reply there.
            if not self.connection.can_read(0):
                raise
            return self.reply(deadline)

    def close(self) -> None:
        self.connection.disconnect()


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
        """`new_connection` makes one of redis-py's, with `PATIENCE_SECONDS` for its timeouts, and does not connect it.
        `lost` is told when the server goes away, and must not wait."""
        self.name = name
        # From when and until when nobody takes another server for this one; always, where nobody could.
        self.sole_from, self.sole_until = -inf, inf
        self.lost_at = -inf
        self._new_connection = new_connection
        self._probe_seconds = probe_seconds
        self._tell_lost = lost
        self._lock = threading.Lock()
        self._here = threading.Event()
        self._here.set()
        self._closed = threading.Event()
        # Last in, first out, so that no more connections are opened than are in use at one time.
        self._lines: queue.LifoQueue[_Line | None] = queue.LifoQueue()
        for _ in range(max_connections):
            self._lines.put(None)

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
        idle = 0
        with suppress(queue.Empty):
            while True:
                line = self._lines.get_nowait()
                idle += 1
                if line is not None:
                    line.close()
        for _ in range(idle):
            self._lines.put(None)

    def open(self) -> _Line:
        """A new connection, of which the server has said who it is."""
        connection = self._new_connection()
        try:
            connection.connect()
            line = _Line(connection, NOBODY, "", monotonic())
            line.send([("INFO", "server"), ("INFO", "memory"), _ROLE])
            said = [line.reply() for _ in range(3)]
        except BaseException:  # a greenlet that was killed, too: half a handshake is no connection
            connection.disconnect()
            raise
        line.role = _role(said[2])
        line.server = _server(said, line.role)
        return line

    def find(self, *, primary: bool) -> bool:
        """Whether it answers, with its memory loaded; with `primary` also that it is no replica. Not for requests."""
        try:
            line = self.open()
        except (redis.RedisError, OSError):
            return False
        try:
            line.send([("EXISTS", "probe")])
            line.reply()
        except (redis.RedisError, OSError):
            return False
        finally:
            line.close()
        return line.role != _REPLICA or not primary

    def take(self) -> _Line | None:
        """A connection that nobody else uses meanwhile, None where one is to be opened; raises where it is away."""
        if not self._here.is_set():
            raise unavailable()
        try:
            line = self._lines.get(timeout=QUEUE_SECONDS)
        except queue.Empty as error:
            raise unavailable() from error
        if not self._here.is_set():  # found to be away while this caller waited in line
            self._lines.put(line)
            raise unavailable()
        return line

    def give_back(self, line: _Line | None) -> None:
        """For every `take`; None where its connection is no good any more."""
        if line is not None and self._closed.is_set():
            line.close()
            line = None
        self._lines.put(line)

    def lose(self, error: Exception) -> None:
        """The server is away from now on, and looked for."""
        with self._lock:
            self.lost_at = monotonic()
            if not self._here.is_set() or self._closed.is_set():
                return
            self._here.clear()
        logger.warning("the Redis-compatible server %s is away, and done without: %r", self.name, error)
        threading.Thread(target=self._probe, name="redis-probe", daemon=True).start()
        self._tell_lost()

    def _probe(self) -> None:
        while not self._closed.wait(self._probe_seconds):
            if self.find(primary=False):
                self._here.set()
                logger.warning("the Redis-compatible server %s answers again", self.name)
                return


class Packet:
    """Commands on their way to one server, and their replies on the way back. Used once: `send`, `read`, `end`."""

    __slots__ = ("_asks_role", "_commands", "_line", "_node", "sent")

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

    def _send(self, line: _Line) -> None:
        self.sent = True  # or part of it
        self._asks_role = monotonic() - line.told_at > ROLE_SECONDS
        line.send([_ROLE, *self._commands] if self._asks_role else self._commands)

    def _read(self, line: _Line, deadline: float | None) -> list[Reply]:
        if self._asks_role:
            role = _role(line.reply(deadline))
            if role != line.role:
                line.server, line.role = _of_role(line.server, role), role
            line.told_at = monotonic()
        values = [line.reply(deadline) for _ in self._commands]
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
        raise unavailable() from error


def unavailable() -> EphemeralUnavailable:
    return EphemeralUnavailable("The Redis-compatible server does not answer.", retry_after_seconds=1)


# In place of a replication id: a replica's is its primary's.
_REPLICA = "replica"


def _role(replication_section: Any) -> str:
    """What `INFO replication` says: `_REPLICA`, or the id of the history that the server writes as a primary. That one
    is made anew when it becomes a primary. Empty where it would not tell."""
    said = _said(replication_section)
    return _REPLICA if "master_host" in said else said.get("master_replid", "")


def _server(sections: Sequence[Any], role: str) -> Server:
    server, memory = (_said(section) for section in sections[:2])
    if not server or not memory:
        return Server(run_id="", may_evict=True)
    may_evict = memory.get("maxmemory") != "0" and memory.get("maxmemory_policy") != "noeviction"
    return _of_role(Server(server.get("run_id", ""), may_evict), role)


def _of_role(server: Server, role: str) -> Server:
    run = server.run_id.partition("-")[0]
    return replace(server, run_id=f"{run}-{role}" if run and role else "")


def _said(section: Any) -> dict[str, str]:
    """Of an `INFO`; a user that may not ask is replied an error."""
    if not isinstance(section, bytes):
        return {}
    lines = section.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)

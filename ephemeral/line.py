"""Connections to one Redis-compatible server, and who that is: asked when one is made, and in part again later."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from time import monotonic
from typing import Any, NamedTuple

import redis
from redis.exceptions import ReadOnlyError

from ephemeral.scripts import Command

# Whoever is made a replica, and then a primary again, was found dead in between by others who wait for longer.
ROLE_SECONDS = 1.0

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
class Line:
    """A connection that waits for no reply, and what the server said of itself."""

    connection: Any
    server: Server = NOBODY
    role: str = ""
    told_at: float = -inf
    asks_role: bool = False

    @classmethod
    def open(cls, connection: Any) -> Line:
        """Connect, and have the server say who it is."""
        line = cls(connection)
        try:
            connection.connect()
            line.told_at = monotonic()
            line.send([("INFO", "server"), ("INFO", "memory"), _ROLE])
            server, memory, role = line.replies(3)
            _check_not_busy(server)
        except BaseException:  # a greenlet that was killed, too: half a handshake is no connection
            connection.disconnect()
            raise
        line.role = _role(role)
        line.server = _server(_said(server), _said(memory), line.role)
        return line

    def send(self, commands: Sequence[Command]) -> None:
        """All in one packet, and before them, now and then, the question what the server's role is."""
        self.asks_role = monotonic() - self.told_at > ROLE_SECONDS
        if self.asks_role:
            commands = [_ROLE, *commands]
        self.connection.send_packed_command(self.connection.pack_commands(commands), check_health=False)

    def replies(self, count: int, deadline: float | None = None) -> list[Any]:
        """To what was sent, each with the error that the server replied for it, if any. Until the deadline, or else as
        long as the connection waits for each."""
        if self.asks_role:
            role = _role(self._reply(deadline))
            if role != self.role:
                self.server, self.role = _of_role(self.server, role), role
            self.told_at = monotonic()
        return [self._reply(deadline) for _ in range(count)]

    def close(self) -> None:
        self.connection.disconnect()

    def _reply(self, deadline: float | None) -> Any:
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
            return self._reply(deadline)


class Lines:
    """The connections to one server that nobody uses, and places for those that are not opened yet (None).

    Last in, first out, so that no more are opened than are in use at one time. `queue.LifoQueue` takes and gives back
    for 2 µs more, a tenth of a round trip: whoever finds something here needs no lock.
    """

    def __init__(self, count: int) -> None:
        self._idle: deque[Line | None] = deque([None] * count)
        self._given_back = threading.Condition()
        self._waiting = 0

    def take(self, seconds: float) -> Line | None:
        """Raises `TimeoutError` where all are in use for so long."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._wait(monotonic() + seconds)

    def give_back(self, line: Line | None) -> None:
        # In this order: who begins to wait says so before it looks for the last time.
        self._idle.append(line)
        if self._waiting:
            with self._given_back:
                self._given_back.notify()

    def close(self) -> None:
        """Those that nobody uses; their places stay."""
        for _ in range(len(self._idle)):
            try:
                line = self._idle.popleft()
            except IndexError:  # taken meanwhile
                return
            if line is not None:
                line.close()
            self.give_back(None)

    def _wait(self, until: float) -> Line | None:
        with self._given_back:
            self._waiting += 1
            try:
                while True:
                    try:
                        return self._idle.pop()
                    except IndexError:
                        seconds = until - monotonic()
                        if seconds <= 0:
                            raise TimeoutError from None
                        self._given_back.wait(seconds)
            finally:
                self._waiting -= 1


# In place of a replication id: a replica's is its primary's.
REPLICA = "replica"


def _role(replication_section: Any) -> str:
    """What `INFO replication` says: `REPLICA`, or the id of the history that the server writes as a primary. That one
    is made anew when it becomes a primary. Empty where it would not tell."""
    said = _said(replication_section)
    return REPLICA if "master_host" in said else said.get("master_replid", "")


def _server(server: Mapping[str, str], memory: Mapping[str, str], role: str) -> Server:
    if not server or not memory:
        return Server(run_id="", may_evict=True)
    may_evict = memory.get("maxmemory") != "0" and memory.get("maxmemory_policy") != "noeviction"
    return _of_role(Server(server.get("run_id", ""), may_evict), role)


def _check_not_busy(reply: Any) -> None:
    """Raises what a server replies that a script has kept for seconds: it will tell who it is at another time."""
    if isinstance(reply, redis.ResponseError) and str(reply).startswith("BUSY"):
        raise reply


def _of_role(server: Server, role: str) -> Server:
    run = server.run_id.partition("-")[0]
    return replace(server, run_id=f"{run}-{role}" if run and role else "")


def _said(section: Any) -> dict[str, str]:
    """Of an `INFO`; a user that may not ask is replied an error."""
    if not isinstance(section, bytes):
        return {}
    lines = section.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)

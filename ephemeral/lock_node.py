"""One server of the lock quorum, and one lock's talk with it.

What is said to several servers goes out to all of them before any reply is awaited, and by no thread but the caller's:
so they are asked side by side, at the price of the system calls. All that one lock says to one server, until that has
answered, goes over one connection: there a release cannot overtake the taking before it, however late that is read.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Any

import redis
from redis.exceptions import NoScriptError

from ephemeral.scripts import Call, Command

logger = logging.getLogger("locks")

# Servers of the same room answer in under a millisecond. One that needs longer than this is as good as dead; while it
# freezes, the first request waits for so long in the worst case, and only where the others are no quorum either.
ANSWER_SECONDS = 0.05
# Connections kept for the next one. More are closed after use: a crowd leaves no more than this behind.
KEPT_LINES = 64


@dataclass(slots=True)
class Line:
    """A connection, with what the server said of itself when it was made.

    `counts_from`: the moment from which on its word counts. A server that came back without its memory has forgotten
    who held what; after the longest such lease nobody does any more. Never where it evicts: what it throws away leaves
    no trace. A restart breaks the connection, so this cannot change.
    """

    connection: Any
    counts_from: float
    broken: bool = False

    def send(self, command: Command) -> None:
        """Send it. That this failed is for `read` to say."""
        if self.broken:
            return  # the client library would connect again, and what was owed would be owed by another
        try:
            self.connection.send_packed_command(self.connection.pack_command(*command), check_health=False)
        except (redis.RedisError, OSError):
            self.broken = True

    def read(self, seconds: float) -> Any:
        """The next reply, or the error that the server replied. Raises `redis.TimeoutError`: then read again later."""
        try:
            return self.connection.read_response(
                disable_decoding=True, timeout=seconds, disconnect_on_error=False
            )
        except redis.ResponseError as error:
            return error

    def close(self) -> None:
        self.connection.disconnect()


class LockNode:
    """One server. For any number of greenlets or threads.

    It counts as away once it has not answered, and then nobody waits for it: `probe`, off every request's path, finds
    out when it is back.
    """

    def __init__(
        self, client: redis.Redis, lease_seconds: float, clock: Callable[[], float] = monotonic
    ) -> None:
        pool = client.connection_pool
        settings = {
            **pool.connection_kwargs,
            "socket_timeout": ANSWER_SECONDS,
            "socket_connect_timeout": ANSWER_SECONDS,
        }
        self._new_connection: Callable[[], Any] = lambda: pool.connection_class(**settings)
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._idle: deque[Line] = deque(maxlen=KEPT_LINES)
        self.name = f"{settings.get('host')}:{settings.get('port')}"
        self.away = False
        self._error: BaseException | None = None
        self._told = False  # that it is away

    def take(self) -> Line | None:
        """A connection nobody else uses meanwhile; None where the server is away."""
        if self.away:
            return None
        try:
            return self._idle.pop()
        except IndexError:
            return self.open()

    def open(self) -> Line | None:
        """A new connection."""
        connection = self._new_connection()
        try:
            connection.connect()
            said = [self._ask(connection, "INFO", section) for section in ("server", "memory")]
        except (redis.RedisError, OSError) as error:
            connection.disconnect()
            self._error = error
            self.lost()
            return None
        except BaseException:  # a greenlet that was killed, too: half a handshake is no connection
            connection.disconnect()
            raise
        return Line(connection, self._counts_from(said))

    def give_back(self, line: Line) -> None:
        """All that was said by this line has been answered."""
        if self.away or len(self._idle) == KEPT_LINES:
            line.close()
        else:
            self._idle.append(
                line
            )  # the latest is taken first, so that no more are kept than are used at one time

    def lost(self) -> None:
        """It does not answer, or cannot be reached: away, until a probe finds it."""
        self.away = True
        self.forget_lines()

    def forget_lines(self) -> None:
        """Those that nobody uses: where one was closed by the server, the others were too."""
        while self._idle:
            self._idle.pop().close()

    def probe(self) -> None:
        """Where it is away, look whether it is back. Who was only slow for a moment is not worth a line in the log."""
        if not self.away:
            return
        line = self.open()
        if line is None and not self._told:
            logger.warning("lock node %s is away: %s", self.name, self._error)
        elif line is not None:
            self.away = False
            self.give_back(line)
            if self._told:
                logger.warning("lock node %s answers again", self.name)
        self._told = line is None

    @staticmethod
    def _ask(connection: Any, *command: str) -> Any:
        connection.send_packed_command(connection.pack_command(*command), check_health=False)
        try:
            return connection.read_response(disable_decoding=True)
        except redis.ResponseError:  # a user that may not ask
            return b""

    def _counts_from(self, said: Sequence[bytes]) -> float:
        lines = b"".join(said).decode("utf-8", "replace").splitlines()
        told = dict(line.split(":", 1) for line in lines if ":" in line)
        keeps = told.get("maxmemory") == "0" or told.get("maxmemory_policy") == "noeviction"
        if not keeps or "uptime_in_seconds" not in told:
            logger.warning(
                "lock node %s evicts (maxmemory-policy), or refuses INFO: it counts for nothing", self.name
            )
            return inf
        # The server rounds its uptime down, so it has been up for at least so long.
        return self._clock() - int(told["uptime_in_seconds"]) + self._lease_seconds


class Talk:
    """One lock's talk with one server. Used by one greenlet or thread at a time."""

    def __init__(self, node: LockNode) -> None:
        self.node = node
        self.counts = False  # whether the server's word counts, as of its last reply
        self.may_hold = False  # whether the lock may be taken there: also where no reply has come yet
        self._line: Line | None = None
        self._owed = 0
        self._said: Call | None = None

    def waits(self) -> bool:
        """Whether a reply is still to come."""
        return self._owed > 0

    def say(self, call: Call, *, whole: bool = False) -> None:
        """Send it; nothing is said where the server is away. `whole`: so that it need not be said again by anybody."""
        if self._line is None:
            self._line = self.node.take()
        if self._line is not None:
            self._said = call
            self._send(call.command(whole=whole))

    def hear(self, seconds: float) -> Any:
        """The reply to what was said last; None where there is none, or none yet: then `waits`."""
        fresh_lines = 1
        while self._line is not None and self._owed:
            try:
                reply = self._line.read(seconds)
            except redis.TimeoutError:
                return None
            except (redis.ConnectionError, OSError):
                # The server was restarted, or closes idle connections: what it had not answered, it did not do, or
                # has forgotten, or will be asked again to no harm.
                self._close()
                self.node.forget_lines()
                if not fresh_lines or self._said is None:
                    self.node.lost()
                    return None
                fresh_lines -= 1
                self._line = self.node.open()
                if self._line is not None:
                    self._say_again()
                continue
            self._owed -= 1
            if self._owed == 0 and isinstance(reply, NoScriptError):
                self._say_again()
            elif self._owed == 0:
                self.counts = self.node._clock() >= self._line.counts_from
                self.node.give_back(self._line)
                self._line = None
                return reply
        return None

    def give_up(self) -> None:
        """Wait no longer: the server is away. What was sent stays sent, in its order."""
        if self.waits():
            self._close()
            self.node.lost()

    def _say_again(self) -> None:
        assert self._said is not None
        self._send(self._said.command(whole=True))

    def _send(self, command: Command) -> None:
        assert self._line is not None
        self._line.send(command)
        self._owed += 1

    def _close(self) -> None:
        if self._line is not None:
            self._line.close()
        self._line, self._owed = None, 0

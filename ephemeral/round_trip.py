"""Several commands in one packet, and their replies: a round trip to the Redis-compatible server that costs little.

redis-py takes two to four times the processor time (`python -m bench.positions`), much of it for taking a connection:
it asks the operating system whether it still lives, and counts what it does. Here a connection is used as it is. One
that the server has closed fails at once, and the commands are sent again over a new one: so they must bear being done
twice.

A server that does not answer is waited for once, not by everybody: after a failure it counts as away for
`AWAY_SECONDS`, and whoever asks is refused at once. Then one caller tries again while the others are still refused.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import redis

from ephemeral.client import TIMEOUT_SECONDS, EphemeralUnavailable

# Of four callers a second each waits out the client's timeouts while a server is frozen; the others lose no time.
AWAY_SECONDS = 0.25

Command = tuple[str | bytes | int, ...]


@dataclass(frozen=True, slots=True)
class Server:
    """Who is at the other end of a connection, asked when it was made: it cannot change afterwards.

    `run_id` changes with every start of the server; it is empty where the server would not tell. `may_evict`: it throws
    away what has not expired yet when its memory is full.
    """

    run_id: str
    may_evict: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply for each command: bytes, int, dict, list or None, or the error that the server replied, not raised."""

    server: Server
    replies: list[Any]


@dataclass(frozen=True, slots=True)
class _Line:
    """A connection that waits for no reply."""

    connection: Any
    server: Server


class RoundTrips:
    """Asks one server. For any number of greenlets or threads, each with a connection of its own meanwhile.

    The client only says where the server is and how to sign in; its own connections are not touched.
    """

    def __init__(
        self, client: redis.Redis, max_connections: int = 64, clock: Callable[[], float] = monotonic
    ) -> None:
        pool = client.connection_pool
        self._new_connection: Callable[[], Any] = lambda: pool.connection_class(**pool.connection_kwargs)
        self._clock = clock
        self._lock = threading.Lock()
        # Until then the server counts as away; 0: it does not.
        self._away_until = 0.0
        # Last in, first out, so that no more connections are opened than are in use at one time.
        self._lines: queue.LifoQueue[_Line | None] = queue.LifoQueue()
        for _ in range(max_connections):
            self._lines.put(None)

    def ask(self, *commands: Command) -> Answer:
        """Send all commands, which may be done twice, then read all replies. Raises `EphemeralUnavailable`.

        They are not a transaction: others' commands may come between them.
        """
        away_until = self._pass()
        try:
            line = self._lines.get(timeout=TIMEOUT_SECONDS)
        except queue.Empty as error:
            raise _unavailable() from error
        kept = None
        try:
            if self._away_until > away_until:  # found to be away while this caller waited in line
                kept = line
                raise _unavailable()
            kept, answer = self._ask(line, commands)
        except (redis.RedisError, OSError) as error:
            self._away_until = self._clock() + AWAY_SECONDS
            raise _unavailable() from error
        finally:
            self._lines.put(kept)
        self._away_until = 0.0
        return answer

    def _pass(self) -> float:
        """Raise where the server counts as away, except for the one caller whose turn it is to try again."""
        if not self._away_until:
            return 0.0
        with self._lock:
            now = self._clock()
            if now < self._away_until:
                raise _unavailable()
            # Whoever tries keeps the others away meanwhile. Should it be interrupted, the next one's turn comes anyway.
            self._away_until = now + AWAY_SECONDS
            return self._away_until

    def _ask(self, line: _Line | None, commands: Sequence[Command]) -> tuple[_Line, Answer]:
        if line is not None:
            try:
                return line, self._exchange(line, commands)
            except redis.ConnectionError:  # the server was restarted, or closes idle connections
                pass
        line = self._open()
        return line, self._exchange(line, commands)

    def _open(self) -> _Line:
        connection = self._new_connection()
        try:
            connection.connect()
            server_section, memory_section = _send_and_read(
                connection, [("INFO", "server"), ("INFO", "memory")]
            )
        except BaseException:  # a greenlet that was killed, too: half a handshake is no connection
            connection.disconnect()
            raise
        return _Line(connection, _server(server_section, memory_section))

    @staticmethod
    def _exchange(line: _Line, commands: Sequence[Command]) -> Answer:
        try:
            return Answer(line.server, _send_and_read(line.connection, commands))
        except BaseException:  # the next one to use it would read replies to these commands
            line.connection.disconnect()
            raise


def _send_and_read(connection: Any, commands: Sequence[Command]) -> list[Any]:
    connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    return [_reply(connection) for _ in commands]


def _reply(connection: Any) -> Any:
    try:
        # Not decoded: what is no UTF-8 is for the reader to refuse.
        return connection.read_response(disable_decoding=True)
    except redis.ResponseError as error:
        return error


def _server(server_section: Any, memory_section: Any) -> Server:
    """What `INFO` says; a user that may not ask is replied an error."""
    if not isinstance(server_section, bytes) or not isinstance(memory_section, bytes):
        return Server(run_id="", may_evict=True)
    lines = (server_section + memory_section).decode("utf-8", "replace").splitlines()
    said = dict(line.split(":", 1) for line in lines if ":" in line)
    may_evict = said.get("maxmemory") != "0" and said.get("maxmemory_policy") != "noeviction"
    return Server(said.get("run_id", ""), may_evict)


def _unavailable() -> EphemeralUnavailable:
    return EphemeralUnavailable("The Redis-compatible server does not answer.", retry_after_seconds=1)

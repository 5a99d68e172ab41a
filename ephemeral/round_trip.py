"""Several commands in one packet, and their replies: a round trip to the Redis-compatible server that costs little.

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
from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import NoScriptError

from ephemeral.client import EphemeralUnavailable
from ephemeral.scripts import Call, Command

logger = logging.getLogger("ephemeral")

# What a request may lose to a server that has just frozen is 0.1 s: this leaves a fifth of it for going on without.
PATIENCE_SECONDS = 0.08
# In line, behind others who do get their answers: who finds the server away gives his turn back at once.
QUEUE_SECONDS = 2.0
# A server that is back is found within this and its answer's time; three commands every so often are no load.
PROBE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Server:
    """Who is at the other end of a connection, asked when it was made: it cannot change afterwards.

    `run_id` changes with every start of the server; it is empty where the server would not tell. `may_evict`: it throws
    away what has not expired yet when its memory is full.
    """

    run_id: str
    may_evict: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """Bytes, int, dict, list or None, or the error that the server replied, not raised; and which server that was."""

    value: Any
    server: Server


@dataclass(frozen=True, slots=True)
class _Line:
    """A connection that waits for no reply."""

    connection: Any
    server: Server


class RoundTrips:
    """Asks one server. For any number of greenlets or threads, each with a connection of its own meanwhile.

    The client only says where the server is and how to sign in; its own connections and timeouts are not used.
    """

    def __init__(
        self, client: redis.Redis, max_connections: int = 64, probe_seconds: float = PROBE_SECONDS
    ) -> None:
        pool = client.connection_pool
        patience = {"socket_timeout": PATIENCE_SECONDS, "socket_connect_timeout": PATIENCE_SECONDS}
        self._new_connection: Callable[[], Any] = lambda: pool.connection_class(
            **pool.connection_kwargs | patience
        )
        self._probe_seconds = probe_seconds
        self._lock = threading.Lock()
        self._here = threading.Event()
        self._here.set()
        self._closed = threading.Event()
        # Last in, first out, so that no more connections are opened than are in use at one time.
        self._lines: queue.LifoQueue[_Line | None] = queue.LifoQueue()
        for _ in range(max_connections):
            self._lines.put(None)

    def ask(self, *commands: Command | Call) -> list[Reply]:
        """Send all commands, which may be done twice, then read all replies. Raises `EphemeralUnavailable`.

        They are not a transaction: others' commands may come between them. Scripts that the server does not know (any
        more) are sent whole in a second packet, once for everybody.
        """
        replies = self._send([each.command() if isinstance(each, Call) else each for each in commands])
        unknown = {
            index: each.command(whole=True)
            for index, each in enumerate(commands)
            if isinstance(each, Call) and isinstance(replies[index].value, NoScriptError)
        }
        if unknown:
            for index, reply in zip(unknown, self._send(list(unknown.values())), strict=True):
                replies[index] = reply
        return replies

    def _send(self, commands: Sequence[Command]) -> list[Reply]:
        if not self._here.is_set():
            raise _unavailable()
        try:
            line = self._lines.get(timeout=QUEUE_SECONDS)
        except queue.Empty as error:
            raise _unavailable() from error
        kept = None
        try:
            if not self._here.is_set():  # found to be away while this caller waited in line
                kept = line
                raise _unavailable()
            kept, values = self._ask(line, commands)
        except (redis.RedisError, OSError) as error:
            self._lose(error)
            raise _unavailable() from error
        finally:
            self._lines.put(kept)
        return [Reply(value, kept.server) for value in values]

    def close(self) -> None:
        """Look for a server that is away no longer."""
        self._closed.set()

    def _lose(self, error: Exception) -> None:
        """The server is away from now on, and looked for."""
        with self._lock:
            if not self._here.is_set() or self._closed.is_set():
                return
            self._here.clear()
        logger.warning("the Redis-compatible server does not answer, and is done without: %r", error)
        threading.Thread(target=self._probe, name="redis-probe", daemon=True).start()

    def _probe(self) -> None:
        while not self._closed.wait(self._probe_seconds):
            try:
                line = self._open()
            except (redis.RedisError, OSError):
                continue
            line.connection.disconnect()
            self._here.set()
            logger.warning("the Redis-compatible server answers again")
            return

    def _ask(self, line: _Line | None, commands: Sequence[Command]) -> tuple[_Line, list[Any]]:
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
    def _exchange(line: _Line, commands: Sequence[Command]) -> list[Any]:
        try:
            return _send_and_read(line.connection, commands)
        except BaseException:  # the next one to use it would read replies to these commands
            line.connection.disconnect()
            raise


def _send_and_read(connection: Any, commands: Sequence[Command]) -> list[Any]:
    connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    return [_reply(connection) for _ in commands]


def _reply(connection: Any) -> Any:
    try:
        # Not decoded: what is no UTF-8 is for the reader to refuse.
        return connection.read_response(disable_decoding=True, disconnect_on_error=False)
    except redis.ResponseError as error:
        return error
    except redis.TimeoutError:
        # A worker that did not get round to reading for so long finds its timer run out and the reply there at once.
        if not connection.can_read(0):
            raise
        return _reply(connection)


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

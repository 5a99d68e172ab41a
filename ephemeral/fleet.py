"""Which server of the Redis-compatible ones answers what: one alone, the primary that Sentinel names, or a cluster's.

Who may be asked is known when a request comes, or the request is refused: whatever takes asking others is done by a
thread of its own (`Watcher`), at intervals and whenever a request met something new.
"""

from __future__ import annotations

import logging
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Any, Protocol

import redis
from redis.exceptions import AskError

from ephemeral.client import MAX_CONNECTIONS
from ephemeral.node import PROBE_SECONDS, RedisNode, unavailable
from ephemeral.scripts import Call, Command

logger = logging.getLogger("ephemeral")


class Fleet(Protocol):
    """All of the servers. But for `start` nothing here waits; for the first look, `patience_seconds` at most.

    `patience_seconds`: how long a request waits for an answer, which then makes the server away.
    """

    patience_seconds: float

    def start(self, seconds: float) -> None:
        """Begin to find out who is who, and wait for that so long. May raise `EphemeralUnavailable`."""

    def only(self) -> RedisNode | None:
        """The one that answers everything; None where it depends on the key. May raise `EphemeralUnavailable`."""

    def node_of(self, asked: Command | Call) -> RedisNode | None:
        """Who has the command's key; None where nobody is known to. May raise `EphemeralUnavailable`."""

    def primaries(self) -> Iterable[RedisNode]:
        """All who have keys of their own, as far as is known. May raise `EphemeralUnavailable`."""

    def away(self) -> Mapping[str, bool]:
        """Which of those that are known are done without now, by name; for the figures."""

    def redirected(self, error: AskError) -> RedisNode | None:
        """Whom a server has sent on to; with a `MovedError` for all that come after, too. None: do not follow."""

    def doubt(self) -> None:
        """A server said that something is not as it was: look."""

    def close(self) -> None:
        """Look no longer."""


class OneServer:
    """It is where its URL says, or away."""

    def __init__(
        self,
        client: redis.Redis,
        max_connections: int = MAX_CONNECTIONS,
        probe_seconds: float = PROBE_SECONDS,
    ) -> None:
        kwargs = client.connection_pool.connection_kwargs
        self.patience_seconds = float(kwargs["socket_timeout"])
        name = kwargs.get("path") or f"{kwargs.get('host')}:{kwargs.get('port')}"
        self._node = RedisNode(
            name, connections_of(client)(), max_connections=max_connections, probe_seconds=probe_seconds
        )
        self._warned = False

    def start(self, seconds: float) -> None:
        """It is known."""

    def only(self) -> RedisNode:
        return self._node

    def node_of(self, _asked: Command | Call) -> RedisNode:
        return self._node

    def primaries(self) -> Iterable[RedisNode]:
        return [self._node]

    def away(self) -> Mapping[str, bool]:
        return {"redis": not self._node.here}

    def redirected(self, error: AskError) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "a server of a cluster is asked as if it were alone, %s: %s", self._node.name, error
            )

    def doubt(self) -> None:
        """There is nobody else."""

    def close(self) -> None:
        self._node.close()


class Watcher:
    """A thread that looks who is who: begun by `start` or the first request, so after the fork."""

    def __init__(self, name: str, patience_seconds: float) -> None:
        self.patience_seconds = patience_seconds
        self._name = name
        self._lock = threading.Lock()
        self._began_at: float | None = None
        self._known = threading.Event()
        self._woken = threading.Event()
        self._closed = threading.Event()
        self._told = ""  # of what goes wrong

    @abstractmethod
    def look(self) -> float:
        """Ask; the number of seconds until the next time, if nothing happens."""

    def start(self, seconds: float) -> None:
        with self._lock:
            if self._began_at is None:
                self._began_at = monotonic()
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
        if not self._known.wait(seconds):
            raise unavailable()

    def wait_until_known(self) -> None:
        """For the first look, where nobody has done so yet. Raises `EphemeralUnavailable`."""
        began_at = monotonic() if self._began_at is None else self._began_at
        self.start(max(began_at + self.patience_seconds - monotonic(), 0))

    def doubt(self) -> None:
        self._woken.set()

    def close(self) -> None:
        self._closed.set()
        self._woken.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._woken.clear()
            pause, wrong = PROBE_SECONDS, ""
            try:
                pause = self.look()
            except Exception as error:  # noqa: BLE001 - whatever it was, the next look is due all the same
                wrong = repr(error)
            if wrong and not self._told:
                logger.warning("%s finds nothing out: %s", self._name, wrong)
            elif self._told and not wrong:
                logger.warning("%s is well again", self._name)
            self._told = wrong
            # However often it is woken, it does not ask more often than this.
            self._closed.wait(PROBE_SECONDS)
            self._woken.wait(pause)


def connections_of(client: redis.Redis) -> Callable[..., Callable[[], Any]]:
    """Makes what makes connections to where the client connects, or to another (host, port)."""
    pool = client.connection_pool

    def to(host: str | None = None, port: int | None = None) -> Callable[[], Any]:
        there = pool.connection_kwargs | ({} if host is None else {"host": host, "port": port})
        return lambda: pool.connection_class(**there)

    return to

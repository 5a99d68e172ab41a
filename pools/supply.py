"""How a pool loses connections and makes new ones. The other half, taking and returning, is pools/pool.py.

It is psycopg's `ConnectionPool`: its threads, its scheduler, its life cycle. What it does otherwise than
that:

- A failure to connect neither backs off nor ever gives up. (psycopg's waits 1, 2, 4 ... s, and after
  `reconnect_timeout` does not try again by itself.) One probe tries again every `PROBE_SECONDS`; the first
  success brings all connections back, several at a time.
- While no connection is left, or once a statement has met its deadline, nobody waits: callers are refused at
  once until the probe succeeds.

    closed ──open()──▶ filling ──first connection──▶ serving ◀──────────────┐
                          │                             │                   │ the probe connects
                          └────connecting fails────▶ refusing ──────────────┘
                                (serving: and none is left, or a statement met its deadline)
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from time import monotonic
from typing import Any

from psycopg_pool import ConnectionPool
from psycopg_pool.base import AttemptWithBackoff
from psycopg_pool.pool import AddConnection, MaintenanceTask

from errors import NodeUnavailable
from pools.connection import ShardConnection
from pools.line import Line

logger = logging.getLogger("pools")

# Between two attempts of the probe: half of the 100 ms within which a server that is back must be in use
# again. An attempt at a closed port costs 0.2 ms.
PROBE_SECONDS = 0.05
# Connections that one pool makes at a time: quick, but a shard that comes back is not stormed.
MAKERS = 3
# A statement that a living server has got is answered well before this.
SEVER_SECONDS = 0.5
# For so long after another store has used a pool, part of it is kept for others. Shorter than a shopper's pause between
# two requests, and a store that is alone again has all of it soon.
OTHERS_SECONDS = 1.0
# One warning in this time while a server is away; the rest would say the same.
LOG_EVERY_SECONDS = 10.0


class Supply(ConnectionPool[ShardConnection]):
    """A pool's stock of connections, kept at `size`.

    `subject` is what a refusal names to the client. `store_share`: how much of the pool one store may hold while others
    use it too; 1 leaves the order in which they are served, 0 not that either.
    """

    probe_seconds = PROBE_SECONDS

    def __init__(
        self,
        name: str,
        *,
        subject: str,
        conninfo: str | Callable[[], str],
        kwargs: Mapping[str, Any],
        configure: Callable[[ShardConnection], None],
        size: int,
        max_waiting: int,
        timeout_seconds: float,
        store_share: float = 1.0,
    ) -> None:
        super().__init__(
            conninfo,
            connection_class=ShardConnection,
            kwargs=dict(kwargs),
            configure=configure,
            name=name,
            min_size=size,
            max_size=size,
            max_waiting=max_waiting,
            timeout=timeout_seconds,
            num_workers=min(MAKERS, size),
            open=False,
        )
        # In place of psycopg's one line. Not yet used: nobody waits for a pool that is not open.
        self._waiting: Line = Line()  # type: ignore[assignment]
        self._by_store = store_share > 0
        self._kept = size - max(1, ceil(store_share * size)) if self._by_store else 0
        self._latest_store: int | None = None  # whose connection came back last
        self._latest_since = 0.0  # when the first of its connections did, after another's
        self.subject = subject
        self.node = ""  # the server that the newest connection talks to
        self._live = 0  # connections that exist, given out or not
        self._lent: set[ShardConnection] = set()  # those given out
        self._missing = 0  # connections that are made again only when the probe has succeeded
        self._refusing = False
        self._probe: Probe | None = None  # scheduled or under way
        self._last_return = 0.0  # when a connection last became free
        self._last_logged = 0.0

    # Losing.

    def drain(self) -> None:
        """Make every connection anew: the free ones now, those given out when they come back."""
        self._drained_at = monotonic()
        for connection in self._take_all():
            self._discard(connection)

    def sever(self, stale: Callable[[ShardConnection], bool]) -> None:
        """Make every connection anew if this is true of any: the free ones now, those given out when they come back.

        Of those given out, the stale ones have `SEVER_SECONDS` to get their answer. A server that lives gives one; who
        waits for one that is frozen is told then that the connection is lost.
        """
        lent = [connection for connection in list(self._lent) if stale(connection)]
        if lent or any(map(stale, list(self._pool))):
            self.drain()
            self.schedule_task(Sever(self, lent), SEVER_SECONDS)

    def give_up(self, reason: str) -> None:
        """The server is known not to answer: tell everybody who waits for it, and refuse until it does."""
        self._refuse(reason, probe_in=self.probe_seconds)
        for connection in list(self._lent):
            connection.sever()

    def check(self) -> None:
        """Make those free connections anew that their server has closed. Talks to no server."""
        for connection in self._take_all():
            if connection.poll(0):
                self._discard(connection)
            else:
                self._pool.append(connection)
                self._settle()

    def _take_all(self) -> list[ShardConnection]:
        with self._lock:
            connections = list(self._pool)
            self._pool.clear()
        return connections

    def _discard(self, connection: ShardConnection) -> None:
        """Close a connection and have another made."""
        self._close_connection(connection)
        if not self._closed:
            self.run_task(AddConnection(self))

    def _close_connection(self, conn: ShardConnection) -> None:
        self._live -= 1
        conn.abandon()

    def _refuse(self, reason: str, *, probe_in: float, lost: ShardConnection | None = None) -> None:
        """Give out no connection until a new one could be made; tell those who wait at once."""
        with self._lock:
            first, self._refusing = not self._refusing, True
            waiting = list(self._waiting)
            self._waiting.clear()
        self._schedule_probe(probe_in)
        for connection in [*self._take_all(), *([lost] if lost else [])]:
            self._discard(connection)
        for waiter in waiting:
            waiter.fail(self._unavailable())
        # Last, as the only step that could be interrupted: writing a line may wait.
        self._log_away(reason, first=first)

    # Making, in the pool's own threads.

    def _start_initial_tasks(self) -> None:
        for _ in range(self._nconns):
            self.run_task(AddConnection(self))

    def _add_connection(self, attempt: AttemptWithBackoff | None, growing: bool = False) -> None:  # noqa: ARG002
        """Make one connection."""
        with self._lock:
            # With a probe on its way, this would meet what the probe meets: leave it to the probe's success.
            if self._probe is not None:
                self._missing += 1
                return
        self._try_to_connect()

    def run_probe(self, probe: Probe) -> None:
        """Try to make one connection for all that are missing."""
        with self._lock:
            if self._probe is not probe:
                return  # a connection made meanwhile ended the probing
            if self._missing == 0:
                self._probe = None  # an attempt was under way when the probing began: its end decides
                return
            self._missing -= 1
        self._try_to_connect()

    def _try_to_connect(self) -> None:
        try:
            connection = self._connect()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next attempt may succeed
            with self._lock:
                self._missing += 1
                self._probe = None
                nothing_left = self._live <= 0
            if self._closed:
                return
            if nothing_left:
                self._refuse(str(error), probe_in=self.probe_seconds)
            else:
                self._schedule_probe(self.probe_seconds)
                self._log_away(str(error))
        else:
            self._adopt(connection)

    def _adopt(self, connection: ShardConnection) -> None:
        """A new connection: the server is there, so all that is missing is made now."""
        # Once it has been `_pool`, psycopg does not warn when it is dropped; None breaks the reference loop.
        connection._pool = None
        with self._lock:
            if self._closed:
                connection.abandon()
                return
            self._live += 1
            self.node = connection.node
            self._last_return = monotonic()
            back, self._refusing = self._refusing, False
            self._probe = None
            missing, self._missing = self._missing, 0
            self._pool.append(connection)
            self._settle()
            if self._pool_full_event and len(self._pool) >= self._min_size:
                self._pool_full_event.set()
        for _ in range(missing):
            self.run_task(AddConnection(self))
        if back:
            logger.warning("pool %s: %s answers again", self.name, connection.node)

    def _settle(self) -> None:
        """Give free connections to those who wait; a closed pool's are closed."""
        with self._lock:
            while self._pool and (self._waiting or self._closed):
                connection = self._pool.popleft()
                if self._closed:
                    self._close_connection(connection)
                    continue
                if connection.poll(0):  # its server has gone while it was given out
                    self._discard(connection)
                    continue
                if not self._hand_over(connection):
                    self._pool.appendleft(connection)
                    break

    def _hand_over(self, connection: ShardConnection) -> bool:
        """To whoever is next in line; False where nobody may have it. With the lock held."""
        while (waiter := self._waiting.pop_next(self._held(), self._may_have_another)) is not None:
            # Lent from now on, not from when the waiter wakes up: who is next must know it.
            connection.store = waiter.store
            self._lent.add(connection)
            if waiter.set(connection):
                return True
            self._lent.discard(connection)
        return False

    # One store's part.

    def _held(self) -> Counter[int | None]:
        """Connections by the store that they are given out to."""
        return Counter(connection.store for connection in list(self._lent))

    def _may_have_another(self, store: int | None) -> bool:
        """Whether this store may have one of the free connections, before it is taken from them.

        The last `_kept` are kept for others, while others use the pool: a store that has it to itself has all of it.
        """
        if not self._kept or store is None or self._held()[store] < max(1, self._live - self._kept):
            return True
        others_at = self._latest_since if self._latest_store == store else self._last_return
        return monotonic() - others_at > OTHERS_SECONDS

    def _schedule_probe(self, seconds: float) -> None:
        with self._lock:
            if self._probe is not None or self._closed:
                return
            self._probe = probe = Probe(self)
        self.schedule_task(probe, seconds)

    def _unavailable(self) -> NodeUnavailable:
        return NodeUnavailable(f"{self.subject} is not available.", retry_after_seconds=1)

    def _log_away(self, reason: str, *, first: bool = False) -> None:
        now = monotonic()
        if first or now - self._last_logged > LOG_EVERY_SECONDS:
            self._last_logged = now
            logger.warning("pool %s: no connection: %s", self.name, reason)


class Sever(MaintenanceTask):
    """The end of the patience with what was asked of a server that is not asked any more."""

    def __init__(self, pool: Supply, connections: Sequence[ShardConnection]) -> None:
        super().__init__(pool)
        self._connections = connections

    def _run(self, pool: ConnectionPool[Any]) -> None:
        if isinstance(pool, Supply):
            for connection in self._connections:
                if connection in pool._lent:
                    connection.sever()


class Probe(MaintenanceTask):
    """The one attempt to connect that is scheduled or under way while a pool's server is away."""

    def _run(self, pool: ConnectionPool[Any]) -> None:
        if isinstance(pool, Supply):
            pool.run_probe(self)

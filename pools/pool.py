"""One explicit pool of connections to one target: a shard's primary, or one replica.

It is psycopg's `ConnectionPool` (threads, queue and life cycle are its own) with four things done otherwise, each for
a reason that docs/pools.md measures:

- A connection is looked at before it is given out, with one `poll` of its socket and without a word to the server: a
  restarted server's dead connections never reach a request. (`check=` asks the server, and backs off for seconds.)
- A failure to connect does not back off and never gives up: one probe tries again every `PROBE_SECONDS`, and all else
  is refused at once while no connection is left. The first success brings all connections back, several at a time.
- A greenlet's timeout or kill, at whatever moment, loses no connection: each way out of a wait handles
  `BaseException`, and what has to be said to the server on the way back is said by the pool's own threads.
- Taking and returning a connection takes no lock while nobody waits.

    closed ──open()──▶ filling ──first connection──▶ serving ◀────────┐
                          │                            │              │ the probe connects
                          └──connecting fails──▶    refusing ─────────┘
                              (serving: and none left, or a statement met its deadline)
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any

from psycopg import pq
from psycopg_pool import ConnectionPool, PoolTimeout
from psycopg_pool.base import AttemptWithBackoff
from psycopg_pool.pool import (
    AddConnection,
    MaintenanceTask,
    ReturnConnection,
    WaitingClient,
)

from errors import NodeUnavailable, PoolExhausted
from pools.connection import ShardConnection

logger = logging.getLogger("pools")

# How long a refusing pool waits between two attempts to connect. Half of the 100 ms within which a server that is
# back must be in use again; an attempt at a closed port costs 0.2 ms.
PROBE_SECONDS = 0.05
# One warning in this time while a server is away; the rest would say the same.
LOG_EVERY_SECONDS = 10.0

# The numbers libpq uses; comparing with the enum's members costs a microsecond a request.
_IDLE = int(pq.TransactionStatus.IDLE)
_BROKEN_OFF = (int(pq.TransactionStatus.ACTIVE), int(pq.TransactionStatus.UNKNOWN))


@dataclass(frozen=True, slots=True)
class PoolGauge:
    """`size`: connections that exist, given out or not; `available`: those not given out; `waiting`: callers."""

    size: int
    available: int
    waiting: int


class Lease:
    """What `NodePool.connection()` returns: `with` gives the connection and takes it back."""

    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: NodePool) -> None:
        self._pool = pool
        self._connection: ShardConnection | None = None

    def __enter__(self) -> ShardConnection:
        self._connection = connection = self._pool.getconn()
        return connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.putconn(connection)


class NodePool(ConnectionPool[ShardConnection]):
    """A pool of autocommit connections, of one size, bounded in waiters and in waiting time.

    `subject` is what a refusal names to the client: the shard, never an address. `configure` gets each new
    connection. Nothing is opened before `open()`, and only the process that opened the pool can use it.
    """

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
            # Connections of a pool are made side by side, but never so many that a shard coming back is stormed.
            num_workers=min(3, size),
            open=False,
        )
        self.subject = subject
        self._live = 0  # connections that exist, given out or not
        self._missing = 0  # connections that are made again only when the probe has succeeded
        self._refusing = False
        self._probe: Probe | None = None  # scheduled or under way
        self._last_return = 0.0
        self._stalled_at = 0.0  # when somebody last waited in vain while nothing came back
        self._last_logged = 0.0
        self._process = 0

    # Taking and returning: the path of every request.

    def connection(self, timeout: float | None = None) -> Lease:  # type: ignore[override]
        """A connection for the length of a `with` block, in autocommit: transactions are the caller's, explicitly.

        Raises, on entering, `PoolExhausted` (too many wait, or none came free in time) or `NodeUnavailable` (no
        server behind this pool); both at once where waiting is hopeless. A block that leaves a transaction open
        has it rolled back off the caller's path; one that leaves a statement running has its connection closed.
        """
        return Lease(self)

    def getconn(self, timeout: float | None = None) -> ShardConnection:
        """Take a connection, which must come back through `putconn()`. Prefer `connection()`, and see there."""
        while True:
            try:
                connection = self._pool.popleft()
            except IndexError:
                return self._queue(self.timeout if timeout is None else timeout)
            # A socket with something to read, on a connection that waits for nothing: the server closed it.
            if not connection.poll(0):
                return connection
            self._discard(connection)

    def putconn(self, conn: ShardConnection) -> None:
        """Take a connection back in whatever state. Talks to no server, so it cannot be interrupted half way."""
        conn.phase = "statement"
        now = self._last_return = monotonic()
        if conn.pgconn.transaction_status != _IDLE or conn.pgconn.pipeline_status:
            self._put_unclean(conn)
        elif conn._expire_at <= now or conn._created_at <= self._drained_at or self._refusing:
            self._discard(conn)
        else:
            self._pool.append(conn)
            # Appended first, looked for waiters second; who queues does it the other way round. One of the two sees
            # the other, so that nobody waits beside a free connection, without a lock on this path.
            if self._waiting or self._closed:
                self._settle()

    def _queue(self, timeout: float) -> ShardConnection:
        """Wait in line. Runs only where no connection is free."""
        began = monotonic()
        with self._lock:
            self._check_usable()
            if self._refusing:
                raise self._unavailable()
            # Somebody waited in vain and nothing has come back since: a second one in line has no better chance.
            stalled = bool(self._waiting) and self._last_return < self._stalled_at
            if stalled or len(self._waiting) >= self.max_waiting:
                raise self._exhausted()
            waiter: WaitingClient[ShardConnection] = WaitingClient()
            self._waiting.append(waiter)
            self._settle()
        try:
            return waiter.wait(timeout)
        except BaseException as error:
            # Also a greenlet's timeout or kill, which psycopg's own pool does not handle: the connection that was
            # assigned in the same moment would belong to nobody.
            self._leave_queue(waiter)
            if not isinstance(error, PoolTimeout):
                raise
            if self._last_return < began:
                self._stalled_at = monotonic()
            raise self._exhausted() from None

    def _leave_queue(self, waiter: WaitingClient[ShardConnection]) -> None:
        with self._lock:
            waiter.fail(PoolTimeout("left"))
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            if waiter.conn is not None:
                self._pool.append(waiter.conn)
                self._settle()

    def _settle(self) -> None:
        """Give free connections to those who wait; a closed pool's are closed."""
        with self._lock:
            while self._pool and (self._waiting or self._closed):
                connection = self._pool.popleft()
                if self._closed:
                    self._close_connection(connection)
                    continue
                while self._waiting:
                    if self._waiting.popleft().set(connection):
                        break
                else:
                    self._pool.append(connection)

    def _put_unclean(self, conn: ShardConnection) -> None:
        status = conn.pgconn.transaction_status
        if conn.overdue:
            # The server is frozen or out of reach: whoever has another connection to it will learn the same.
            self._refuse("a statement met its deadline", probe_in=0.0)
            self._discard(conn)
        elif status in _BROKEN_OFF or conn.pgconn.pipeline_status:
            self._discard(conn)
        else:
            # A transaction left open. The rollback is a round trip: the pool's own thread makes it, whom no
            # request's timeout can interrupt.
            self.run_task(ReturnConnection(self, conn, from_getconn=False))

    def _return_connection(self, conn: ShardConnection, from_getconn: bool) -> None:
        """Roll back what a caller left open; in the pool's thread."""
        try:
            conn.rollback()
        except Exception as error:
            logger.warning("pool %s: a left transaction could not be rolled back: %s", self.name, error)
            conn.abandon()
        self.putconn(conn)

    # Losing and making connections.

    def _discard(self, connection: ShardConnection) -> None:
        """Close a connection and have another made."""
        self._close_connection(connection)
        if not self._closed:
            self.run_task(AddConnection(self))

    def _close_connection(self, conn: ShardConnection) -> None:
        self._live -= 1
        conn.abandon()

    def drain(self) -> None:
        """Make every connection anew: the free ones now, those given out when they come back."""
        with self._lock:
            self._drained_at = monotonic()
            connections = list(self._pool)
            self._pool.clear()
        for connection in connections:
            self._discard(connection)

    def check(self) -> None:
        """Make those free connections anew whose server has closed them. Talks to no server."""
        with self._lock:
            connections = list(self._pool)
            self._pool.clear()
        for connection in connections:
            if connection.poll(0):
                self._discard(connection)
            else:
                self._pool.append(connection)
                self._settle()

    def _add_connection(self, attempt: AttemptWithBackoff | None, growing: bool = False) -> None:
        """Make one connection; in one of the pool's threads."""
        with self._lock:
            # With a probe on its way, this attempt would meet what the probe meets: leave it to the probe's success.
            if self._probe is not None:
                self._missing += 1
                return
        self._try_to_connect()

    def run_probe(self, probe: Probe) -> None:
        """Try to make one connection for all that are missing; in one of the pool's threads."""
        with self._lock:
            if self._probe is not probe:
                return  # a connection made meanwhile ended the probing
            if self._missing == 0:
                self._probe = None  # the attempt that was under way when the probing began is still on
                return
            self._missing -= 1
        self._try_to_connect()

    def _try_to_connect(self) -> None:
        try:
            connection = self._connect()
        except Exception as error:
            with self._lock:
                self._missing += 1
                self._probe = None
                nothing_left = self._live <= 0
            if nothing_left:
                self._refuse(str(error), probe_in=PROBE_SECONDS)
            else:
                self._log_away(str(error))
                self._schedule_probe(PROBE_SECONDS)
        else:
            self._adopt(connection)

    def _adopt(self, connection: ShardConnection) -> None:
        """A new connection: the server is there, so whatever is missing is made now too."""
        connection._pool = None
        with self._lock:
            if self._closed:
                connection.abandon()
                return
            self._live += 1
            self._last_return = monotonic()
            if self._refusing:
                logger.warning("pool %s: %s answers again", self.name, connection.node)
            self._refusing, self._probe = False, None
            missing, self._missing = self._missing, 0
            self._pool.append(connection)
            self._settle()
            if self._pool_full_event and len(self._pool) >= self._min_size:
                self._pool_full_event.set()
        for _ in range(missing):
            self.run_task(AddConnection(self))

    def _refuse(self, reason: str, *, probe_in: float) -> None:
        """Give out no connection until a new one could be made; tell those who wait at once."""
        with self._lock:
            if self._closed:
                return
            first, self._refusing = not self._refusing, True
            connections, waiting = list(self._pool), list(self._waiting)
            self._pool.clear()
            self._waiting.clear()
        self._schedule_probe(probe_in)
        for connection in connections:
            self._discard(connection)
        for waiter in waiting:
            waiter.fail(self._unavailable())
        self._log_away(reason, first=first)

    def _schedule_probe(self, seconds: float) -> None:
        with self._lock:
            if self._probe is not None or self._closed:
                return
            self._probe = probe = Probe(self)
        self.schedule_task(probe, seconds)

    def _log_away(self, reason: str, *, first: bool = False) -> None:
        now = monotonic()
        if first or now - self._last_logged > LOG_EVERY_SECONDS:
            self._last_logged = now
            logger.warning("pool %s: no connection: %s", self.name, reason)

    def _unavailable(self) -> NodeUnavailable:
        return NodeUnavailable(f"{self.subject} is not available.", retry_after_seconds=1)

    def _exhausted(self) -> PoolExhausted:
        return PoolExhausted(f"{self.subject} has no connection free.", retry_after_seconds=1)

    # Life cycle.

    def _start_initial_tasks(self) -> None:
        self._process = os.getpid()
        _open_pools.add(self)
        for _ in range(self._nconns):
            self.run_task(AddConnection(self))

    def close(self, timeout: float = 0.5) -> None:
        """Refuse from now on, close what is free, and the rest as it comes back. Waits `timeout` for own threads."""
        _open_pools.discard(self)
        super().close(timeout)

    def gauge(self) -> PoolGauge:
        return PoolGauge(size=max(0, self._live), available=len(self._pool), waiting=len(self._waiting))

    def _check_usable(self) -> None:
        if self._process and self._process != os.getpid():
            raise RuntimeError(
                f"pool {self.name!r} was opened in process {self._process} and is used in {os.getpid()}: "
                "two processes on one connection corrupt each other's answers; open pools after the fork"
            )
        if self._closed:
            raise self._unavailable()


class Probe(MaintenanceTask):
    """The one attempt to connect that is under way while a pool's target is away."""

    def _run(self, pool: ConnectionPool[Any]) -> None:
        assert isinstance(pool, NodePool)
        pool.run_probe(self)


_open_pools: weakref.WeakSet[NodePool] = weakref.WeakSet()


def _forget_the_parents_connections() -> None:
    """In a forked child: make sure that no connection of the parent can be taken, at no cost to the path that takes.

    The sockets are left alone: saying goodbye on them would end the parent's sessions.
    """
    for pool in _open_pools:
        pool._pool = type(pool._pool)()


os.register_at_fork(after_in_child=_forget_the_parents_connections)

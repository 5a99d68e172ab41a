"""One explicit pool of connections to one target: a shard's primary, or one replica.

Taking and returning, the path of every request, is written anew on top of psycopg's pool (pools/supply.py
says what is kept), each difference for a reason that docs/pools.md measures:

- A connection is looked at before it is given out, with one `poll` of its socket and no word to the server: a
  restarted server's dead connections reach no request. (`check=` asks the server, and backs off for seconds.)
- A greenlet's timeout or kill, at whatever moment, loses no connection: every way out of a wait handles
  `BaseException`, and what has to be said to the server on the way back is said by the pool's own threads.
- Waiting is bounded in number and in time, and is refused where it is hopeless. Stores take turns (pools/line.py), and
  none takes the whole pool while others use it.
- Neither way takes a lock while nobody waits.
"""

from __future__ import annotations

import logging
import os
import weakref
from dataclasses import dataclass
from time import monotonic
from types import TracebackType

from psycopg import pq
from psycopg_pool import PoolTimeout
from psycopg_pool.pool import ReturnConnection

import metrics
from errors import PoolExhausted
from pools.connection import ShardConnection
from pools.line import Waiter
from pools.supply import Supply

logger = logging.getLogger("pools")

# libpq's own numbers: comparing with the enum's members would cost a request half a microsecond.
_IDLE = int(pq.TransactionStatus.IDLE)
_IN_TRANSACTION = (int(pq.TransactionStatus.INTRANS), int(pq.TransactionStatus.INERROR))


@dataclass(frozen=True, slots=True)
class PoolGauge:
    """`size`: connections that exist; `available`: those not given out; `waiting`: callers in line."""

    size: int
    available: int
    waiting: int


class Lease:
    """What `NodePool.connection()` returns: `with` gives the connection and takes it back."""

    __slots__ = ("_connection", "_pool", "_store")

    def __init__(self, pool: NodePool, store: int | None) -> None:
        self._pool = pool
        self._store = store
        self._connection: ShardConnection | None = None

    def __enter__(self) -> ShardConnection:
        self._connection = connection = self._pool.lend(self._store)
        return connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.putconn(connection)


class NodePool(Supply):
    """A pool of autocommit connections, of one size, bounded in waiters and in waiting time.

    Nothing is opened before `open()`, and only the process that opened the pool can use it.
    """

    _process = 0
    _stalled_at = 0.0  # when somebody last waited in vain while nothing came back

    def connection(self, timeout: float | None = None, *, store: int | None = None) -> Lease:  # type: ignore[override]  # noqa: ARG002
        """A connection for the length of a `with` block, in autocommit: transactions are the caller's own.

        `store`: whose request it is for, its id as a number; None: no store's.

        Raises, on entering, `PoolExhausted` (too many wait, or none came free in time) or `NodeUnavailable`
        (no server behind this pool); both at once where waiting is hopeless. A block that leaves a
        transaction open has it rolled back off the caller's path; one that leaves a statement running has its
        connection closed.
        """
        return Lease(self, store)

    def getconn(self, timeout: float | None = None) -> ShardConnection:
        """Take a connection, which must come back by `putconn()`. Prefer `connection()`, and see there."""
        return self.lend(None, timeout)

    def lend(self, store: int | None, timeout: float | None = None) -> ShardConnection:
        """As `getconn`, for a store's request."""
        if not self._by_store:
            store = None
        while True:
            try:
                connection = self._pool.popleft()
            except IndexError:
                break
            # Something to read on a connection that waits for nothing: its server has closed it.
            if connection.poll(0):
                self._discard(connection)
                continue
            if len(self._pool) < self._kept and not self._may_take(store):
                self._pool.appendleft(connection)
                metrics.count_held_back(self.name)
                break
            connection.store = store
            self._lent.add(connection)
            return connection
        return self._queue(store, self.timeout if timeout is None else timeout)

    def putconn(self, conn: ShardConnection) -> None:
        """Take a connection back in whatever state. Waits for nothing: it cannot be interrupted half way."""
        conn.phase = "statement"
        self._lent.discard(conn)
        now = self._last_return = monotonic()
        if conn.pgconn.transaction_status != _IDLE or conn.pgconn.pipeline_status:
            self._put_unclean(conn)
        elif self._refusing or conn._expire_at <= now or conn._created_at <= self._drained_at:
            self._discard(conn)
        else:
            store = conn.store
            if store != self._latest_store and store is not None:
                self._latest_store, self._latest_since = store, now
            self._pool.append(conn)
            # Appended first, looked for waiters second; who queues does it the other way round. One of the
            # two sees the other, so that nobody waits beside a free connection, without a lock on this path.
            if self._waiting or self._closed:
                self._settle()

    def _may_take(self, store: int | None) -> bool:
        return not self._waiting.count(store) and self._may_have_another(store)

    def _queue(self, store: int | None, timeout: float) -> ShardConnection:
        """Wait in line. Runs only where no connection is free, or none for this store."""
        began = monotonic()
        waiter = Waiter(store)
        with self._lock:
            try:
                self._check_usable()
                self._check_room(store)
                self._waiting.append(waiter)
            finally:
                # Also for others: what is free for them may have been out of sight for a moment, in `lend`.
                self._settle()
        try:
            connection = waiter.wait(timeout)
        except BaseException as error:
            # Also a greenlet's timeout or kill, which psycopg's own pool does not handle: a connection that
            # was assigned in the same moment would belong to nobody.
            self._leave_queue(waiter)
            if not isinstance(error, PoolTimeout):
                raise
            # A connection that is kept for others says that the pool is not at a standstill.
            if self._last_return < began and not self._pool:
                self._stalled_at = monotonic()
            metrics.count_pool_wait(self.name, "timed_out", monotonic() - began)
            raise self._exhausted() from None
        metrics.count_pool_wait(self.name, "served", monotonic() - began)
        return connection

    def _check_room(self, store: int | None) -> None:
        """Whether another request of this store may wait. Raises `PoolExhausted`. With the lock held."""
        # Somebody waited in vain and nothing has come back since: a second in line has no better chance.
        stalled = bool(self._waiting) and self._last_return < self._stalled_at
        if not stalled and len(self._waiting) < self.max_waiting:
            return
        if not stalled and self._waiting:
            last = self._waiting.newest_of_longest()
            if self._waiting.count(last.store) > self._waiting.count(store) + 1:
                self._waiting.remove(last)
                last.fail(self._exhausted())
                metrics.count_pool_wait(self.name, "displaced")
                return
        metrics.count_pool_wait(self.name, "refused")
        raise self._exhausted()

    def _leave_queue(self, waiter: Waiter) -> None:
        with self._lock:
            waiter.fail(PoolTimeout("left"))
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            if waiter.conn is not None:
                self._lent.discard(waiter.conn)
                self._pool.append(waiter.conn)
            self._settle()

    def _put_unclean(self, conn: ShardConnection) -> None:
        if conn.overdue:
            # The server is frozen or out of reach: whoever has another connection to it would learn the same.
            self._refuse("a statement met its deadline", probe_in=0.0, lost=conn)
        elif conn.pgconn.transaction_status in _IN_TRANSACTION and not conn.pgconn.pipeline_status:
            # The rollback is a round trip: the pool's own thread makes it, whom no request can interrupt.
            self.run_task(ReturnConnection(self, conn, from_getconn=False))
        else:
            self._discard(conn)

    def _return_connection(self, conn: ShardConnection, from_getconn: bool) -> None:  # noqa: ARG002
        """Roll back what a caller left open, in the pool's own thread."""
        try:
            conn.rollback()
        except Exception as error:  # noqa: BLE001 - whatever it is, the connection goes
            conn.abandon()
            logger.warning("pool %s: a left transaction could not be rolled back: %s", self.name, error)
        self.putconn(conn)

    def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Begin to fill the pool, in the background; a server that is away delays nobody."""
        self._process = os.getpid()
        _open_pools.add(self)
        super().open(wait, timeout)

    def close(self, timeout: float = 0.5) -> None:
        """Refuse from now on, close what is free, and the rest as it comes back. Waits for own threads."""
        _open_pools.discard(self)
        super().close(timeout)

    def gauge(self) -> PoolGauge:
        return PoolGauge(size=max(0, self._live), available=len(self._pool), waiting=len(self._waiting))

    def _exhausted(self) -> PoolExhausted:
        return PoolExhausted(f"{self.subject} has no connection free.", retry_after_seconds=1)

    def _check_usable(self) -> None:
        if self._process and self._process != os.getpid():
            raise RuntimeError(
                f"pool {self.name!r} was opened in process {self._process} and is used in {os.getpid()}: two "
                "processes on one connection read each other's answers; open pools after the fork"
            )
        if self._closed or self._refusing:
            raise self._unavailable()


_open_pools: weakref.WeakSet[NodePool] = weakref.WeakSet()


def _forget_the_parents_connections() -> None:
    """In a forked child: no connection of the parent can be taken, at no cost to the path that takes them.

    Their sockets are left alone: a goodbye on them would end the parent's sessions.
    """
    for pool in _open_pools:
        pool._pool = type(pool._pool)()


os.register_at_fork(after_in_child=_forget_the_parents_connections)

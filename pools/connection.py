"""A connection of a pool: it knows whom it talks to, and never waits longer than its deadline."""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import errors as pg_errors
from psycopg import waiting
from psycopg.abc import PQGen
from psycopg.pq.abc import PGconn
from psycopg.rows import RowFactory, tuple_row

from errors import StatementDeadline

if TYPE_CHECKING:
    from pools.cooperative import CooperativeWait

T = TypeVar("T")

# Between two looks for signals while waiting without gevent (Ctrl-C in a command). psycopg's own value.
INTERRUPT_CHECK_SECONDS = 0.1

# By the WAL file's name: after a promotion pg_control_checkpoint() still tells the timeline before.
_IDENTITY = """
SELECT system_identifier,
       CASE WHEN pg_is_in_recovery() THEN '0' ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END
FROM pg_control_system()
"""


class Tally:
    """How many statements requests have sent to one node, over all connections of this process.

    A plain number, so that a request pays an addition; `PoolRegistry.take_statements` tells the metrics.
    """

    __slots__ = ("statements", "taken")

    def __init__(self) -> None:
        self.statements = self.taken = 0


class ShardConnection(psycopg.Connection[tuple[Any, ...]]):
    """An autocommit connection to one node of a shard.

    `node` is the name of the server it talks to, `system_identifier` the identity of that server's cluster
    (`pg_control_system()`), `timeline` the one it writes, 0 on a replica; they are set when the connection is made. A
    primary never changes its timeline. `deadline_seconds` bounds every
    single wait for the server. `phase` is for the caller: it sets `"commit"` before it sends what may commit
    a write, and finds the word again in the `StatementDeadline`; the pool sets it back to `"statement"`.
    """

    node: str = ""
    subject: str = "The server"  # what an error calls it to a client
    system_identifier: int = 0
    timeline: int = 0
    deadline_seconds: float = 5.0
    phase: str = "statement"
    overdue: bool = False  # a wait has met its deadline, and the connection is closed
    tally = Tally()  # of its node, once its pool has made it
    store: int | None = None  # whose request it was last given to: a store's id as a number

    def __init__(self, pgconn: PGconn, row_factory: RowFactory[tuple[Any, ...]] = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        monkey = sys.modules.get("gevent.monkey")
        patched = monkey is not None and monkey.is_module_patched("select")
        poller = (monkey.get_original("select", "poll") if monkey and patched else select.poll)()
        poller.register(pgconn.socket, select.POLLIN)
        # `poll(0)` on an idle connection: empty, in 0.4 µs and without a word to the server. Anything else is the
        # server's goodbye.
        self.poll: Callable[[int], list[tuple[int, int]]] = poller.poll
        self._cooperative: CooperativeWait | None = None
        if patched:
            from pools.cooperative import CooperativeWait  # noqa: PLC0415 - commands do without gevent

            self._cooperative = CooperativeWait(pgconn.socket)

    def wait(
        self, gen: PQGen[T], interval: float = INTERRUPT_CHECK_SECONDS, timeout: float | None = None
    ) -> T:
        """Drive one exchange with the server; every method of psycopg that talks to it comes through here.

        Raises `StatementDeadline` where the server has not answered within `deadline_seconds`. Then, and
        whenever the wait is broken off (a greenlet's timeout, Ctrl-C), the connection is closed and *no
        cancel request is sent*: a cancelled COMMIT that waits for its replica is visible and may be lost in a
        failover. What still runs is ended by the server's own `statement_timeout`, which does not reach into
        a commit.
        """
        if timeout is not None:
            # psycopg's own bounded waits, such as notifies(): their expiry is an answer, not a failure.
            return super().wait(gen, interval=interval, timeout=timeout)
        try:
            if self._cooperative is not None:
                return self._cooperative.run(gen, self.deadline_seconds)
            return waiting.wait(gen, self.pgconn.socket, interval=interval, timeout=self.deadline_seconds)
        except pg_errors._WaitTimeout:
            self.overdue = True
            self.abandon()
            raise StatementDeadline(
                f"{self.subject} did not answer within {self.deadline_seconds:g} s.", phase=self.phase
            ) from None
        except Exception:
            raise  # an answer of the server, or a lost connection, which libpq has closed already
        except BaseException:
            self.abandon()
            raise

    @property
    def made_at(self) -> float:
        """When it was made, by the monotonic clock; the server has run without a break since then."""
        return self._created_at

    def identify(self) -> None:
        """Ask the server which cluster it is of, and which timeline it writes."""
        self.system_identifier, timeline = self.execute(_IDENTITY).fetchone() or (0, "0")
        self.timeline = int(timeline, 16)

    def sever(self) -> None:
        """End the conversation while somebody else waits for its answer: who waits is told that the server is gone.

        The socket stays open until its owner closes it, so that its number is nobody else's meanwhile.
        """
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self.pgconn.socket)) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; what runs on it is not cancelled."""
        self.abandon()

    def abandon(self) -> None:
        """Close the socket without a word about what still runs on it. Idempotent; waits for nothing."""
        if self._cooperative is not None:
            self._cooperative.close()
            self._cooperative = None
        self._closed = True
        self.pgconn.finish()

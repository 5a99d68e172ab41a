"""The connection over which one node is sampled: asks without waiting, so that one greenlet can ask all nodes."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from psycopg.errors import ConnectionTimeout
from psycopg.pq import ExecStatus

from errors import StatementDeadline
from pools.connection import ShardConnection
from pools.node import Absence, Node
from sql import query

logger = logging.getLogger("replay")

SAMPLE = query("sample_node")
HISTORY = query("timeline_history")

# A node that has let so many rounds go by without an answer is not there: it is frozen, or its answers do not get
# here. Rounds and not seconds, for the sampler may have been held up itself: half a second of the default interval.
SILENT_ROUNDS = 8
# Then its connection is made anew.
LOST_ROUNDS = 12
# Between two attempts to connect: the first, then doubling up to the last, each jittered.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 1.0
# How a server fails that is there and says nothing: the kernel takes connections for a process that is stopped.
SILENCE = (TimeoutError, ConnectionTimeout, StatementDeadline)


@dataclass(frozen=True, slots=True)
class Sample:
    """What a node said. `lsn` and `received` are positions, or None where a replica has none yet.

    `clock_ahead_us`: its clock less this process's monotonic clock, in microseconds. Read here after it was read there,
    so it is never too much: however late the answer was heard, a moment of ours translated by it is one that its clock
    had passed by then.
    """

    system_identifier: int
    asked_at: float  # of the monotonic clock: what it says was so then or later
    in_recovery: bool
    timeline: int
    lsn: int
    received: int | None
    newest_timeline: int | None  # asked of a replica without a WAL receiver only
    transaction_age: float | None
    waits: bool  # a primary's commits wait for a replica
    clock_ahead_us: int = 0


class Link:
    """One node's connection for samples. Used by one thread, but for `_connect`, which has its own each time.

    away ──connect──▶ idle ──ask──▶ asking ──answer──▶ idle
      ▲                 └──────────────┴── error, or silence ──▶ away
    """

    def __init__(self, node: Node, connect: Callable[[Node], ShardConnection]) -> None:
        self.node = node
        self.sample: Sample | None = None
        self.histories: dict[int, str | None] = {}  # timeline → what the node says of it
        self.wanted_history: int | None = None
        self._connect_to = connect
        self._connection: ShardConnection | None = None
        self._connecting = False
        self._closed = False
        self._asked_at: float | None = None
        self._asked_history: int | None = None
        self._missed = 0
        self._failures = 0
        self._absence: Absence | None = None
        self._try_again_at = 0.0

    @property
    def fresh(self) -> Sample | None:
        """The last sample, while the node answers."""
        return self.sample if self._missed < SILENT_ROUNDS else None

    @property
    def absence(self) -> Absence | None:
        """Why there is no fresh sample; None where there is one, or it was never asked."""
        if self._connection is not None:
            return "silent" if self._missed >= SILENT_ROUNDS else None
        return self._absence

    def ask(self, now: float, *, hurried: bool = False) -> None:
        """Send the next question, where the last one has been answered; connect where there is no connection.

        A `hurried` round comes too soon after another to say that a node is silent.
        """
        connection = self._connection
        if connection is None:
            if not self._connecting and now >= self._try_again_at:
                self._connecting = True
                threading.Thread(target=self._connect, name=f"sample-{self.node.name}", daemon=True).start()
        elif self._asked_at is None:
            self._asked_at, self._asked_history = now, self.wanted_history
            try:
                if self.wanted_history is not None:
                    parameter = str(self.wanted_history).encode()
                    connection.pgconn.send_query_prepared(b"history", [parameter])
                else:
                    connection.pgconn.send_query_prepared(b"sample", [])
                connection.pgconn.flush()
            except Exception as error:  # noqa: BLE001 - libpq says the same of whatever went wrong
                self._lose(error, now)
        elif self._missed >= LOST_ROUNDS:
            self._lose(TimeoutError(f"no answer for {now - self._asked_at:.1f} s"), now)
        elif not hurried:
            self._missed += 1

    def hear(self, now: float) -> bool:
        """Take the answer if it has come. True where nothing is awaited (any more)."""
        connection = self._connection
        if connection is None or self._asked_at is None:
            return True
        try:
            connection.pgconn.consume_input()
            if connection.pgconn.is_busy():
                return False
            self._take(connection, self._asked_at)
        except Exception as error:  # noqa: BLE001 - the sampler outlives whatever a node does
            self._lose(error, now)
        self._asked_at, self._missed = None, 0
        return True

    def close(self) -> None:
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()

    def _take(self, connection: ShardConnection, asked_at: float) -> None:
        result = connection.pgconn.get_result()
        while connection.pgconn.get_result() is not None:
            pass
        if result is None or result.status != ExecStatus.TUPLES_OK:
            raise ConnectionError(result.get_error_message() if result else "no answer")
        values = [result.get_value(0, column) for column in range(result.nfields)]
        if self._asked_history is not None:
            text = values[0]
            self.histories[self._asked_history] = None if text is None else text.decode()
            self.wanted_history = None
            return
        in_recovery, timeline, lsn, received, newest, age, waits, clock_us = values
        if lsn is None:
            return  # a standby that has not replayed anything yet
        self.sample = Sample(
            connection.system_identifier,
            asked_at,
            in_recovery == b"1",
            self._timeline(int(timeline or 0), newest),
            int(lsn),
            None if received is None else int(received),
            None if newest is None else int(newest),
            None if age is None else float(age),
            waits == b"t",
            int(clock_us or 0) - int(monotonic() * 1e6),
        )
        self._failures = 0

    def _timeline(self, said: int, newest: bytes | None) -> int:
        """The timeline a replica follows; without a WAL receiver it cannot say.

        It goes on with the one it followed unless it has heard of a newer one, whose history it must fetch first:
        then nobody can tell which of them it replays. What was known holds for this connection only: a server that
        was started anew may have fetched what it was not seen to.
        """
        if said or newest is None:
            return said
        before = self.sample.timeline if self.sample is not None else 0
        if before:
            return before if int(newest) <= before else 0
        # Nothing was known of it: with the first timeline there is no other.
        return 1 if int(newest) == 1 else 0

    def _connect(self) -> None:
        connection: ShardConnection | None = None
        try:
            connection = self._connect_to(self.node)
            connection.execute(f"PREPARE sample AS {SAMPLE.text}")
            connection.execute(f"PREPARE history (integer) AS {HISTORY.text.replace('%(timeline)s', '$1')}")
        except Exception as error:  # noqa: BLE001 - whatever it is, the next attempt may succeed
            if connection is not None:
                connection.abandon()
            self._failed(error)
        else:
            if self._closed:
                connection.abandon()
                return
            if self._failures:
                logger.warning("node %s answers again", self.node.name)
            self.sample, self._asked_at, self._missed = None, None, 0
            self._connection = connection
        finally:
            self._connecting = False

    def _lose(self, error: Exception, now: float) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        self._asked_at = None
        self._failed(error, now)

    def _failed(self, error: Exception, now: float | None = None) -> None:
        self.sample = None
        self._absence = "silent" if isinstance(error, SILENCE) else "down"
        if self._failures == 0:
            logger.warning("node %s does not answer: %s", self.node.name, error)
        pause = min(FIRST_PAUSE_SECONDS * 2.0**self._failures, LONGEST_PAUSE_SECONDS)
        self._failures = min(self._failures + 1, 16)
        self._try_again_at = (monotonic() if now is None else now) + pause * random.uniform(0.8, 1.2)  # noqa: S311

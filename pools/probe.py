"""What every server is doing now: its role, whether it answers, and how far a replica is behind.

A worker keeps one connection of its own to every node, apart from the pools, and one thread (greenlet) a
node, so that a frozen node delays no other's news. All that is known is in `NodeState`, a frozen value;
unknown is `None` and never 0.
"""

from __future__ import annotations

import logging
import random
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from time import monotonic
from typing import Literal

from pools.connection import ShardConnection
from pools.node import Node

logger = logging.getLogger("pools")

Role = Literal["primary", "replica", "unknown"]

# Between two samples of a node. Shorter while its shard has no primary: whoever is promoted is to be found at
# once.
SAMPLE_SECONDS = 1.0
URGENT_SAMPLE_SECONDS = 0.1
# After a failure; doubles up to this many seconds, so that a node that is gone costs nothing.
LONGEST_PAUSE_SECONDS = 5.0
# How many of the primary's past positions are kept: at one a second, the last ten minutes.
HISTORY = 600
# Five samples that did not come: the primary is away, and may have written anything before.
NEWS_SECONDS = 5.0

# On a replica: how far it has replayed, and how old the last transaction it replayed is. On a primary: where
# its WAL ends. One statement for both, for a node's role can change between two statements.
_SAMPLE = """
SELECT in_recovery,
       (CASE WHEN in_recovery THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END
        - '0/0'::pg_lsn)::bigint,
       extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8
FROM pg_is_in_recovery() AS in_recovery
"""


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node, as last seen. `replay_lag_*` are 0 on a primary, and None where they are not known."""

    name: str
    role: Role = "unknown"
    healthy: bool = False
    replay_lag_bytes: int | None = None
    replay_lag_seconds: float | None = None


class PrimaryHistory:
    """Where a shard's primary was when: turns a replica's position into seconds, by this process's clock.

    An idle primary's position does not move, so a replica that has it is 0 s behind however old the last
    transaction is. Without news of the primary for `NEWS_SECONDS` nobody knows how far behind anyone is.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[int, float]] = deque(maxlen=HISTORY)  # position, when it was first seen
        self._last_news = 0.0

    def record(self, lsn: int, now: float) -> None:
        if self._samples and lsn < self._samples[-1][0]:
            # Another primary, behind the old one: what the old one wrote last is of no history of ours.
            self._samples.clear()
        if not self._samples or lsn > self._samples[-1][0]:
            self._samples.append((lsn, now))
        self._last_news = now

    def lag(self, lsn: int, transaction_age: float | None, now: float) -> tuple[int | None, float | None]:
        """Bytes and seconds a replica at `lsn` is behind. `transaction_age`: of the last one it replayed."""
        samples = list(self._samples)
        if not samples or now - self._last_news > NEWS_SECONDS:
            return None, None
        first_not_replayed = bisect_right(samples, lsn, key=itemgetter(0))
        if first_not_replayed == len(samples):
            return 0, 0.0
        seconds = now - samples[first_not_replayed][1]
        if first_not_replayed == 0 and transaction_age is not None:
            seconds = max(seconds, transaction_age)  # further behind than this process remembers
        return samples[-1][0] - lsn, seconds


class NodeProbe:
    """Samples one node until stopped. `connect` connects to it; `changed` is told every new state."""

    def __init__(
        self,
        node: Node,
        *,
        connect: Callable[[Node], ShardConnection],
        history: PrimaryHistory,
        urgent: Callable[[], bool],
        changed: Callable[[Node, NodeState], None],
    ) -> None:
        self.node = node
        self.state = NodeState(node.name)
        self._connect = connect
        self._history = history
        self._urgent = urgent
        self._changed = changed
        self._connection: ShardConnection | None = None
        self._stopping = False
        self._awake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"probe-{node.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns at once; the thread ends, and its connection with it, when the wait it is in does."""
        self._stopping = True
        self._awake.set()

    def wake(self) -> None:
        """Look now, not when the pause is over."""
        self._awake.set()

    def _run(self) -> None:
        failures = 0
        while not self._stopping:
            try:
                state = self._sample()
                failures = 0
            except Exception as error:  # noqa: BLE001 - a probe outlives whatever its node does
                failures += 1
                self._lost(error, failures)
                state = NodeState(self.node.name)
            try:
                self.state = state
                self._changed(self.node, state)
            except Exception:
                logger.exception("node %s: its new state could not be acted on", self.node.name)
            self._awake.wait(self._pause(failures))
            self._awake.clear()
        if self._connection is not None:
            self._connection.close()

    def _sample(self) -> NodeState:
        if self._connection is None:
            self._connection = self._connect(self.node)
        sample = self._connection.execute(_SAMPLE, prepare=True).fetchall()
        in_recovery, lsn, transaction_age = sample[0]
        now = monotonic()
        if not in_recovery:
            self._history.record(lsn, now)
            return NodeState(self.node.name, "primary", True, 0, 0.0)
        if lsn is None:  # a standby that has not replayed anything yet
            return NodeState(self.node.name, "replica", True)
        return NodeState(self.node.name, "replica", True, *self._history.lag(lsn, transaction_age, now))

    def _lost(self, error: Exception, failures: int) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        if failures == 1:
            logger.warning("node %s does not answer: %s", self.node.name, error)

    def _pause(self, failures: int) -> float:
        """Seconds to the next sample; jittered, so that the workers of a machine do not ask in step."""
        if self._urgent():
            seconds = URGENT_SAMPLE_SECONDS
        else:
            seconds = min(SAMPLE_SECONDS * 2 ** max(0, failures - 1), LONGEST_PAUSE_SECONDS)
        return seconds * random.uniform(0.8, 1.2)  # noqa: S311

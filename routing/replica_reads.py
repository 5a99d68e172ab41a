"""Reading from replicas: which one, and whether it has what the reader must see.

Where a replica's last known position proves it, a read costs what it costs on a primary. Where it does not (the
reader has just written), a guard goes in front of the read, in the same packet: it waits on the replica, for a few
milliseconds at most, and says where the replica stands. If that is not far enough the primary answers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from time import monotonic
from typing import Any

import metrics
from errors import NodeUnavailable, Unavailable
from pools.flight import flight
from pools.registry import PoolRegistry
from routing.exchange import exchange
from routing.lineage import Lineage, Verdict
from routing.replay import ReplayPositions, Replica, ShardState
from routing.scope import ReadBounds, Scope
from routing.token import Position
from routing.turns import Turns
from sql import query as named
from sql.loader import Query

logger = logging.getLogger("routing")

AWAIT_REPLAY = named("await_replay")

# A replica further behind than this when it was last seen will not be there within the guard's patience.
HOPEFUL_LAG_SECONDS = 0.2
# The node a read is sent to, and one more should that one fail.
ATTEMPTS = 2

Row = tuple[Any, ...]


def wanted_lsn(scope: Scope, lineage: Lineage) -> int | None:
    """The position that a replica must have replayed for this request; None where only a primary will do."""
    wanted = 0
    arrival = scope.route.arrival if scope.route is not None else None
    for floor in (
        scope.floors.get(lineage.system_identifier),
        # Before there, a store that moved here was not complete.
        arrival.position if arrival is not None else None,
    ):
        if floor is None or floor.system_identifier != lineage.system_identifier:
            continue
        verdict = lineage.judge(floor)
        if verdict is Verdict.NEWER:
            return None
        # What was lost of it is nobody's any more: all that was kept of its timeline lies before the fork.
        left_at = lineage.forks.get(floor.timeline, 0)
        wanted = max(wanted, floor.lsn if verdict is Verdict.KEPT else left_at)
    own = scope.positions.get(lineage.system_identifier)
    if own is not None:
        if lineage.judge(own) is not Verdict.KEPT:
            return None
        wanted = max(wanted, own.lsn)
    return wanted


class ReplicaReads:
    """Chooses replicas and reads from them. One for each worker."""

    def __init__(
        self,
        pools: PoolRegistry,
        replay: ReplayPositions,
        *,
        weights: Mapping[str, int],
        wait_seconds: float,
    ) -> None:
        self._pools = pools
        self._replay = replay
        self._turns = Turns(weights)
        self._patience_ms = round(wait_seconds * 1000)

    def read(
        self,
        scope: Scope,
        shard: str,
        query: Query,
        parameters: Mapping[str, Any],
        *,
        wait_seconds: float | None = None,
    ) -> list[Row] | None:
        """The query's rows from a replica that has all that the request must see; None where none of them has.

        A replica that fails is passed over for another one. Raises `Unavailable` where the second failed too. One that
        was not even asked, because its pool refused, has not failed: where all refuse, the primary is left.
        `wait_seconds`: how long to wait for a replica to get there, if not as long as usual.
        """
        patience_ms = self._patience_ms if wait_seconds is None else round(wait_seconds * 1000)
        state = self._replay.shard(shard)
        if state.lineage is None or not state.replicas:
            return None
        wanted = wanted_lsn(scope, state.lineage)
        if wanted is None:
            return None
        if state.confirmed is not None:
            # A token's position may lie behind its commit, where others' were that never left the primary.
            wanted = min(wanted, state.confirmed)
        candidates, failures = dict(state.replicas), 0
        while (replica := self._choose(candidates, wanted)) is not None:
            try:
                rows = self._ask(scope, state, replica, (wanted, patience_ms), (query, parameters))
                if rows is not None:
                    return rows
                # Behind. Of the others only one that is there for certain is worth asking, and better than the primary:
                # a replica may show a commit a moment before its primary does, which waits for it to be confirmed.
                candidates = {name: other for name, other in candidates.items() if other.lsn >= wanted}
                candidates.pop(replica.name, None)
            except Unavailable as error:
                metrics.count_replica_read(replica.name, "failed")
                failures += not isinstance(error, NodeUnavailable)
                if failures == ATTEMPTS:
                    raise
                logger.info("%s did not answer a read: %s", replica.name, error)
                del candidates[replica.name]
        return None

    def _choose(self, candidates: Mapping[str, Replica], wanted: int) -> Replica | None:
        """The next in turn of those that have got there, or may any moment."""
        able = [
            name
            for name, replica in candidates.items()
            if replica.lsn >= wanted or replica.lag_seconds <= HOPEFUL_LAG_SECONDS
        ]
        chosen = self._turns.choose(able)
        return candidates[chosen] if chosen is not None else None

    def _ask(
        self,
        scope: Scope,
        state: ShardState,
        replica: Replica,
        wait: tuple[int, int],
        read: tuple[Query, Mapping[str, Any]],
    ) -> list[Row] | None:
        (wanted, patience_ms), (query, parameters) = wait, read
        with exchange(scope, self._pools.replica(replica.name), state.name, query) as connection:
            asked = monotonic()
            # The position was seen on this very server run only if the connection is older than it: a server that
            # was started anew since may not have got there again.
            known = replica.lsn >= wanted and (wanted == 0 or connection.made_at <= replica.known_at)
            if known and not scope.asks_bounds:
                rows = connection.execute(query.text, parameters, prepare=True).fetchall()
            else:
                guard, result = connection.cursor(), connection.cursor()
                with flight(connection):
                    until = {"wanted": wanted, "patience_ms": patience_ms}
                    guard.execute(AWAIT_REPLAY.text, until, prepare=True)
                    result.execute(query.text, parameters, prepare=True)
                ((timeline, lsn, *_),) = guard.fetchone() or ((0, 0),)
                if not self._has(state, timeline, lsn, wanted):
                    metrics.count_replica_read(replica.name, "behind")
                    return None
                rows = result.fetchall()
                at_least = Position(connection.system_identifier, timeline, lsn)
        scope.answered(connection.node)
        metrics.count_replica_read(replica.name, "answered")
        if rows:
            timeline, replayed, seen, _ = rows[0][-1]
            self._replay.learn(state.name, replica.name, timeline, replayed, asked)
            at_most = Position(connection.system_identifier, timeline or replica.timeline, seen)
            scope.reached(at_most)
            if scope.asks_bounds:
                scope.bounds = ReadBounds(at_least, at_most, replica.lag_seconds)
        return [row[:-1] for row in rows]

    @staticmethod
    def _has(state: ShardState, timeline: int, lsn: int, wanted: int) -> bool:
        """Whether the replica, as it said just now, is on the shard's history and far enough along it."""
        assert state.lineage is not None
        here = Position(state.lineage.system_identifier, timeline, lsn)
        return timeline > 0 and lsn >= wanted and state.lineage.judge(here) is Verdict.KEPT

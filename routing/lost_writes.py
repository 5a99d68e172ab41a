"""Saying so where a request asks for a write that no node has any more."""

from __future__ import annotations

import logging
from collections import OrderedDict

import metrics
from pools.registry import PoolRegistry
from routing.lineage import Verdict
from routing.replay import ReplayPositions
from routing.scope import Scope
from routing.token import Position

logger = logging.getLogger("routing")

# Lost writes that were reported, so that each is reported once by a worker, however often its token comes.
REPORTED = 10_000


class LostWrites:
    """Judges what requests ask for by their shard's history. One for each worker."""

    def __init__(self, pools: PoolRegistry, replay: ReplayPositions) -> None:
        self._pools = pools
        self._replay = replay
        self._reported: OrderedDict[Position, None] = OrderedDict()

    def look(self, scope: Scope, shard: str) -> None:
        """Say so where the request asks for a lost write, and go on without it."""
        lineage = self._replay.shard(shard).lineage if scope.positions else None
        own = scope.positions.get(lineage.system_identifier) if lineage is not None else None
        if lineage is None or own is None:
            return
        verdict = lineage.judge(own)
        if verdict is Verdict.NEWER:
            # Signed here, so it is true: there is a newer primary than the one this worker knows.
            self._pools.saw_timeline(own.system_identifier, own.timeline)
        elif verdict is Verdict.LOST:
            metrics.count_lost_write()
            if own not in self._reported:
                self._reported[own] = None
                while len(self._reported) > REPORTED:
                    self._reported.popitem(last=False)
                logger.warning(
                    "%s has lost a write: token %s names position %X/%X of timeline %d, which timeline %d left before",
                    shard,
                    scope.encode_positions({own.system_identifier: own}),
                    own.lsn >> 32,
                    own.lsn & 0xFFFFFFFF,
                    own.timeline,
                    lineage.timeline,
                )

"""A worker's pools with the sampler that tells them what the nodes are, as `operations/marketplace.py` has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from config import Settings
from pools import Node, NodeState, PoolRegistry
from routing.replay import Limits, ReplayPositions


class WatchedPools(PoolRegistry):
    """Sampling begins with the first `apply` and ends with `close`."""

    def __init__(self, settings: Settings, worker: str = "worker") -> None:
        super().__init__(settings, worker)
        self.replay = ReplayPositions(
            self.connect,
            limits=Limits(settings.replica_max_lag_bytes, settings.replica_max_lag_seconds, {}),
            interval_seconds=settings.replay_sample_seconds,
            changed=self.follow,
        )
        self._sampling = False

    def apply(self, nodes: Sequence[Node]) -> None:
        super().apply(nodes)
        self.replay.apply(nodes)
        if not self._sampling:
            self._sampling = True
            self.replay.start()

    def states(self) -> Mapping[str, NodeState]:
        return self.replay.states()

    def close(self) -> None:
        self.replay.stop()
        super().close()

"""The flight of a write to a shard's primary: past the gate that a failover shuts, and the fence that a move shuts."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic, sleep
from typing import Any

from ephemeral.locks import Lease
from errors import LeaseOver, NodeUnavailable
from pools.flight import flight
from pools.registry import PoolRegistry
from routing.bounded_read import POSITION
from routing.exchange import GateShutError, exchange
from routing.replay import ReplayPositions
from routing.scope import Scope
from routing.token import Position
from sql import query as named
from sql.loader import Query

LEASE = named("check_lease")
BEGIN, COMMIT = "BEGIN", "COMMIT"

# How long a write waits for the next primary while one is being promoted: about what a promotion takes, several times.
PROMOTION_SECONDS = 5.0
# How often it looks whether it may pass again, should nobody be promoted in the end.
GATE_SECONDS = 0.1
# How long a statement waits for a pool that refuses although its primary is well, as when that has just been promoted.
FOLLOW_SECONDS = 0.5
# And how soon it asks a pool again that has no connection to the next primary yet.
REFUSED_SECONDS = 0.02

Row = tuple[Any, ...]


def is_followed(replay: ReplayPositions, shard: str, give_up: float) -> bool:
    """Whether a pool that refuses is worth a moment: its node is well, so it is only just being led there."""
    return monotonic() < give_up and replay.shard(shard).primary is not None


class GatedWrites:
    """Sends writes; one that was refused at the gate, so that nothing was done, again to the next primary."""

    def __init__(self, pools: PoolRegistry, replay: ReplayPositions) -> None:
        self._pools = pools
        self._replay = replay

    def write(
        self,
        scope: Scope,
        fence: tuple[Query, Mapping[str, Any]],
        write: tuple[Query, Mapping[str, Any]],
        lease: Lease | None = None,
    ) -> Row | None:
        """The write; while another node is being promoted it waits for that, and is then sent there."""
        assert scope.route is not None
        shard = scope.route.shard
        follow_until, give_up, shut_by = monotonic() + FOLLOW_SECONDS, 0.0, 0
        while True:
            try:
                return self._flight(scope, shard, fence, write, lease)
            except GateShutError:
                if not give_up:
                    give_up = monotonic() + PROMOTION_SECONDS
                    primary = self._replay.shard(shard).primary
                    shut_by = primary.timeline if primary is not None else 0
                if monotonic() >= give_up:
                    raise
            except NodeUnavailable:
                # Nothing was sent. Behind a shut gate it only means that the next one is not there yet.
                if monotonic() >= give_up and not is_followed(self._replay, shard, follow_until):
                    raise
                # Its pool refuses at once while it connects: without a pause this loop would keep it from that.
                with scope.timed("wait"):
                    sleep(REFUSED_SECONDS)
            if give_up:
                with scope.timed("wait"):
                    self._await_primary_after(shard, shut_by)

    def _await_primary_after(self, shard: str, timeline: int) -> None:
        def is_there() -> bool:
            primary = self._replay.shard(shard).primary
            return primary is not None and primary.timeline > timeline

        self._replay.wait_for(is_there, GATE_SECONDS)

    def _flight(
        self,
        scope: Scope,
        shard: str,
        fence: tuple[Query, Mapping[str, Any]],
        write: tuple[Query, Mapping[str, Any]],
        lease: Lease | None,
    ) -> Row | None:
        query, parameters = write
        with exchange(scope, self._pools.primary(shard), shard, query, writes=True) as connection:
            result, position = connection.cursor(), connection.cursor()
            lasts = self._fencing_number(shard, lease) if lease is not None else None
            with flight(connection):
                connection.execute(BEGIN, prepare=True)
                connection.execute(fence[0].text, fence[1], prepare=True)
                result.execute(query.text, parameters, prepare=True)
                if lasts is not None:
                    connection.execute(LEASE.text, lasts, prepare=True)
                connection.phase = "commit"
                connection.execute(COMMIT, prepare=True)
                # Runs after the commit, so its position lies behind every record of this write.
                position.execute(POSITION.text, prepare=True)
            row = result.fetchone() if query.returns != "none" else None
            timeline, lsn = position.fetchone() or (0, 0)
        scope.answered(connection.node)
        scope.written = Position(connection.system_identifier, timeline, lsn)
        scope.reached(scope.written)
        scope.wrote = True
        return row

    def _fencing_number(self, shard: str, lease: Lease) -> Mapping[str, int]:
        """When the lease began by the clock of the server that will check it, as of its last sample.

        Two holders of one lock, the second of whom got it because the first one's lease ran out, have rising numbers.
        Raises `LeaseOver` where the clock is not known: then nothing could be checked.
        """
        primary = self._replay.shard(shard).primary
        if primary is None:
            raise LeaseOver(f"the clock of {shard} is not known")
        number = int(lease.since * 1e6) + primary.clock_ahead_us
        return {"timeline": primary.timeline, "number": number, "lasts_us": int(lease.seconds * 1e6)}

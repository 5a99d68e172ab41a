"""Which shard answers, which of its nodes, and the flights there: one network round trip a statement.

    read     statement, on a replica that has what the reader must see, else on the primary
    write    BEGIN, gate and fence, statement, lease, COMMIT, position: all sent before the first answer is awaited

A write is never sent twice by itself: where its connection breaks after it was sent, it is in doubt and the client is
told so. Only one that was refused at the gate or the fence, so that nothing was done, is sent again. A read is tried
once more, on another node or a fresh connection.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic, perf_counter, sleep
from typing import Any
from uuid import UUID

import psycopg

import metrics
from ephemeral.locks import Lease
from errors import LeaseOver, NodeUnavailable, NotFound, StaleEpoch, Unavailable
from pools.connection import ShardConnection
from pools.flight import flight
from pools.registry import PoolRegistry
from routing.exchange import GateShutError, NotAnsweredError, exchange
from routing.lineage import Verdict
from routing.map_cache import MapCache
from routing.memory import SessionMemory
from routing.replay import ReplayPositions
from routing.replica_reads import ATTEMPTS, ReplicaReads
from routing.scope import ReadBounds, Scope
from routing.token import Position
from sql import query as named
from sql.loader import Query

logger = logging.getLogger("routing")

GATE = named("enter_gate")
FENCE = named("fence_store")
LEASE = named("check_lease")
POSITION = named("read_position")
QUIET = named("no_write_in_progress")
PING = named("ping")
BEGIN, COMMIT = "BEGIN", "COMMIT"

# How long a write waits for the next primary while one is being promoted: about what a promotion takes, several times.
PROMOTION_SECONDS = 5.0
# How often it looks whether it may pass again, should nobody be promoted in the end.
GATE_SECONDS = 0.1
# How long a statement waits for a pool that refuses although its primary is well, as when that has just been promoted.
FOLLOW_SECONDS = 0.5
# And how soon it asks a pool again that has no connection to the next primary yet.
REFUSED_SECONDS = 0.02
# How long a read waits for a replica while no primary answers.
WITHOUT_PRIMARY_SECONDS = 1.0
# About as long as a round of samples.
ROUND_SECONDS = 0.05
# Lost writes that were reported, so that each is reported once by a worker, however often its token comes.
REPORTED = 10_000

Row = tuple[Any, ...]


class Router:
    """Sends each statement of a store to the shard it lives on. One for each worker."""

    def __init__(
        self,
        pools: PoolRegistry,
        maps: MapCache,
        replay: ReplayPositions,
        replica_reads: ReplicaReads,
        memory: SessionMemory,
    ) -> None:
        self._pools = pools
        self._maps = maps
        self._replay = replay
        self._replica_reads = replica_reads
        self._memory = memory
        self._reported: OrderedDict[Position, None] = OrderedDict()

    def read(self, scope: Scope, store_id: UUID, query: Query, parameters: Mapping[str, Any]) -> Row:
        """The one row of a read in a store.

        Every such query gives one row where the store exists, with nulls for what is not there; so no row means no
        store *on that node*: the map may be old, or the replica. Raises `NotFound` once neither is.
        """
        for last in (False, True):
            self.route(scope, store_id)
            assert scope.route is not None
            values = {**parameters, "store_id": store_id}
            rows = self._read_on(scope, scope.route.shard, query, values)
            if not rows and query.role == "replica" and scope.flags.read_replicas:
                rows = self._read_primary(scope, scope.route.shard, query, values)
            if rows:
                return rows[0]
            if last or not self._moved_on(scope):
                break
        raise NotFound("There is no such store.")

    def write(
        self,
        scope: Scope,
        store_id: UUID,
        query: Query,
        parameters: Mapping[str, Any],
        lease: Lease | None = None,
    ) -> Row | None:
        """The one row, or None, of a write in a store, committed.

        The fence in front refuses it where the shard map is too old; then the map is refreshed and the write routed
        again, once. Raises `NotFound` where there is no such store, `CommitInDoubt` where nobody can know, and where
        the write depends on a lease `LeaseOver` unless that still held when all else was done.
        """
        for last in (False, True):
            epoch = self.route(scope, store_id)
            fence = {"store_id": store_id, "epoch": epoch}
            assert scope.route is not None
            self._look_for_lost_writes(scope, scope.route.shard)
            try:
                return self._write_past_gate(
                    scope, (FENCE, fence), (query, {**parameters, "store_id": store_id}), lease
                )
            except StaleEpoch:
                if last or not self._moved_on(scope):
                    break
        raise NotFound("There is no such store.")

    def create(self, scope: Scope, store_id: UUID, query: Query, parameters: Mapping[str, Any]) -> Row | None:
        """As `write`, for a store that is not there yet: nothing to fence. The caller holds the placement lock."""
        epoch = self.route(scope, store_id)
        written = (query, {**parameters, "store_id": store_id, "epoch": epoch})
        return self._write_past_gate(scope, (GATE, {}), written)

    def on_shard(self, scope: Scope, shard: str, query: Query, parameters: Mapping[str, Any]) -> list[Row]:
        """All rows of a statement that spans the stores of one shard."""
        return self._read_on(scope, shard, query, parameters)

    def run_on_shard(self, scope: Scope, shard: str, query: Query, parameters: Mapping[str, Any]) -> None:
        """A statement that spans the stores of one shard and answers nothing, on its primary."""
        with exchange(scope, self._pools.primary(shard), shard) as connection:
            connection.execute(query.text, parameters, prepare=True)

    def on_every_shard(
        self, scope: Scope, query: Query, parameters: Mapping[str, Any]
    ) -> dict[str, list[Row]]:
        """The rows of every shard, asked side by side. Raises what the first failing shard raised."""
        shards = self.shards()
        with ThreadPoolExecutor(len(shards)) as threads:
            rows = threads.map(lambda shard: self.on_shard(scope, shard, query, parameters), shards)
            return dict(zip(shards, rows, strict=True))

    def shards(self) -> Sequence[str]:
        """The names of the shards, in the map's order."""
        return [shard.name for shard in self._maps.current().map.shards]

    def shard_of(self, scope: Scope, store_id: UUID) -> str:
        """The name of the store's shard, by the map in memory."""
        return self._maps.current().map.route(store_id, sharding=scope.flags.sharding).shard

    def route(self, scope: Scope, store_id: UUID) -> int:
        """Find out where the request's store lives, for `scope.route`; by the map of which epoch."""
        started = perf_counter()
        scope.route = route = self._maps.current().map.route(store_id, sharding=scope.flags.sharding)
        scope.spent("route", perf_counter() - started)
        return route.epoch

    def ping(self, shard: str) -> bool:
        """Whether a shard's primary answers through this worker's pool."""
        try:
            with self._pools.primary(shard).connection() as connection:
                connection.execute(PING.text, prepare=True).fetchone()
        except (Unavailable, psycopg.Error):
            return False
        return True

    def _moved_on(self, scope: Scope) -> bool:
        """Look at the catalog for a newer map than the one the request was routed by."""
        assert scope.route is not None
        snapshot = self._maps.refresh(scope.route.epoch)
        if snapshot.map.epoch == scope.route.epoch:
            return False
        scope.flags = snapshot.flags
        scope.served_by = ()  # who refused has not answered
        return True

    def _read_on(self, scope: Scope, shard: str, query: Query, parameters: Mapping[str, Any]) -> list[Row]:
        """The rows, without the position that a replica's query ends each with."""
        from_replicas = query.role == "replica" and scope.flags.read_replicas
        known = from_replicas and self._memory.recall(scope)
        self._look_for_lost_writes(scope, shard)
        if known:
            rows = self._replica_reads.read(scope, shard, query, parameters)
            if rows is not None:
                return rows
        try:
            return self._read_primary(scope, shard, query, parameters)
        except (NodeUnavailable, NotAnsweredError):
            if not known:
                raise
            rows = self._read_without_primary(scope, shard, query, parameters)
            if rows is None:
                raise
            return rows

    def _read_without_primary(
        self, scope: Scope, shard: str, query: Query, parameters: Mapping[str, Any]
    ) -> list[Row] | None:
        """As from a replica, with more patience: what a primary that is gone acknowledged is there, or about to be.

        Each round of samples may tell more of what that is.
        """
        give_up = monotonic() + WITHOUT_PRIMARY_SECONDS
        while monotonic() < give_up:
            round_before = self._replay.shard(shard).made_at
            rows = self._replica_reads.read(scope, shard, query, parameters, wait_seconds=ROUND_SECONDS)
            if rows is not None:
                return rows
            self._replay.wait_for(partial(self._is_after, shard, round_before), ROUND_SECONDS)
        return None

    def _is_after(self, shard: str, made_at: float) -> bool:
        return self._replay.shard(shard).made_at > made_at

    def _read_primary(
        self, scope: Scope, shard: str, query: Query, parameters: Mapping[str, Any]
    ) -> list[Row]:
        at_least, failures = None, 0
        give_up = monotonic() + FOLLOW_SECONDS
        while True:
            try:
                with exchange(scope, self._pools.primary(shard), shard) as connection:
                    if scope.asks_bounds and query.role == "replica":
                        rows, at_least = _read_bounded(scope, connection, query, parameters)
                    else:
                        rows = connection.execute(query.text, parameters, prepare=True).fetchall()
                break
            except NotAnsweredError:
                # The server was restarted under it, or another was promoted; a fresh connection finds it.
                failures += 1
                if failures == ATTEMPTS:
                    raise
            except NodeUnavailable:
                if not self._is_followed(shard, give_up):
                    raise
                sleep(REFUSED_SECONDS)
        scope.answered(connection.node)
        if query.role == "primary" or not rows:
            return rows
        timeline, _, seen, _ = rows[0][-1]
        at_most = Position(connection.system_identifier, timeline, seen)
        scope.reached(at_most)
        if at_least is not None:
            scope.bounds = ReadBounds(at_least, at_most)
        return [row[:-1] for row in rows]

    def _look_for_lost_writes(self, scope: Scope, shard: str) -> None:
        """Say so where the request asks for a write that no node has any more, and go on without it."""
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

    def _write_past_gate(
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
                if monotonic() >= give_up and not self._is_followed(shard, follow_until):
                    raise
                # Its pool refuses at once while it connects: without a pause this loop would keep it from that.
                sleep(REFUSED_SECONDS)
            if give_up:
                self._await_primary_after(shard, shut_by)

    def _is_followed(self, shard: str, give_up: float) -> bool:
        """Whether a pool that refuses is worth a moment: its node is well, so it is only just being led there."""
        return monotonic() < give_up and self._replay.shard(shard).primary is not None

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
        with exchange(scope, self._pools.primary(shard), shard, writes=True) as connection:
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
        return {
            "timeline": primary.timeline,
            "number": int(lease.since * 1e6) + primary.clock_ahead_us,
            "lasts_us": int(lease.seconds * 1e6),
        }


def _read_bounded(
    scope: Scope, connection: ShardConnection, query: Query, parameters: Mapping[str, Any]
) -> tuple[list[Row], Position | None]:
    """A read on a primary, and up to where it has certainly seen everything; None where that cannot be said.

    That is not simply where the log stood before: a commit is in the log for a while before anybody sees it here, as it
    waits for a replica. Where no write is in progress there is none of that kind. Else nobody was told of them yet, and
    whoever is told later is told a position at or behind that one, so all *before* it was seen: unless a replica has
    shown one of them already.
    """
    stood, quiet, result = connection.cursor(), connection.cursor(), connection.cursor()
    with flight(connection):
        stood.execute(POSITION.text, prepare=True)
        quiet.execute(QUIET.text, prepare=True)
        result.execute(query.text, parameters, prepare=True)
    timeline, lsn = stood.fetchone() or (0, 0)
    (is_quiet,) = quiet.fetchone() or (False,)
    rows = result.fetchall()
    if not is_quiet and scope.flags.read_replicas:
        return rows, None
    return rows, Position(connection.system_identifier, timeline, lsn if is_quiet else lsn - 1)

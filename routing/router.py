"""Which shard answers, which of its nodes, and the flights there: one network round trip a statement.

    read     statement, on a replica that has what the reader must see, else on the primary
    write    BEGIN, gate and fence, statement, lease, COMMIT, position: all sent before the first answer is awaited

A write is never sent twice by itself: where its connection breaks after it was sent, it is in doubt and the client is
told so. Only one that was refused at the gate or the fence, so that nothing was done, is sent again: to the next
primary, or to the shard that its store has moved to. A read is tried once more, elsewhere or afresh.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic, perf_counter, sleep
from typing import Any
from uuid import UUID

import psycopg

import metrics
from ephemeral.locks import Lease
from errors import NodeUnavailable, NotFound, StaleEpoch, Unavailable
from pools.registry import PoolRegistry
from routing.bounded_read import read_bounded
from routing.exchange import NotAnsweredError, SwitchingError, exchange
from routing.gated_writes import FOLLOW_SECONDS, REFUSED_SECONDS, GatedWrites, is_followed
from routing.lost_writes import LostWrites
from routing.map_cache import MapCache
from routing.memory import SessionMemory
from routing.replay import ReplayPositions
from routing.replica_reads import ATTEMPTS, ReplicaReads
from routing.route import MAP_HISTORY
from routing.scope import ReadBounds, Scope
from routing.token import Position
from sql import query as named
from sql.loader import Query

GATE = named("enter_gate")
FENCE = named("fence_store")
PING = named("ping")

# How long a write waits for its store to change its shard: the block that it waits for is given up before that.
SWITCH_SECONDS = 4.5
# How soon it looks again, time after time; all who wait in a worker share a look.
SWITCH_PAUSES_SECONDS = (0.004, 0.008, 0.016, 0.032)
# So many maps a request goes by, each of which leads to where the store is no more, until it is given up.
ROUTES = 3
# How long a read waits for a replica while no primary answers.
WITHOUT_PRIMARY_SECONDS = 1.0
# About as long as a round of samples.
ROUND_SECONDS = 0.05

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
        self._lost_writes = LostWrites(pools, replay)
        self._writes = GatedWrites(pools, replay)

    def read(self, scope: Scope, store_id: UUID, query: Query, parameters: Mapping[str, Any]) -> Row:
        """The one row of a read in a store.

        Every such query gives one row where the store exists, with nulls for what is not there; so no row means no
        store *on that node*: the map may be old, or the replica. Raises `NotFound` once neither is, and `Unavailable`
        where the catalog does not say whether the map is.
        """
        for number in range(1, ROUTES + 1):
            self.route(scope, store_id)
            if query.role == "replica" and scope.flags.read_replicas and self._memory.recall(scope):
                self.route(scope, store_id)  # what is remembered may name a newer map
            assert scope.route is not None
            values = {**parameters, "store_id": store_id}
            try:
                rows = self._read_on(scope, scope.route.shard, query, values)
            except Unavailable:
                if number == ROUTES or not self._is_gone(scope.route.shard):
                    raise
                continue  # by the map that it has left
            if not rows and query.role == "replica" and scope.flags.read_replicas:
                rows = self._read_primary(scope, scope.route.shard, query, values)
            if rows:
                self.saw_arrival(scope)
                return rows[0]
            if not self._moved_on(scope):
                raise NotFound("There is no such store.")
        raise Unavailable("The store is being moved.", retry_after_seconds=1)

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
        again, by `ROUTES` maps in all, each newer than the one before. While the store changes
        its shard the write waits here, without a connection. Raises `NotFound` where there is no such store,
        `Unavailable` where only the catalog would know and is away, `CommitInDoubt` where nobody can know, and where
        the write depends on a lease `LeaseOver` unless that still held when all else was done.
        """
        routes, looks, give_up = 1, 0, monotonic() + SWITCH_SECONDS
        while True:
            epoch = self.route(scope, store_id)
            fence = {"store_id": store_id, "epoch": epoch}
            assert scope.route is not None
            self._lost_writes.look(scope, scope.route.shard)
            try:
                row = self._writes.write(
                    scope, (FENCE, fence), (query, {**parameters, "store_id": store_id}), lease
                )
            except SwitchingError:
                if monotonic() >= give_up:
                    raise
                with scope.timed("wait"):
                    sleep(SWITCH_PAUSES_SECONDS[min(looks, len(SWITCH_PAUSES_SECONDS) - 1)])
                looks = 0 if self._moved_on(scope, surely=False) else looks + 1
            except NodeUnavailable:
                # Nothing was sent: the store had moved before its shard left the map.
                if routes == ROUTES or not self._is_gone(scope.route.shard):
                    raise
                routes += 1
            except StaleEpoch:
                moved_on = self._moved_on(scope)
                metrics.count_stale_write("routed" if moved_on and routes < ROUTES else "given_up")
                if not moved_on:
                    raise NotFound("There is no such store.") from None
                if routes == ROUTES:
                    raise Unavailable("The store is being moved.", retry_after_seconds=1) from None
                routes += 1
            else:
                self.saw_arrival(scope)
                return row

    def create(self, scope: Scope, store_id: UUID, query: Query, parameters: Mapping[str, Any]) -> Row | None:
        """As `write`, for a store that is not there yet: nothing to fence. The caller holds the placement lock."""
        epoch = self.route(scope, store_id)
        written = (query, {**parameters, "store_id": store_id, "epoch": epoch})
        return self._writes.write(scope, (GATE, {}), written)

    def on_shard(self, scope: Scope, shard: str, query: Query, parameters: Mapping[str, Any]) -> list[Row]:
        """All rows of a statement that spans the stores of one shard."""
        return self._read_on(scope, shard, query, parameters)

    def run_on_shard(self, scope: Scope, shard: str, query: Query, parameters: Mapping[str, Any]) -> None:
        """A statement that spans the stores of one shard and answers nothing, on its primary."""
        with exchange(scope, self._pools.primary(shard), shard, query) as connection:
            connection.execute(query.text, parameters, prepare=True)

    def on_every_shard(
        self, scope: Scope, query: Query, parameters: Mapping[str, Any]
    ) -> dict[str, list[Row]]:
        """The rows of every shard, asked side by side. Raises what the first failing shard raised."""
        shards = self.shards()

        def ask(shard: str) -> list[Row]:
            try:
                return self.on_shard(scope, shard, query, parameters)
            except Unavailable:
                if self._is_gone(shard):
                    return []
                raise

        with ThreadPoolExecutor(len(shards), "every-shard") as threads:
            return dict(zip(shards, threads.map(ask, shards), strict=True))

    def shards(self) -> Sequence[str]:
        """The names of the shards, in the map's order."""
        return [shard.name for shard in self._maps.current().map.shards]

    def shard_of(self, scope: Scope, store_id: UUID) -> str:
        """The name of the store's shard, by the map in memory."""
        return self._maps.current().map.route(store_id, sharding=scope.flags.sharding).shard

    def route(self, scope: Scope, store_id: UUID) -> int:
        """Find out where the request's store lives, for `scope.route`; by the map of which epoch.

        Raises `Unavailable` where a newer map has been seen at work, and cannot be had.
        """
        started = perf_counter()
        current = self._maps.current()
        if self.is_outdated(scope, current.map.epoch):
            current = self._maps.refresh(current.map.epoch)
            scope.flags = current.flags
            if self.is_outdated(scope, current.map.epoch):
                raise Unavailable("The shard map is being changed.", retry_after_seconds=1)
        scope.route = route = current.map.route(store_id, sharding=scope.flags.sharding)
        scope.spent("route", perf_counter() - started)
        return route.epoch

    @staticmethod
    def is_outdated(scope: Scope, epoch: int) -> bool:
        """Whether the request has seen a store where only a newer map than this has it."""
        known = scope.positions.get(MAP_HISTORY)
        return known is not None and known.lsn > epoch

    @staticmethod
    def saw_arrival(scope: Scope) -> None:
        """Whoever comes after it must not look for the store in its old home, by an older map."""
        if scope.route is not None and scope.route.arrival is not None:
            scope.reached(scope.route.arrival.epoch_position)

    def ping(self, shard: str) -> bool:
        """Whether a shard's primary answers through this worker's pool, or nobody asks for it any more."""
        try:
            with self._pools.primary(shard).connection() as connection:
                connection.execute(PING.text, prepare=True).fetchone()
        except (Unavailable, psycopg.Error):
            return self._is_gone(shard)
        return True

    def _is_gone(self, shard: str) -> bool:
        """Whether a shard has left the map, when nothing lived there any more."""
        return shard not in self.shards()

    def _moved_on(self, scope: Scope, *, surely: bool = True) -> bool:
        """Look at the catalog for a newer map than the one the request was routed by. `surely`: raises `Unavailable`
        where it does not say whether there is one."""
        assert scope.route is not None
        snapshot = self._maps.refresh(scope.route.epoch, surely=surely)
        if snapshot.map.epoch == scope.route.epoch:
            return False
        scope.flags = snapshot.flags
        scope.served_by = ()  # who refused has not answered
        return True

    def _read_on(self, scope: Scope, shard: str, query: Query, parameters: Mapping[str, Any]) -> list[Row]:
        """The rows, without the position that a replica's query ends each with."""
        from_replicas = query.role == "replica" and scope.flags.read_replicas
        known = from_replicas and self._memory.recall(scope)
        self._lost_writes.look(scope, shard)
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
            with scope.timed("wait"):
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
                with exchange(scope, self._pools.primary(shard), shard, query) as connection:
                    if scope.asks_bounds and query.role == "replica":
                        rows, at_least = read_bounded(scope, connection, query, parameters)
                    else:
                        rows = connection.execute(query.text, parameters, prepare=True).fetchall()
                break
            except NotAnsweredError:
                # The server was restarted under it, or another was promoted; a fresh connection finds it.
                failures += 1
                if failures == ATTEMPTS:
                    raise
            except NodeUnavailable:
                if not is_followed(self._replay, shard, give_up):
                    raise
                with scope.timed("wait"):
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

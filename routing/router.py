"""Which shard answers, and the flights there: one network round trip a statement, whether it reads or writes.

    read     statement
    write    BEGIN, fence, statement, COMMIT, position: all sent before the first answer is awaited

A write is never sent twice by itself: where its connection breaks after it was sent, it is in doubt and the client is
told so. A read is tried once more on a fresh connection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter
from typing import Any
from uuid import UUID

import psycopg

from errors import CommitInDoubt, NotFound, StaleEpoch, StatementDeadline, Unavailable
from pools.connection import ShardConnection
from pools.flight import flight
from pools.registry import PoolRegistry
from routing.map_cache import MapCache
from routing.scope import Scope
from routing.token import Position, merge
from sql import query as named
from sql.loader import Query

FENCE = named("fence_store")
POSITION = named("read_position")
PING = named("ping")
BEGIN, COMMIT = "BEGIN", "COMMIT"

STALE_EPOCH = "SE001"  # raised by fence_store()

Row = tuple[Any, ...]

# Answers that mean "not now": the server gave the statement up, and rolled it back.
_GIVEN_UP = (
    psycopg.errors.QueryCanceled,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.InsufficientResources,
    psycopg.errors.ReadOnlySqlTransaction,
)


class Router:
    """Sends each statement of a store to the shard it lives on. One for each worker."""

    def __init__(self, pools: PoolRegistry, maps: MapCache) -> None:
        self._pools = pools
        self._maps = maps

    def read(self, scope: Scope, store_id: UUID, query: Query, parameters: Mapping[str, Any]) -> Row:
        """The one row of a read in a store.

        Every such query gives one row where the store exists, with nulls for what is not there; so no row means no
        store *on that shard*: the map may be old. Raises `NotFound` once the map is known to be fresh.
        """
        for last in (False, True):
            self._route(scope, store_id)
            row = self._read_once(scope, query, {**parameters, "store_id": store_id})
            if row is not None:
                return row
            if last or not self._moved_on(scope):
                break
        raise NotFound("There is no such store.")

    def write(self, scope: Scope, store_id: UUID, query: Query, parameters: Mapping[str, Any]) -> Row | None:
        """The one row, or None, of a write in a store, committed.

        The fence in front refuses it where the shard map is too old; then the map is refreshed and the write routed
        again, once. Raises `NotFound` where there is no such store, `CommitInDoubt` where nobody can know.
        """
        for last in (False, True):
            epoch = self._route(scope, store_id)
            fence = {"store_id": store_id, "epoch": epoch}
            try:
                return self._flight(scope, (FENCE, fence), (query, {**parameters, "store_id": store_id}))
            except StaleEpoch:
                if last or not self._moved_on(scope):
                    break
        raise NotFound("There is no such store.")

    def create(self, scope: Scope, store_id: UUID, query: Query, parameters: Mapping[str, Any]) -> Row | None:
        """As `write`, for a store that is not there yet: nothing to fence. The caller holds the placement lock."""
        epoch = self._route(scope, store_id)
        return self._flight(scope, None, (query, {**parameters, "store_id": store_id, "epoch": epoch}))

    def on_shard(self, scope: Scope, shard: str, query: Query, parameters: Mapping[str, Any]) -> list[Row]:
        """All rows of a statement that spans the stores of one shard, from its primary."""
        with self._connection(scope, shard) as connection:
            return connection.execute(query.text, parameters, prepare=True).fetchall()

    def run_on_shard(self, scope: Scope, shard: str, query: Query, parameters: Mapping[str, Any]) -> None:
        """A statement that spans the stores of one shard and answers nothing."""
        with self._connection(scope, shard) as connection:
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

    def ping(self, shard: str) -> bool:
        """Whether a shard's primary answers through this worker's pool."""
        try:
            with self._pools.primary(shard).connection() as connection:
                connection.execute(PING.text, prepare=True).fetchone()
        except (Unavailable, psycopg.Error):
            return False
        return True

    def _route(self, scope: Scope, store_id: UUID) -> int:
        started = perf_counter()
        scope.route = route = self._maps.current().map.route(store_id, sharding=scope.flags.sharding)
        scope.spent("route", perf_counter() - started)
        return route.epoch

    def _moved_on(self, scope: Scope) -> bool:
        """Look at the catalog for a newer map than the one the request was routed by."""
        assert scope.route is not None
        snapshot = self._maps.refresh(scope.route.epoch)
        if snapshot.map.epoch == scope.route.epoch:
            return False
        scope.flags = snapshot.flags
        scope.served_by = ()  # who refused has not answered
        return True

    def _read_once(self, scope: Scope, query: Query, parameters: Mapping[str, Any]) -> Row | None:
        assert scope.route is not None
        for attempt in (1, 2):
            try:
                with self._connection(scope, scope.route.shard) as connection:
                    return connection.execute(query.text, parameters, prepare=True).fetchone()
            except _ConnectionLost:
                # The server was restarted under it; a fresh connection finds it again.
                if attempt == 2:  # noqa: PLR2004
                    raise
        raise AssertionError("unreachable")

    def _flight(
        self,
        scope: Scope,
        fence: tuple[Query, Mapping[str, Any]] | None,
        write: tuple[Query, Mapping[str, Any]],
    ) -> Row | None:
        assert scope.route is not None
        query, parameters = write
        with self._connection(scope, scope.route.shard, writes=True) as connection:
            result, position = connection.cursor(), connection.cursor()
            with flight(connection):
                connection.execute(BEGIN, prepare=True)
                if fence is not None:
                    connection.execute(fence[0].text, fence[1], prepare=True)
                result.execute(query.text, parameters, prepare=True)
                connection.phase = "commit"
                connection.execute(COMMIT, prepare=True)
                # Runs after the commit, so its position lies behind every record of this write.
                position.execute(POSITION.text, prepare=True)
            row = result.fetchone() if query.returns != "none" else None
            lsn, timeline = position.fetchone() or (0, "0")
            written = Position(connection.system_identifier, int(timeline, 16), lsn)
        scope.positions = merge(scope.positions, {written.system_identifier: written})
        return row

    @contextmanager
    def _connection(self, scope: Scope, shard: str, *, writes: bool = False) -> Iterator[ShardConnection]:
        """A connection of the shard's primary; turns what can go wrong on it into this service's errors."""
        asked = perf_counter()
        pool = self._pools.primary(shard)
        try:
            with pool.connection() as connection:
                given = perf_counter()
                scope.spent("pool", given - asked)
                scope.answered(connection.node)
                try:
                    yield connection
                finally:
                    scope.spent("db", perf_counter() - given)
        except StatementDeadline as error:
            if error.phase == "commit":
                raise _in_doubt(shard) from error
            raise
        except _GIVEN_UP as error:
            raise Unavailable(f"{shard} could not do this now.", retry_after_seconds=1) from error
        except psycopg.OperationalError as error:
            if writes:
                # Also where the server says that it is shutting down: it may say so behind the COMMIT.
                raise _in_doubt(shard) from error
            raise _ConnectionLost(f"{shard} is not available.", retry_after_seconds=1) from error
        except psycopg.DatabaseError as error:
            if error.sqlstate == STALE_EPOCH:
                raise StaleEpoch(str(scope.route)) from error
            raise


class _ConnectionLost(Unavailable):
    """The server went away before or while it answered a read."""


def _in_doubt(shard: str) -> CommitInDoubt:
    return CommitInDoubt(
        f"{shard} did not confirm the write: it may or may not have happened. "
        "Send it again with the same Idempotency-Key, or look, to know.",
        retry_after_seconds=1,
    )

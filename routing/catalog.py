"""The catalog: the database that holds the one true shard map and the flags. All SQL on it is run from here.

Whoever changes the map holds its lock alone and raises the epoch, in one transaction; whoever makes a store
holds the lock beside others that make one, so no store is placed by a map that is being replaced. Reads
take no lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg import errors as pg_errors

from errors import (
    CommitInDoubt,
    Conflict,
    MarketplaceError,
    NodeUnavailable,
    NotFound,
    StatementDeadline,
    Unavailable,
)
from flags import NAMES, Flags
from pools.node import Node
from routing.ring import assign
from routing.route import Arrival
from routing.shard_map import Pin, Range, Shard, ShardMap
from routing.token import Position
from sql import query

CatalogConnection = psycopg.Connection[tuple[Any, ...]]  # autocommit

# Below the statement timeout of the service's connections, so that it is the lock that is named as the
# reason.
LOCK_TIMEOUT = "4s"
# The lock must outlive the slowest making of a store: the wait for a shard's pool, and a statement's
# deadline there.
IDLE_TIMEOUT = "30s"
# The decision to move a store: its writers wait meanwhile, and everybody else who changes the map.
DECISION_LOCK_TIMEOUT, DECISION_IDLE_TIMEOUT = "1s", "5s"


class Snapshot(NamedTuple):
    """What the catalog said at one moment."""

    map: ShardMap
    flags: Flags


class NewShard(NamedTuple):
    """A shard to register, with its nodes. The weight counts while the shard is new, not later."""

    name: str
    weight: float
    nodes: Sequence[Node]


def load(connection: CatalogConnection) -> Snapshot:
    """Map and flags as of one moment.

    Raises `ShardMapError` where they do not fit together, as before shards were registered.
    """
    row = _row(connection, "load_catalog")
    epoch, shards, nodes, partitions, ranges, pinned, pinned_shards, stays, flags, arrivals = row
    index = {name: number for number, (name, _) in enumerate(shards)}
    # Turning sharding on pins half of all stores or more, all alike: one Pin for each kind, not each store.
    kinds = {kind: Pin(*kind) for kind in set(zip(pinned_shards, stays, strict=True))}
    shard_map = ShardMap(
        epoch=epoch,
        shards=tuple(Shard(name, float(weight)) for name, weight in shards),
        nodes=tuple(Node(*node) for node in nodes),
        partitions=tuple(index[shard] for shard in partitions),
        ranges=tuple(Range(UUID(low), UUID(high), shard) for low, high, shard in ranges),
        pins={
            store: kinds[shard, stay] for store, shard, stay in zip(pinned, pinned_shards, stays, strict=True)
        },
        # In order of epoch: of a store that moved twice the later one stays.
        arrivals={
            UUID(store): Arrival(since, Position(int(identifier), timeline, lsn))
            for store, since, identifier, timeline, lsn in arrivals
        },
    )
    return Snapshot(shard_map, Flags.from_rows(flags))


def read_epoch(connection: CatalogConnection) -> int:
    """The epoch of the map and flags that `load` would give."""
    (epoch,) = _row(connection, "read_epoch")
    return int(epoch)


class Catalog:
    """Reads and changes the catalog, each time over a connection to the node that accepts writes.

    `connect` gives a context manager of an autocommit connection, such as `registry.catalog().connection`.
    """

    def __init__(self, connect: Callable[[], AbstractContextManager[CatalogConnection]]) -> None:
        self.connect = connect

    def load(self) -> Snapshot:
        with self.connect() as connection:
            return load(connection)

    def epoch(self) -> int:
        with self.connect() as connection:
            return read_epoch(connection)

    def set_flag(self, name: str, enabled: bool) -> None:
        """Switch a layer. Raises `NotFound` for an unknown one.

        Not for `sharding`, which says where stores live: see `turn_sharding_on` and `turn_sharding_off`.
        """
        if name not in NAMES:
            raise NotFound(f"There is no flag {name}.")
        if name == "sharding":
            raise ValueError("sharding is switched by turn_sharding_on and turn_sharding_off")
        with self._transaction() as connection:
            _set_flag(connection, name, enabled)

    def register_shards(self, shards: Sequence[NewShard]) -> None:
        with self.change() as connection:
            register_shards(connection, shards)

    @contextmanager
    def change(self) -> Iterator[CatalogConnection]:
        """A transaction that holds the map's lock alone.

        What decides the change, such as where stores live, must be read inside. Raises `Unavailable` where
        another change, or the making of a store, holds the lock too long.
        """
        with self._locked("lock_map_for_change") as connection:
            yield connection

    @contextmanager
    def decision(self) -> Iterator[CatalogConnection]:
        """A transaction that sends one store elsewhere, or asks for that, beside those who make stores: where a new
        store is placed does not depend on it. Nothing else changes the map before its end, nor after what it reads.

        It waits for locks, and may pause, for a moment only: writers may wait for it.
        """
        limits = (DECISION_LOCK_TIMEOUT, DECISION_IDLE_TIMEOUT)
        with self._locked("lock_map_for_placement", "hold_epoch", limits=limits) as connection:
            yield connection

    @contextmanager
    def placement_lock(self) -> Iterator[int]:
        """Hold the map still while a store is made, beside others that do the same.

        Gives the epoch: a caller whose own map is older refreshes it before choosing the shard. Raises
        `Unavailable` where a change of the map takes too long.
        """
        with self._locked("lock_map_for_placement") as connection:
            # Not in the lock's own statement: its snapshot is older than the wait, and misses what was
            # changed.
            yield read_epoch(connection)

    @contextmanager
    def _locked(
        self, *locks: str, limits: tuple[str, str] = (LOCK_TIMEOUT, IDLE_TIMEOUT)
    ) -> Iterator[CatalogConnection]:
        lock_timeout, idle_timeout = limits
        with self._transaction() as connection:
            _row(connection, "set_lock_limits", lock_timeout=lock_timeout, idle_timeout=idle_timeout)
            try:
                for lock in locks:
                    _row(connection, lock)
            except (pg_errors.LockNotAvailable, pg_errors.QueryCanceled) as error:
                raise Unavailable("The shard map is being changed.", retry_after_seconds=1) from error
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[CatalogConnection]:
        """Raises `NodeUnavailable` where the catalog goes away, `CommitInDoubt` where it does so at the end."""
        committing = False
        with self.connect() as connection:
            try:
                with connection.transaction():
                    yield connection
                    committing = True
            except (psycopg.OperationalError, StatementDeadline) as error:
                if committing:
                    raise CommitInDoubt(
                        "The catalog went away: what was changed, or made under its lock, is in doubt.",
                        retry_after_seconds=1,
                    ) from error
                # Not where the caller's own work failed, on another connection.
                if connection.broken:
                    raise NodeUnavailable("The catalog is not available.", retry_after_seconds=1) from error
                raise


def turn_sharding_on(connection: CatalogConnection, stores_on_first: Iterable[UUID]) -> int:
    """Let pins, ranges and the ring decide, with every store staying where it is. Inside `Catalog.change`.

    `stores_on_first` are all stores that live on the first shard, read inside that transaction too. Those
    that the map would send elsewhere get a pin that `stays`. Returns how many.
    """
    shard_map, flags = load(connection)
    if flags.sharding:
        return 0
    first = shard_map.first_shard
    staying = [store for store in stores_on_first if shard_map.route(store, sharding=True).shard != first]
    _run(connection, "insert_staying_pins", shard=first, store_ids=staying)
    _set_flag(connection, "sharding", True)
    return len(staying)


def turn_sharding_off(connection: CatalogConnection, stores_elsewhere: int) -> None:
    """Send everything to the first shard. Inside `Catalog.change`.

    `stores_elsewhere`, the number of stores that live on other shards, was counted inside it too. Raises
    `Conflict` unless it is 0.
    """
    if not load(connection).flags.sharding:
        return
    if stores_elsewhere:
        raise Conflict(
            f"{stores_elsewhere} stores live on other shards than the first;"
            " gather them there with: flask shards gather"
        )
    _run(connection, "delete_staying_pins")
    _set_flag(connection, "sharding", False)


def register_shards(connection: CatalogConnection, shards: Sequence[NewShard]) -> None:
    """Say where these shards' nodes listen; the first time, make them the ring. Inside `Catalog.change`.

    Nothing happens where all is so already. Which shards an assigned ring has is not changed: others join it by
    `insert_shard` and leave by `delete_shard`.
    """
    known, known_nodes, assigned = _row(connection, "read_registration")
    members = [shard for shard in shards if shard.name in known or not assigned]
    before = {Node(*node) for node in known_nodes}
    named = {shard.name for shard in members}
    nodes = {node for shard in members for node in shard.nodes} | {
        node for node in before if node.shard not in named
    }
    if assigned and nodes == before:
        return
    _run(connection, "delete_nodes")
    for shard in members:
        if shard.name not in known:
            _run(connection, "insert_shard", shard=shard.name, weight=shard.weight)
    for node in sorted(nodes, key=lambda node: node.name):
        _insert_node(connection, node)
    if not assigned:
        owners = assign({shard.name: shard.weight for shard in shards})
        _run(connection, "insert_partitions", owners=list(owners))
    _row(connection, "raise_epoch")


def insert_shard(connection: CatalogConnection, shard: NewShard) -> None:
    """Have a shard join the map; it owns nothing yet. Inside `Catalog.change`.

    Raises `Conflict` where there is one of that name already, or one of its nodes is another shard's.
    """
    try:
        _run(connection, "insert_shard", shard=shard.name, weight=shard.weight)
        for node in shard.nodes:
            _insert_node(connection, node)
    except pg_errors.UniqueViolation as error:
        raise Conflict(f"{shard.name}, or one of its nodes, is in the shard map already.") from error
    _row(connection, "raise_epoch")


def delete_shard(connection: CatalogConnection, name: str) -> None:
    """Have a shard leave the map. Inside `Catalog.change`, where it was read that no store lives there.

    Raises `Conflict` where anything leads to it.
    """
    (routes,) = _row(connection, "count_routes_to_shard", shard=name)
    if routes:
        raise Conflict(f"{name} cannot be removed: {routes} partitions, ranges, pins and moves lead to it.")
    _run(connection, "delete_nodes_of_shard", shard=name)
    _run(connection, "delete_shard", shard=name)
    _row(connection, "raise_epoch")


def _insert_node(connection: CatalogConnection, node: Node) -> None:
    _run(connection, "insert_node", name=node.name, shard=node.shard, host=node.host, port=node.port)


def _set_flag(connection: CatalogConnection, name: str, enabled: bool) -> None:
    if _run(connection, "set_flag", name=name, enabled=enabled):
        _row(connection, "raise_epoch")


def _run(connection: CatalogConnection, name: str, /, **values: object) -> int:
    """Run the named query; the number of rows it touched."""
    return connection.execute(query(name).text, values).rowcount


def _row(connection: CatalogConnection, name: str, /, **values: object) -> tuple[Any, ...]:
    """The one row of a named query that always gives one."""
    row = connection.execute(query(name).text, values, binary=True).fetchone()
    if row is None:
        raise MarketplaceError(f"{name} found no row: was the catalog migrated?")
    return row

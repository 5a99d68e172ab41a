"""Changing where stores belong, while each stays where it lives until it is moved: partitions and ranges.

Every change is one transaction of the catalog. A store that the new map would look for elsewhere is pinned to its home
with a pin that `stays`, so no request is ever routed to where its store is not; stores made from then on go to the new
place at once. Moves (moves/) then bring the others there, and take their pins away.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from uuid import UUID

import psycopg

from errors import Conflict
from operations.flags import StoresOf
from routing.catalog import Catalog, CatalogConnection, load
from routing.shard_map import Range, ShardMap, ShardMapError
from sql import query


@dataclass(frozen=True, slots=True)
class Placement:
    """What leads stores to shards, but for pins: the owner of each partition, in order, and the ranges."""

    partitions: tuple[str, ...]
    ranges: tuple[Range, ...] = ()

    @classmethod
    def of(cls, shard_map: ShardMap) -> Placement:
        owners = tuple(shard_map.shards[index].name for index in shard_map.partitions)
        return cls(owners, shard_map.ranges)


Change = Callable[[ShardMap], Placement]


def change_placement(catalog: Catalog, stores_of: StoresOf, change: Change) -> int:
    """Put a new placement in force; the number of stores that stay, for now, where it does not lead.

    `change` gets the map as it is, which nobody else changes meanwhile, and gives the placement that is to be. All
    stores of all shards are read inside, and whoever makes a store waits. Raises `ShardMapError` where the placement
    contradicts itself, and whatever `stores_of` raises for a shard that does not answer: then nothing has changed.
    """
    with catalog.change() as connection:
        return len(replace_placement(connection, stores_of, change))


def replace_placement(
    connection: CatalogConnection, stores_of: StoresOf, change: Change
) -> Mapping[UUID, str]:
    """As `change_placement`, inside `Catalog.change`: the stores that stay, each with where it belongs."""
    before, flags = load(connection)
    wanted = change(before)
    after = _with(before, wanted)
    if after != before:
        _write(connection, before, wanted)
        connection.execute(query("raise_epoch").text)
    if not flags.sharding:
        return {}  # all on the first shard; where they are to stay is worked out when it goes on again
    # What the shards say is which stores there are. Where each lives is what the map says: a shard may still have one
    # whose move away was decided a moment ago.
    stores = {store for shard in before.shards for store in stores_of(shard.name)} | before.pins.keys()
    return _pin_to_homes(connection, before, after, stores)


@contextmanager
def one_at_a_time(catalog: Catalog) -> Iterator[None]:
    """Keep others from growing, shrinking or evening out the shards meanwhile. Raises `Conflict` where somebody does.

    Where the connection is lost, so is the lock: two at once would plan past each other, and lose nothing.
    """
    with catalog.connect() as connection:
        (alone,) = connection.execute(query("lock_out_growth").text).fetchone() or (False,)
        if not alone:
            raise Conflict("Shards are being added, removed or rebalanced already; wait until that is over.")
        try:
            yield
        finally:
            with suppress(psycopg.Error):  # it is gone, and the lock with it
                connection.execute(query("let_in_growth").text)


def _with(shard_map: ShardMap, wanted: Placement) -> ShardMap:
    index = {shard.name: number for number, shard in enumerate(shard_map.shards)}
    if unknown := set(wanted.partitions) - index.keys():
        raise ShardMapError(f"partitions are given to {', '.join(sorted(unknown))}: not a shard of this map")
    partitions = tuple(index[shard] for shard in wanted.partitions)
    ranges = tuple(sorted(wanted.ranges, key=lambda part: part.low))
    return replace(shard_map, partitions=partitions, ranges=ranges)


def _write(connection: CatalogConnection, before: ShardMap, wanted: Placement) -> None:
    connection.execute(query("set_partitions").text, {"owners": list(wanted.partitions)})
    if set(wanted.ranges) != set(before.ranges):
        columns = {
            "lows": [part.low for part in wanted.ranges],
            "highs": [part.high for part in wanted.ranges],
            "shards": [part.shard for part in wanted.ranges],
        }
        connection.execute(query("delete_ranges").text)
        connection.execute(query("insert_ranges").text, columns)


def _pin_to_homes(
    connection: CatalogConnection, before: ShardMap, after: ShardMap, stores: set[UUID]
) -> Mapping[UUID, str]:
    """Have every store routed to where the map before routed it; those that the map after leads elsewhere."""
    staying: dict[UUID, str] = {}
    homes: defaultdict[str, list[UUID]] = defaultdict(list)
    needless: list[UUID] = []
    for store in stores:
        pin = before.pins.get(store)
        if pin is not None and not pin.stays:
            continue  # somebody's wish, before and after
        home, belongs = before.route(store, sharding=True).shard, after.unpinned(store)[0]
        if home != belongs:
            staying[store] = belongs
            if pin is None:
                homes[home].append(store)
        elif pin is not None:
            needless.append(store)
    for shard, found in homes.items():
        connection.execute(query("insert_staying_pins").text, {"shard": shard, "store_ids": found})
    if needless:
        connection.execute(query("delete_needless_pins").text, {"store_ids": needless})
        connection.execute(query("raise_epoch").text)
    return staying

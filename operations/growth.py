"""Shards that join the ring, and leave it: what changes in the catalog, each time in one transaction.

    insert ──▶ owns its share ──▶ owns nothing ──▶ (its stores move) ──▶ forgotten
       join_ring             leave_ring                            forget_shard

A shard that owns no partition is on its way out, and gets none back before it joins again.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from errors import Conflict, NotFound
from operations.flags import StoresOf
from operations.placement import Placement, replace_placement
from routing.catalog import Catalog, CatalogConnection, NewShard, delete_shard, insert_shard, load
from routing.ring import assign
from routing.shard_map import ShardMap
from sql import query


def join_ring(catalog: Catalog, shard: NewShard, stores_of: StoresOf) -> int:
    """Have a shard join the ring with its share; the number of stores that belong there, and stay for now.

    New stores go there at once. One that was leaving gets its share back. Raises `Conflict` where there is a shard of
    that name which owns something, or where one of the nodes is another's.
    """
    with catalog.change() as connection:
        shard_map = load(connection).map
        if not _has(shard_map, shard.name):
            insert_shard(connection, shard)
        elif _owns(shard_map, shard.name):
            raise Conflict(f"{shard.name} is a shard already.")
        return len(replace_placement(connection, stores_of, lambda before: _shared(before, joins=shard.name)))


def leave_ring(catalog: Catalog, name: str, stores_of: StoresOf) -> None:
    """Give a shard's partitions to the others; ids of its ranges go where the ring leads. Its stores stay for now.

    Raises `NotFound` for an unknown shard, `Conflict` for the first one and while sharding is off.
    """
    with catalog.change() as connection:
        shard_map, flags = load(connection)
        check_may_leave(shard_map, name, sharding=flags.sharding)
        replace_placement(connection, stores_of, lambda before: _shared(before, leaves=name))


def check_may_leave(shard_map: ShardMap, name: str, *, sharding: bool) -> None:
    """Raises `NotFound` or `Conflict` where a shard cannot be removed, by the map alone."""
    if not _has(shard_map, name):
        raise NotFound(f"There is no shard {name}.")
    if name == shard_map.first_shard:
        alone = (
            "the only shard"
            if len(shard_map.shards) == 1
            else "the first shard, where all live while sharding is off"
        )
        raise Conflict(f"{name} cannot be removed: it is {alone}.")
    if not sharding:
        raise Conflict(
            f"sharding is off: switch it on before {name} is removed (flask flags set sharding on)."
        )


def forget_shard(catalog: Catalog, name: str, stores_of: StoresOf) -> None:
    """Take a shard out of the map. Raises `Conflict` where a store lives there or anything leads to it."""
    with catalog.change() as connection:
        shard_map = load(connection).map
        if left := stores_of(name):
            raise Conflict(f"{name} cannot be removed: {len(left)} stores live there.")
        _forget_pins_of_nobody(connection, shard_map, name, stores_of)
        delete_shard(connection, name)


def _forget_pins_of_nobody(
    connection: CatalogConnection, shard_map: ShardMap, name: str, stores_of: StoresOf
) -> None:
    """Of ids that no store has: nothing can be moved from there."""
    pinned = {store for store, pin in shard_map.pins.items() if pin.shard == name}
    if pinned:
        stores = {store for shard in shard_map.shards for store in stores_of(shard.name)}
        for store in pinned - stores:
            connection.execute(query("delete_pin").text, {"store": store})


def stores_to_move(shard_map: ShardMap, name: str, stores: Sequence[UUID]) -> list[UUID]:
    """Of the stores that are found on a shard those that live there: others have departed, and only their rows go."""
    return [store for store in stores if shard_map.route(store, sharding=True).shard == name]


def _shared(shard_map: ShardMap, *, joins: str = "", leaves: str = "") -> Placement:
    """The ring dealt out to the shards that own some of it, and to who joins, but not to who leaves."""
    owning = [shard for shard in shard_map.shards if _owns(shard_map, shard.name) or shard.name == joins]
    staying = [shard for shard in owning if shard.name != leaves]
    if not staying:
        staying = [shard for shard in shard_map.shards if shard.name != leaves]
    placement = Placement.of(shard_map)
    return Placement(
        assign({shard.name: shard.weight for shard in staying}, placement.partitions),
        tuple(each for each in placement.ranges if each.shard != leaves),
    )


def _has(shard_map: ShardMap, name: str) -> bool:
    return any(shard.name == name for shard in shard_map.shards)


def _owns(shard_map: ShardMap, name: str) -> bool:
    return shard_map.share(name) > 0

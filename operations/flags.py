"""Switching a layer on or off, the same from the operator API and from the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

from errors import NotFound
from flags import NAMES
from routing.catalog import Catalog, load, turn_sharding_off, turn_sharding_on

StoresOf = Callable[[str], Sequence[UUID]]  # a shard's name -> the stores that live there, read afresh


def set_flag(catalog: Catalog, name: str, enabled: bool, stores_of: StoresOf) -> None:
    """Set one flag in the catalog; workers follow within a second. Setting it to what it is changes nothing.

    `stores_of` is asked for the flag `sharding` only, while the map is locked. Raises `NotFound` for an
    unknown name, `Conflict` where stores live on other shards than the first while `sharding` is to go off.
    """
    if name not in NAMES:
        raise NotFound(f"There is no flag {name}. The flags are: {', '.join(NAMES)}.")
    if name != "sharding":
        catalog.set_flag(name, enabled)
        return
    with catalog.change() as connection:
        # Read inside the lock: whoever makes a store or changes the map waits for it.
        shard_map = load(connection).map
        if enabled:
            turn_sharding_on(connection, stores_of(shard_map.first_shard))
        else:
            others = (shard.name for shard in shard_map.shards if shard.name != shard_map.first_shard)
            turn_sharding_off(connection, sum(len(stores_of(shard)) for shard in others))

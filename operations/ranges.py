"""Ranges of store ids that live on one shard, whatever the ring says. The ids begin with the time they were made at.

A range is in force for new stores at once, and for each store that exists once it has been moved: until then it stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from uuid import UUID

import ids
from errors import BadRequest, Conflict, NotFound
from operations.flags import StoresOf
from operations.placement import Placement, replace_placement
from operations.rebalance import Transfer
from routing.catalog import Catalog, CatalogConnection, load
from routing.shard_map import Range, ShardMap
from sql import query


@dataclass(frozen=True, slots=True)
class RangeChange:
    """A range that was set or dropped, and the stores of it that are to live elsewhere than now."""

    range: Range
    transfers: tuple[Transfer, ...]


def set_range(
    catalog: Catalog, stores_of: StoresOf, new: Range, *, undo_seconds: float = 0.0, ask: bool = True
) -> RangeChange:
    """Have the stores of a range live on its shard; one that begins where it begins is replaced.

    `ask`: for the moves, in the same transaction. Raises `NotFound` for an unknown shard, `BadRequest` for a range that
    is empty, `Conflict` where it overlaps another one, or where sharding is off.
    """
    with catalog.change() as connection:
        shard_map = _map(connection)
        if all(shard.name != new.shard for shard in shard_map.shards):
            raise NotFound(f"There is no shard {new.shard}.")
        if new.high <= new.low:
            raise BadRequest(
                "The range is empty.",
                errors=[{"path": "/high", "message": "Not above the range's beginning."}],
            )
        others = tuple(part for part in shard_map.ranges if part.low != new.low)
        for part in others:
            if part.low < new.high and new.low < part.high:
                raise Conflict(f"It overlaps the range from {part.low} to {part.high}.")
        replaced = tuple(part for part in shard_map.ranges if part.low == new.low)
        placement = replace(Placement.of(shard_map), ranges=(*others, new))
        transfers = _put_in_force(connection, stores_of, placement, (*replaced, new))
        if ask:
            _ask(connection, transfers, undo_seconds)
        return RangeChange(new, transfers)


def drop_range(
    catalog: Catalog, stores_of: StoresOf, low: UUID, *, undo_seconds: float = 0.0, ask: bool = True
) -> RangeChange:
    """Have the ring say where the stores of the range that begins at `low` live. `ask` as in `set_range`.

    Raises `NotFound`, and `Conflict` where sharding is off.
    """
    with catalog.change() as connection:
        shard_map = _map(connection)
        dropped = [part for part in shard_map.ranges if part.low == low]
        if not dropped:
            raise NotFound("No range begins there.")
        kept = tuple(part for part in shard_map.ranges if part.low != low)
        placement = replace(Placement.of(shard_map), ranges=kept)
        transfers = _put_in_force(connection, stores_of, placement, dropped)
        if ask:
            _ask(connection, transfers, undo_seconds)
        return RangeChange(dropped[0], transfers)


def stores_that_stay(shard_map: ShardMap, part: Range) -> int:
    """How many stores of a range do not live where they belong yet."""
    return sum(1 for store, pin in shard_map.pins.items() if pin.stays and part.low <= store < part.high)


def _map(connection: CatalogConnection) -> ShardMap:
    shard_map, flags = load(connection)
    if not flags.sharding:
        raise Conflict(f"sharding is off: every store lives on {shard_map.first_shard}.")
    return shard_map


def _put_in_force(
    connection: CatalogConnection,
    stores_of: StoresOf,
    placement: Placement,
    parts: tuple[Range, ...] | list[Range],
) -> tuple[Transfer, ...]:
    """The stores of these ranges that are to move. Others that stay somewhere wait for a rebalance."""
    staying: Mapping[UUID, str] = replace_placement(connection, stores_of, lambda _: placement)
    homes = load(connection).map.pins
    return tuple(
        Transfer(store, homes[store].shard, shard, rows=1)
        for store, shard in sorted(staying.items())
        if any(part.low <= store < part.high for part in parts)
    )


def _ask(connection: CatalogConnection, transfers: tuple[Transfer, ...], undo_seconds: float) -> None:
    """For all of them at once. A store that is on the move already is left to the next rebalance."""
    columns = {
        "move_ids": [ids.new_id() for _ in transfers],
        "stores": [one.store_id for one in transfers],
        "from_shards": [one.from_shard for one in transfers],
        "to_shards": [one.to_shard for one in transfers],
        "undo_seconds": undo_seconds,
    }
    connection.execute(query("insert_staying_moves").text, columns)

"""The shard map: one frozen copy of what the catalog says about where stores live, and the lookup in it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from uuid import UUID

from errors import MarketplaceError
from pools.node import Node
from routing.ring import PARTITIONS, partition_of
from routing.route import Arrival, Reason, Route

_OFF: Reason = "sharding-off"
_PIN: Reason = "pin"


class ShardMapError(MarketplaceError):
    """The map contradicts itself. It is never put to use; a worker goes on with the one it has."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard and its weight: how many partitions it is to own, relative to the others."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Range:
    """Stores from `low` up to, but not including, `high` live on `shard`."""

    low: UUID
    high: UUID
    shard: str


@dataclass(frozen=True, slots=True)
class Pin:
    """One store lives on `shard`. `stays`: nobody's wish, it was made there while sharding was off."""

    shard: str
    stays: bool = False


@dataclass(frozen=True, slots=True)
class ShardMap:
    """One epoch of the map. A lookup is pure computation: no I/O, no lock, safe from any thread.

    `shards` in order of position, so the first is where every store lives while sharding is off;
    `partitions` gives each partition's owner as an index into `shards`; `ranges` in ascending order, none
    overlapping; `pins` by store; `arrivals` are the stores that moved lately. Raises `ShardMapError` when made
    from parts that do not fit together.
    """

    epoch: int
    shards: tuple[Shard, ...]
    nodes: tuple[Node, ...]
    partitions: tuple[int, ...]
    ranges: tuple[Range, ...] = ()
    pins: Mapping[UUID, Pin] = field(default_factory=dict)
    arrivals: Mapping[UUID, Arrival] = field(default_factory=dict)
    # What a lookup reads, worked out once.
    _owners: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _lows: tuple[UUID, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self)
        object.__setattr__(self, "pins", MappingProxyType(dict(self.pins)))
        object.__setattr__(self, "arrivals", MappingProxyType(dict(self.arrivals)))
        object.__setattr__(self, "_owners", tuple(self.shards[index].name for index in self.partitions))
        object.__setattr__(self, "_lows", tuple(part.low for part in self.ranges))

    @property
    def first_shard(self) -> str:
        return self.shards[0].name

    def route(self, store_id: UUID, *, sharding: bool) -> Route:
        """Where the store lives: while sharding is off the first shard, else by pin, range or ring."""
        if not sharding:
            shard, reason = self.shards[0].name, _OFF
        elif self.pins and (pin := self.pins.get(store_id)) is not None:
            shard, reason = pin.shard, _PIN
        else:
            shard, reason = self.unpinned(store_id)
        if self.arrivals:
            return Route(store_id, shard, reason, self.epoch, self.arrivals.get(store_id))
        return Route(store_id, shard, reason, self.epoch)

    def unpinned(self, store_id: UUID) -> tuple[str, Reason]:
        """The shard that ranges and ring give a store, and which of them, whether it is pinned or not."""
        if self._lows:
            index = bisect_right(self._lows, store_id) - 1
            if index >= 0 and store_id < self.ranges[index].high:
                return self.ranges[index].shard, "range"
        return self.ring_owner(store_id), "ring"

    def ring_owner(self, store_id: UUID) -> str:
        """The shard that the ring alone gives a store."""
        return self._owners[partition_of(store_id)]

    def share(self, shard: str) -> float:
        """The part of the ring that the shard owns, 0 to 1. Exact, so all shards' shares add up to 1."""
        return self._owners.count(shard) / PARTITIONS


def _check(candidate: ShardMap) -> None:
    """Raise `ShardMapError` naming the first thing that does not fit."""
    names = [shard.name for shard in candidate.shards]
    _refuse_unless(bool(names), candidate, "no shard is registered")
    _refuse_unless(len(set(names)) == len(names), candidate, f"a shard is named twice: {names}")
    for shard in candidate.shards:
        _refuse_unless(shard.weight > 0, candidate, f"{shard.name} has weight {shard.weight}")
    nodes = [node.name for node in candidate.nodes]
    _refuse_unless(len(set(nodes)) == len(nodes), candidate, f"a node is named twice: {nodes}")
    _refuse_unknown(candidate, names, (node.shard for node in candidate.nodes))
    _refuse_unknown(candidate, names, (part.shard for part in candidate.ranges))
    _refuse_unknown(candidate, names, (pin.shard for pin in candidate.pins.values()))
    owned = len(candidate.partitions)
    _refuse_unless(owned == PARTITIONS, candidate, f"{owned} of {PARTITIONS} partitions are assigned")
    for index in set(candidate.partitions):
        _refuse_unless(0 <= index < len(names), candidate, f"a partition belongs to shard number {index}")
    end = UUID(int=0)
    for part in candidate.ranges:
        _refuse_unless(
            end <= part.low < part.high, candidate, f"the range from {part.low} overlaps or is empty"
        )
        end = part.high


def _refuse_unknown(candidate: ShardMap, names: list[str], used: Iterable[str]) -> None:
    for shard in set(used).difference(names):
        _refuse_unless(False, candidate, f"{shard} is not a shard of this map")


def _refuse_unless(holds: bool, candidate: ShardMap, reason: str) -> None:
    if not holds:
        raise ShardMapError(f"shard map of epoch {candidate.epoch}: {reason}")

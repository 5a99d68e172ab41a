"""The plan of a rebalance: which partitions change hands, which stores are pinned, which move, and who is a whale.

Pure: what is known of the stores goes in, a `Plan` comes out, the same for the same. docs/rebalance.md says what it
does and why.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from operations.evenness import Scales, Sizes, Unit
from routing.ring import even_out_shares, partition_of
from routing.shard_map import ShardMap

# Each store's part of the work of all; stores that are not named share what is missing to 1. Empty: nothing is known.
Load = Mapping[UUID, float]
NO_LOAD: Load = {}

# Of what a shard should have; a few per cent are the noise of any day.
TOLERANCE = 0.1
# A store above this part of what a shard should have is a whale: of others' moves it decides more than they do.
WHALE = 0.5


@dataclass(frozen=True, slots=True)
class Transfer:
    """A store that is to live elsewhere. `pinned`: since nothing but a pin would lead it there."""

    store_id: UUID
    from_shard: str
    to_shard: str
    rows: int
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Whale:
    """A store that is large by itself. `rows` and `load` are parts of all."""

    store_id: UUID
    shard: str
    rows: float
    load: float
    is_pinned: bool


@dataclass(frozen=True, slots=True)
class Tally:
    """What a shard has; `load` is a part of all."""

    stores: int = 0
    rows: int = 0
    load: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """`partitions`: the owners that are to be. `pins`: where stores are pinned; those that live elsewhere are among the
    `transfers`. `before` and `after` by shard; `targets` is the part of all that each shard should have."""

    partitions: tuple[str, ...]
    pins: Mapping[UUID, str]
    transfers: tuple[Transfer, ...]
    whales: tuple[Whale, ...]
    targets: Mapping[str, float]
    before: Mapping[str, Tally]
    after: Mapping[str, Tally]
    stays: int  # of the transfers, those of stores that only stay where they are

    @property
    def rows(self) -> int:
        return sum(transfer.rows for transfer in self.transfers)


def plan(
    shard_map: ShardMap,
    rows: Mapping[UUID, int],
    load: Load,
    *,
    tolerance: float = TOLERANCE,
    pin_whales: bool = False,
) -> Plan:
    """How to bring every shard within `tolerance` of what its weight asks for, in rows and in load.

    `rows` names every store. First each store that only stays somewhere goes where ranges and ring lead; then
    partitions with stores change hands, with empty ones in return, so that the ring's shares stay what they are; a
    store that shares its partition with a whale goes by a pin. What somebody has pinned, or put into a range, is where
    it should be. Shards that own nothing of the ring are given nothing.
    """
    stores = _Stores(shard_map, rows, load)
    scales = stores.scales(tolerance)
    if len(scales.targets) > 1:
        scales.settle()
    owners = list(stores.owners)
    pins: dict[UUID, str] = {}
    for unit, shard, first in zip(scales.units, scales.owners, stores.first_owners, strict=True):
        if unit.partition is not None:
            owners[unit.partition] = shard
        elif shard != first:
            pins[UUID(unit.name)] = shard
    occupied = {unit.partition for unit in scales.units if unit.partition is not None} | stores.shared
    if owners != stores.owners:
        weights = {shard.name: shard.weight for shard in shard_map.shards if shard.name in scales.targets}
        owners = list(even_out_shares(weights, owners, occupied))
    homes = {
        store: pins.get(store) or stores.wished.get(store) or owners[partition_of(store)] for store in rows
    }
    if pin_whales:
        pins |= {store: homes[store] for store in stores.whales if not stores.is_pinned(store)}
    return Plan(
        partitions=tuple(owners),
        pins=pins,
        transfers=_transfers(stores, homes, pins),
        whales=tuple(
            Whale(
                store,
                homes[store],
                stores.sizes[store][0],
                stores.share_of_load(store),
                stores.is_pinned(store) or store in pins,
            )
            for store in sorted(stores.whales, key=lambda one: (-max(stores.sizes[one]), one))
        ),
        targets=scales.targets,
        before=stores.tally(stores.homes),
        after=stores.tally(homes),
        stays=sum(1 for store, pin in shard_map.pins.items() if pin.stays and homes.get(store) != pin.shard),
    )


def _transfers(stores: _Stores, homes: Mapping[UUID, str], pins: Mapping[UUID, str]) -> tuple[Transfer, ...]:
    """The largest first: they are what is felt."""
    found = [
        Transfer(store, stores.homes[store], shard, stores.rows[store], store in pins)
        for store, shard in homes.items()
        if shard != stores.homes[store]
    ]
    return tuple(sorted(found, key=lambda one: (-one.rows, one.store_id)))


class _Stores:
    """What is known of the stores, before anything is planned."""

    def __init__(self, shard_map: ShardMap, rows: Mapping[UUID, int], load: Load) -> None:
        self.shard_map = shard_map
        self.rows = {store: max(count, 1) for store, count in sorted(rows.items())}
        self.load = self._load_of_all(load)
        self.homes = {store: shard_map.route(store, sharding=True).shard for store in self.rows}
        self.owners = [shard_map.shards[index].name for index in shard_map.partitions]
        # Where a store goes whoever owns its partition.
        self.wished = {store: shard for store in self.rows if (shard := self._wish(store))}
        owning = set(self.owners)
        self.weights = {s.name: s.weight for s in shard_map.shards if s.name in owning}
        self.sizes = self._sizes()
        self.whales = {store for store, sizes in self.sizes.items() if max(sizes) > WHALE / len(self.weights)}
        self.shared: set[int] = set()  # partitions in which a whale lives with others
        self.units = self._units()
        self.first_owners = [
            self.owners[one.partition if one.partition is not None else partition_of(UUID(one.name))]
            for one in self.units
        ]

    def is_pinned(self, store: UUID) -> bool:
        pin = self.shard_map.pins.get(store)
        return pin is not None and not pin.stays

    def share_of_load(self, store: UUID) -> float:
        return self.sizes[store][1] if self.load else 0.0

    def scales(self, tolerance: float) -> Scales:
        whole = sum(self.weights.values())
        fixed = dict.fromkeys(self.weights, self._none)
        for store, shard in self.wished.items():
            if shard in fixed:
                fixed[shard] = _sum([fixed[shard], self.sizes[store]])
        return Scales(
            targets={shard: weight / whole for shard, weight in self.weights.items()},
            fixed=fixed,
            units=self.units,
            owners=list(self.first_owners),
            partitions=dict(Counter(self.owners)),
            tolerance=tolerance,
        )

    def tally(self, homes: Mapping[UUID, str]) -> dict[str, Tally]:
        found = {shard.name: Tally() for shard in self.shard_map.shards}
        for store, shard in homes.items():
            one = found[shard]
            found[shard] = Tally(
                one.stores + 1, one.rows + self.rows[store], one.load + self.share_of_load(store)
            )
        return found

    @property
    def _none(self) -> Sizes:
        return (0.0, 0.0) if self.load else (0.0,)

    def _wish(self, store: UUID) -> str | None:
        if self.is_pinned(store):
            return self.shard_map.pins[store].shard
        shard, reason = self.shard_map.unpinned(store)
        return shard if reason == "range" else None

    def _load_of_all(self, load: Load) -> dict[UUID, float]:
        known = {store: share for store, share in load.items() if store in self.rows and share > 0}
        unnamed = self.rows.keys() - known.keys()
        rest = 1 - sum(known.values())
        if not known or not unnamed or rest <= 0:
            return known
        return known | dict.fromkeys(unnamed, rest / len(unnamed))

    def _sizes(self) -> dict[UUID, Sizes]:
        """In parts of what lies, or is to lie, on shards of the ring: pins may lead to others."""
        shared = [store for store in self.rows if self.wished.get(store, self.owners[0]) in self.weights]
        rows = sum(self.rows[store] for store in shared) or 1
        load = sum(self.load.get(store, 0.0) for store in shared)
        if not load:
            return {store: (count / rows,) for store, count in self.rows.items()}
        return {store: (count / rows, self.load.get(store, 0.0) / load) for store, count in self.rows.items()}

    def _units(self) -> list[Unit]:
        by_partition: defaultdict[int, list[UUID]] = defaultdict(list)
        for store in self.rows:
            if store not in self.wished:
                by_partition[partition_of(store)].append(store)
        units = []
        for partition, stores in sorted(by_partition.items()):
            if len(stores) > 1 and self.whales.intersection(stores):
                self.shared.add(partition)
                units += [self._unit([store], None) for store in stores]
            else:
                units.append(self._unit(stores, partition))
        return units

    def _unit(self, stores: Sequence[UUID], partition: int | None) -> Unit:
        rows_at: defaultdict[str, int] = defaultdict(int)
        for store in stores:
            rows_at[self.homes[store]] += self.rows[store]
        name = str(partition if partition is not None else stores[0])
        sizes = _sum([self.sizes[store] for store in stores])
        return Unit(name, sizes, rows_at, bool(self.whales.intersection(stores)), partition)


def _sum(sizes: Iterable[Sizes]) -> Sizes:
    return tuple(map(sum, zip(*sizes, strict=True)))

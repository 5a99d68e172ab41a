"""Measure the ring beside uhashring and a modulo: balance, movement from 8 to 9 shards, time of a lookup.

    .venv/bin/python -m bench.ring

Prints the table of docs/ring.md. The stores are the same in every run (seeded); the times are of this
machine.
"""

from __future__ import annotations

import platform
import random
import timeit
from collections import Counter
from collections.abc import Callable, Sequence
from uuid import UUID

from uhashring import HashRing

import ids
from routing.ring import PARTITIONS, assign, partition_of
from routing.shard_map import Shard, ShardMap

STORES = 100_000
LOOKUPS = 10_000
ROUNDS = 9

Lookup = Callable[[UUID], str]


def names(count: int) -> list[str]:
    return [f"shard-{number}" for number in range(count)]


def ours(before: Sequence[str] | None, count: int) -> tuple[str, ...]:
    return assign(dict.fromkeys(names(count), 1.0), before)


def as_map(owners: Sequence[str], count: int) -> ShardMap:
    """The map that a worker holds for this ring."""
    index = {name: number for number, name in enumerate(names(count))}
    shards = tuple(map(Shard, index))
    return ShardMap(epoch=1, shards=shards, nodes=(), partitions=tuple(index[owner] for owner in owners))


def uhashring_lookup(count: int, **options: int) -> Lookup:
    ring = HashRing(nodes=names(count), **options)
    node: Callable[[str], str] = ring.get_node
    return lambda store: node(str(store))


def modulo_lookup(count: int) -> Lookup:
    shards = names(count)
    return lambda store: shards[hash(store) % count]


def microseconds(lookup: Callable[[UUID], object], stores: Sequence[UUID]) -> float:
    """One lookup, the loop over the stores included: the best of the rounds, since noise only adds."""
    few = stores[:LOOKUPS]
    return (
        min(timeit.repeat(lambda: [lookup(store) for store in few], number=1, repeat=ROUNDS)) / LOOKUPS * 1e6
    )


def line(
    name: str, eight: Lookup, nine: Lookup, stores: Sequence[UUID], timed: Callable[[UUID], object]
) -> str:
    before, after = [eight(store) for store in stores], [nine(store) for store in stores]
    load = Counter(before)
    mean = len(stores) / 8
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    between_old = sum(1 for _, new in moved if new != "shard-8")
    return (
        f"| {name} | {max(load.values()) / mean:.3f} / {min(load.values()) / mean:.3f}"
        f" | {len(moved) / len(stores):.1%} | {between_old} | {microseconds(timed, stores):.2f} |"
    )


def main() -> None:
    chance = random.Random(1)  # noqa: S311  (not a secret: the same stores in every run)
    stores = [ids.build(1_700_000_000_000 + number, chance.getrandbits(74)) for number in range(STORES)]
    owners_8 = ours(None, 8)
    owners_9 = ours(owners_8, 9)
    map_8, map_9 = as_map(owners_8, 8), as_map(owners_9, 9)
    partitions = sum(1 for old, new in zip(owners_8, owners_9, strict=True) if old != new)

    def route(shard_map: ShardMap) -> Lookup:
        return lambda store: shard_map.route(store, sharding=True).shard

    def whole_route(store: UUID) -> object:
        return map_8.route(store, sharding=True)

    def partition_only(store: UUID) -> str:
        return owners_8[partition_of(store)]

    print(f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}")
    print(f"{STORES:,} stores (UUIDv7), 8 equal shards, then 9\n")
    print(
        "| | busiest / idlest shard to mean | stores moved 8→9 | of these between old shards | µs a lookup |"
    )
    print("| --- | --- | --- | --- | --- |")
    print(
        line(f"{PARTITIONS} partitions, hash and table", route(map_8), route(map_9), stores, partition_only)
    )
    print(line("the same, the whole `ShardMap.route`", route(map_8), route(map_9), stores, whole_route))
    for label, options in (("uhashring", {}), ("uhashring, 1,000 vnodes", {"vnodes": 1000})):
        lookup = uhashring_lookup(8, **options)
        print(line(label, lookup, uhashring_lookup(9, **options), stores, lookup))
    print(line("modulo", modulo_lookup(8), modulo_lookup(9), stores, modulo_lookup(8)))
    print(f"\n{partitions} of {PARTITIONS} partitions moved.")


if __name__ == "__main__":
    main()

"""The ring: 4,096 equal partitions of the hash space, each owned by one shard.

This is Dynamo's third strategy ("Q/S tokens per node, equal-sized partitions", DeCandia et al., SOSP 2007,
section 6.2): a store hashes to a partition for good, and a table says which shard owns it. The table
balances as a table does and moves as a ring does. It is stored in the catalog; the code here only computes
changes to it (docs/ring.md).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from hashlib import blake2b
from uuid import UUID

# Enough that a hundred shards still differ by a few per cent only, few enough that a worker reads the whole
# table in a millisecond. A power of two: a share is exact in a float, and a later split in two takes one
# more bit of the hash.
PARTITIONS = 4096

_HASH_BYTES = 8
_SHIFT = 8 * _HASH_BYTES - (PARTITIONS.bit_length() - 1)


def partition_of(store_id: UUID) -> int:
    """The partition of a store, 0 to 4,095: the top 12 bits of the 64-bit BLAKE2b (RFC 7693) of its 16 bytes.

    Hashed because a UUIDv7 begins with its time: by its own leading bits, all stores of one day would meet.
    """
    return int.from_bytes(blake2b(store_id.int.to_bytes(16), digest_size=_HASH_BYTES).digest()) >> _SHIFT


def assign(weights: Mapping[str, float], current: Sequence[str] | None = None) -> tuple[str, ...]:
    """Who owns each partition: `PARTITIONS` names of shards, each as often as its weight asks for.

    `weights` are the shards of the ring, in their order; `current` is the assignment so far. A partition
    stays where it is unless its shard has left or owns too many, so the fewest possible move: to a new
    shard from every old one, never between old ones; from a shard that leaves to all that stay. The same
    arguments always give the same answer.

    Raises `ValueError` for no shards, a weight that is not positive and finite, or a `current` of another
    size.
    """
    if not weights or not all(0 < weight < math.inf for weight in weights.values()):
        raise ValueError(f"a ring needs shards of positive, finite weight, not {dict(weights)}")
    if current is None:
        current = ()
    elif len(current) != PARTITIONS:
        raise ValueError(f"a ring has {PARTITIONS} partitions, not {len(current)}")
    targets = _targets(weights, Counter(current))
    owners: list[str | None] = [None] * PARTITIONS
    room = dict(targets)
    for partition, shard in enumerate(current):
        if room.get(shard, 0) > 0:
            owners[partition] = shard
            room[shard] -= 1
    # The free partitions go round the shards that lack some, so that every run of partitions is shared by
    # all.
    free = (partition for partition, shard in enumerate(owners) if shard is None)
    while lacking := [shard for shard, missing in room.items() if missing > 0]:
        for shard in lacking:
            owners[next(free)] = shard
            room[shard] -= 1
    return tuple(shard for shard in owners if shard is not None)


def even_out_shares(
    weights: Mapping[str, float], owners: Sequence[str], occupied: Collection[int]
) -> tuple[str, ...]:
    """Give empty partitions away until each shard owns as many as its weight asks for, or none is left that could go.

    `occupied` are the partitions that stores live in; they stay where they are, so no store moves. For an assignment
    that was changed for the stores' sake: new ones still go to all shards alike.
    """
    owned = Counter(owners)
    targets = _targets(weights, owned)
    lacking = {shard: targets[shard] - owned[shard] for shard in weights}
    given = list(owners)
    for partition, shard in enumerate(owners):
        if partition in occupied or lacking.get(shard, 0) >= 0:
            continue
        neediest = max(lacking, key=lambda name: lacking[name])
        if lacking[neediest] <= 0:
            break
        given[partition] = neediest
        lacking[neediest] -= 1
        lacking[shard] += 1
    return tuple(given)


def _targets(weights: Mapping[str, float], owned: Mapping[str, int]) -> dict[str, int]:
    """How many partitions each shard gets: its exact quota, rounded down or up so that all are given out.

    Rounded up first are the shards that already own more than their quota rounded down, since that spares a
    move; then the largest remainders (Hamilton's method), then the earlier in order. In fractions, so that
    the quotas add up to `PARTITIONS` exactly, whatever the weights.
    """
    total = sum(map(Fraction, weights.values()))
    quotas = {shard: PARTITIONS * Fraction(weight) / total for shard, weight in weights.items()}
    targets = {shard: math.floor(quota) for shard, quota in quotas.items()}
    by_claim = sorted(
        quotas, key=lambda shard: (owned.get(shard, 0) <= targets[shard], targets[shard] - quotas[shard])
    )
    for shard in by_claim[: PARTITIONS - sum(targets.values())]:
        targets[shard] += 1
    return targets

"""Plans of rebalances against the least that any plan has to move, for stores whose sizes are Zipf's.

    .venv/bin/python -m bench.rebalance

A table in Markdown. Pure computation: nothing has to run. The least is what lies above the tolerance, or is missing
below it; where a store is larger than what a shard should have, there is no such bound, and the row has none.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from uuid import UUID

from bench.table import table
from operations.rebalance import NO_LOAD, TOLERANCE, plan
from routing.ring import assign
from routing.shard_map import Shard, ShardMap

ROWS = 10_000_000


def main() -> int:
    found = [_measured(stores, shards) for stores in (200, 3_000, 50_000) for shards in (2, 3, 8)]
    print(table(("stores", "shards", "whales", "least rows", "planned", "stores to move", "s"), found))
    return 0


def _measured(stores: int, shards: int) -> tuple[object, ...]:
    chance = random.Random(stores)  # noqa: S311
    whole = sum(1 / rank for rank in range(1, stores + 1))
    rows = {
        UUID(int=chance.getrandbits(128)): max(round(ROWS / rank / whole), 1) for rank in range(1, stores + 1)
    }
    names = [f"shard-{number}" for number in range(shards)]
    owners = assign(dict.fromkeys(names, 1.0))
    shard_map = ShardMap(1, tuple(map(Shard, names)), (), tuple(names.index(owner) for owner in owners))
    began = time.process_time()
    made = plan(shard_map, rows, NO_LOAD)
    seconds = time.process_time() - began
    held: Counter[str] = Counter()
    for store, count in rows.items():
        held[shard_map.route(store, sharding=True).shard] += count
    fair = sum(rows.values()) / shards
    above = sum(max(count - (1 + TOLERANCE) * fair, 0) for count in held.values())
    missing = sum(max((1 - TOLERANCE) * fair - held[name], 0) for name in names)
    least = f"{max(above, missing):,.0f}" if max(rows.values()) < fair else ""
    moved = f"{made.rows:,}"
    return stores, shards, len(made.whales), least, moved, len(made.transfers), f"{seconds:.2f}"


if __name__ == "__main__":
    sys.exit(main())

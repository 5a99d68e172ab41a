"""A process that takes the locks of some orders and commits them when it is told to: to be stopped in between.

    LOCK_URLS=... LOCK_TTL_SECONDS=1 python -m bench.lock_sleeper STORE PRODUCT CREDENTIAL FIRST COUNT [--without-lease]

Says "held" when it has all locks, waits for a line, then places the orders with the keys FIRST, FIRST + 1, ... and
prints how many were committed, replayed and refused. With `--without-lease` their transactions do not check the lease.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from contextlib import ExitStack
from uuid import UUID

import config
import ids
from ephemeral.locks import Lease
from errors import LeaseOver
from operations import orders
from operations.credentials import Credential
from operations.marketplace import Marketplace
from routing.scope import Scope

_POLL_SECONDS = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.lock_sleeper")
    for name in ("store", "product", "credential"):
        parser.add_argument(name, type=UUID)
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--without-lease", action="store_true")
    arguments = parser.parse_args()
    settings = config.load()
    market = Marketplace(settings)
    market.start(f"sleeper-{ids.new_id()}")
    buyer = Credential("merchant", arguments.credential, arguments.store)
    line = orders.Line(arguments.product, 1)
    keys = [
        orders.IdempotencyKey(str(number), bytes(32), 3600)
        for number in range(arguments.first, arguments.first + arguments.count)
    ]
    outcomes: Counter[str] = Counter()
    with ExitStack() as held:
        leases: list[Lease] = []
        while market.locks.counting() < len(settings.lock_urls.split(",")):
            time.sleep(_POLL_SECONDS)
        for key in keys:
            lease = held.enter_context(market.locks.hold(orders.lock_names(buyer, key, of_cart=False)))
            assert lease is not None
            leases.append(lease)
        # A process that has just started does not know the servers' clocks yet.
        while any(market.replay.shard(shard).primary is None for shard in market.router.shards()):
            time.sleep(_POLL_SECONDS)
        print("held", flush=True)
        sys.stdin.readline()
        for key, lease in zip(keys, leases, strict=True):
            try:
                placed = orders.place_once(
                    market.reads,
                    market.router,
                    market.carts,
                    Scope(market.maps.current().flags),
                    buyer=buyer,
                    key=key,
                    lines=[line],
                    lease=None if arguments.without_lease else lease,
                )
                outcomes["replayed" if placed.replayed else "committed"] += 1
            except LeaseOver:
                outcomes["refused"] += 1
    print(json.dumps(outcomes), flush=True)
    market.stop()


if __name__ == "__main__":
    main()

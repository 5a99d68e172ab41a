"""A process that takes locks and places an order under each when it is told to: to be stopped in between.

    python -m lab.lock_holder KIND STORE PRODUCT PREFIX COUNT

KIND: `plain`, one server's SET NX PX; `quorum`, Redlock as the service takes it, but nobody checks the lease;
`fenced`, the service's own. Says "ready", waits for a line, takes all locks as they come free, says "held", waits for a
line, places the orders, and prints how many were committed and how many refused.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from uuid import UUID

import redis

import config
import ids
from ephemeral.locks import Lease, LockTakenError
from errors import LeaseOver
from operations import orders
from operations.credentials import Credential
from operations.marketplace import Marketplace
from routing.scope import Scope

_POLL_SECONDS = 0.02
_KEPT_SECONDS = 3600

# Takes the lock of this name where it is free; the lease under which the order is placed, if there is one that is
# checked. Raises `LockTakenError`.
Take = Callable[[str], Lease | None]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.lock_holder")
    parser.add_argument("kind", choices=("plain", "quorum", "fenced"))
    for name in ("store", "product"):
        parser.add_argument(name, type=UUID)
    parser.add_argument("prefix")
    parser.add_argument("count", type=int)
    arguments = parser.parse_args()
    settings = config.load()
    market = Marketplace(settings)
    market.start(f"holder-{ids.new_id()}")
    # A process that has just started knows neither the servers' clocks nor for how long they have been up.
    while any(market.replay.shard(shard).primary is None for shard in market.router.shards()):
        time.sleep(_POLL_SECONDS)
    while arguments.kind != "plain" and market.locks.counting() < len(settings.lock_urls.split(",")):
        time.sleep(_POLL_SECONDS)
    with ExitStack() as held:
        take = _take(arguments.kind, market, settings, held)
        _say_and_wait("ready")
        leases = [_when_free(take, f"{arguments.prefix}{number}") for number in range(arguments.count)]
        _say_and_wait("held")
        outcomes = Counter(_order(market, arguments.store, arguments.product, lease) for lease in leases)
    print(json.dumps(outcomes), flush=True)
    market.stop()


def _say_and_wait(word: str) -> None:
    print(word, flush=True)
    sys.stdin.readline()


def _take(kind: str, market: Marketplace, settings: config.Settings, held: ExitStack) -> Take:
    if kind == "plain":
        client = redis.Redis.from_url(settings.redis_url)
        lasts_ms = round(settings.lock_ttl_seconds * 1000)

        def plain(name: str) -> None:
            if not client.set(name, "held", nx=True, px=lasts_ms):
                raise LockTakenError

        return plain

    def by_quorum(name: str) -> Lease | None:
        lease = held.enter_context(market.locks.hold([name]))
        if lease is None:
            raise LockTakenError  # as good as that: nobody has it, and a quorum did not answer
        return lease if kind == "fenced" else None

    return by_quorum


def _when_free(take: Take, name: str) -> Lease | None:
    while True:
        try:
            return take(name)
        except LockTakenError:
            time.sleep(_POLL_SECONDS)


def _order(market: Marketplace, store: UUID, product: UUID, lease: Lease | None) -> str:
    """An order of its own, by the service's statement: nothing but the lock keeps it apart from another's."""
    try:
        orders.place_once(
            market.reads,
            market.router,
            market.carts,
            Scope(market.maps.current().flags),
            buyer=Credential("merchant", ids.new_id(), store),
            key=orders.IdempotencyKey(str(ids.new_id()), bytes(32), _KEPT_SECONDS),
            lines=[orders.Line(product, 1)],
            lease=lease,
        )
    except LeaseOver:
        return "refused"
    return "committed"


if __name__ == "__main__":
    main()

"""What the cache costs and saves a request: processor time and round trips, with its flag off and on.

    make up                                         # in another terminal
    .venv/bin/python -m bench.cache_cost            # prints a table in Markdown

It makes a store of its own on the running service, turns the flag (and back), and sends each kind of request over a
few kept connections. A round trip is a packet that the server read.
"""

from __future__ import annotations

import argparse
import json
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import cycle

import redis

import config
from bench.hot_path import Bench, Request, Store, _cpu, repeat

FLAG = "/v1/admin/flags/redis_cache"
# So few that they are found again before they expire.
HOT = 20
# A flag is in force, and what is remembered of credentials counts again.
SETTLE_SECONDS = 4.0


def kinds(bench: Bench, store: Store) -> dict[str, Callable[[], Request]]:
    """Reads by nobody and by a session, and an order."""
    session = bench.call("POST", f"{store.path}/sessions", {}, {})["token"]
    bearer = {"Authorization": f"Bearer {session}"}
    merchant = {"Authorization": f"Bearer {store.api_key}", "Content-Type": "application/json"}
    hot: Iterator[str] = cycle(str(product["id"]) for product in store.products[-HOT:])

    def order() -> Request:
        items = [{"product_id": next(hot), "quantity": 1} for _ in range(2)]
        headers = merchant | {"Idempotency-Key": uuid.uuid4().hex}
        return "POST", f"{store.path}/orders", headers, json.dumps({"items": items})

    page = f"{store.path}/products?limit=20"
    return {
        "list, nobody": lambda: ("GET", page, {}, ""),
        "list, a session": lambda: ("GET", page, bearer, ""),
        "product, nobody": lambda: ("GET", f"{store.path}/products/{next(hot)}", {}, ""),
        "product, a session": lambda: ("GET", f"{store.path}/products/{next(hot)}", bearer, ""),
        "order, two lines": order,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.cache_cost", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="requests of each kind (%(default)s)")
    arguments = parser.parse_args()
    settings = config.load()
    bench, server = Bench(settings.var), redis.Redis.from_url(settings.redis_url)
    pid = next(process["pid"] for process in bench.processes if process["kind"] == "redis")
    store = bench.store()
    print("| request | flag | service, ms | PostgreSQL, ms | Redis, ms | Redis round trips | requests/s |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    before = bench.call("GET", "/v1/admin/flags", bench.operator)["redis_cache"]
    try:
        for enabled in (False, True):
            bench.call("PUT", FLAG, bench.operator, {"enabled": enabled})
            time.sleep(SETTLE_SECONDS)
            for name, make in kinds(bench, store).items():
                packets, cpu = _packets(server), _cpu(pid)
                cost = bench.cost(store.shard, repeat(make), arguments.count)
                trips = (_packets(server) - packets) / arguments.count
                spent = (_cpu(pid) - cpu) * 1000 / arguments.count
                print(
                    f"| {name} | {'on' if enabled else 'off'} | {cost.service_ms:.3f} | {cost.postgres_ms:.3f}"
                    f" | {spent:.3f} | {trips:.2f} | {cost.per_second:.0f} |",
                    flush=True,
                )
    finally:
        bench.call("PUT", FLAG, bench.operator, {"enabled": before})


def _packets(server: redis.Redis) -> int:
    said = server.info("stats")
    assert isinstance(said, dict)
    return int(said["total_reads_processed"])


if __name__ == "__main__":
    main()

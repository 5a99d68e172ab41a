"""Two shards to three and back under mixed load, on a running `make up`: what moved, what it took, what is there.

    make up                                                        # in another terminal
    .venv/bin/python -m bench.growth                               # 200 stores; --stores 20 --rate 20 to try it

Clients read products and orders, order, and change prices, of stores drawn by Zipf, whose rows are Zipf's too.
Meanwhile `flask shards add`, `rebalance` and `remove` do what they say. Behind each the clients pause, and every row of
every node is counted: each store's rows on one primary, the same on its replicas, every acknowledged order there. Exits
with 1 where that is not so, a command failed, or a client saw an error.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg.sql import SQL, Identifier

import config
from bench.replicas.stores import UNITS, Store, good
from bench.table import table
from lab.servers import Servers
from lab.wire import Answer, DroppedError, Wire

NEW = "shard-growth"
# Of a hundred requests; the rest are orders.
READS, LOOKS, PRICES = 60, 10, 5
_FILL = """
INSERT INTO customers SELECT %(store)s, gen_random_uuid(), n || '@example.com', 'Ada ' || n, 'x', now()
FROM generate_series(1, %(rows)s) AS n
"""
_TABLES = """
SELECT c.relname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'store_id'
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' ORDER BY 1
"""
_DIGEST = SQL(
    "SELECT store_id::text, count(*), sum(hashtextextended(t::text, 0)) FROM {} AS t GROUP BY store_id"
)
_ORDERS = "SELECT store_id::text, id::text FROM orders"
_DECIDED = "SELECT count(*) FROM moves WHERE state = 'done' AND started_at >= %s"
_MOVED_TWICE = """
SELECT count(*) FROM (
    SELECT store_id FROM moves WHERE state = 'done' AND started_at >= %s GROUP BY store_id HAVING count(*) > 1
) AS again
"""
_NOW = "SELECT clock_timestamp()"

# Of one node: by table and store, how many rows and a sum over their content.
Rows = dict[tuple[str, str], tuple[int, int]]


@dataclass(slots=True)
class Load:
    """Clients that send together `rate` requests a second, one every so often each, whatever the last one took."""

    address: str
    stores: Sequence[Store]
    clients: int
    rate: float
    statuses: Counter[int] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    placed: dict[str, str] = field(default_factory=dict)  # order -> store
    over: threading.Event = field(default_factory=threading.Event)
    open: threading.Event = field(default_factory=threading.Event)
    idle: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def run(self, number: int) -> None:
        chance = random.Random(number)  # noqa: S311
        weights = list(accumulate(1 / rank for rank in range(1, len(self.stores) + 1)))
        due = time.monotonic()
        with Wire(self.address, lasts=50) as wire:
            while not self.over.is_set():
                if not self.open.is_set():
                    self.idle.release()
                    self.open.wait()
                    due = time.monotonic()
                if self.over.wait(max(0.0, due - time.monotonic())):
                    return
                due = max(due + self.clients / self.rate, time.monotonic())
                (store,) = chance.choices(self.stores, cum_weights=weights)
                self._request(wire, chance, store)

    @contextmanager
    def running(self) -> Iterator[None]:
        self.open.set()
        with ThreadPoolExecutor(self.clients) as threads:
            for number in range(self.clients):
                threads.submit(self.run, number)
            try:
                yield
            finally:
                self.over.set()
                self.open.set()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No request is under way."""
        self.open.clear()
        for _ in range(self.clients):
            self.idle.acquire()
        yield
        self.open.set()

    def _request(self, wire: Wire, chance: random.Random, store: Store) -> None:
        drawn, began = chance.randrange(100), time.monotonic()
        product = f"{store.path}/products/{store.products[0]}"
        try:
            if drawn < READS:
                answer = wire.request("GET", product)
            elif drawn < READS + LOOKS:
                answer = wire.request("GET", f"{store.path}/orders?limit=1", store.merchant)
            elif drawn < READS + LOOKS + PRICES:
                answer = wire.request("PATCH", product, store.merchant, {"price": chance.randrange(1, 1000)})
            else:
                answer = self._order(wire, store)
        except DroppedError as error:
            self.failed.append(str(error))
            return
        self.took.append(time.monotonic() - began)
        self.statuses[answer.status] += 1
        if answer.status >= 500 or answer.status in (401, 403, 404):  # noqa: PLR2004 - and a store that is not found
            self.failed.append(f"{answer.status} {answer.body.decode()[:200]}")

    def _order(self, wire: Wire, store: Store) -> Answer:
        body = {"items": [{"product_id": store.products[0], "quantity": 1}]}
        key = {**store.merchant, "Idempotency-Key": uuid4().hex}
        answer = wire.request("POST", f"{store.path}/orders", key, body)
        if answer.good:
            self.placed[answer.document["id"]] = store.store_id
        return answer


@dataclass(frozen=True, slots=True)
class Stage:
    """One command, and what was there after it."""

    name: str
    seconds: float
    moved: int
    shards: str
    wrong: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__.splitlines()[0])
    parser.add_argument("--stores", type=int, default=200, help="how many (%(default)s)")
    parser.add_argument("--rows", type=int, default=200_000, help="of all stores together (%(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second together (%(default)s)")
    options = parser.parse_args(arguments)
    servers = Servers(config.load().var)
    stores = _open_stores(servers, options.stores, options.rows)
    load = Load(servers.address, stores, options.clients, options.rate)
    stages: list[Stage] = []
    began = time.monotonic()
    with load.running():
        for name, command in (
            ("add", ("add", NEW)),
            ("rebalance", ("rebalance",)),
            ("rebalance again", ("rebalance",)),
            ("remove", ("remove", NEW)),
        ):
            stages.append(_stage(servers.var, load, name, command))
    seconds = time.monotonic() - began
    _report(stages, load, seconds, options.stores)
    return 1 if load.failed or any(stage.wrong for stage in stages) else 0


def _open_stores(servers: Servers, count: int, rows: int) -> list[Store]:
    whole = sum(1 / rank for rank in range(1, count + 1))
    stores = []
    with Wire(servers.address) as wire:
        for rank in range(1, count + 1):
            body = {"name": f"Bench {rank}", "currency": "EUR"}
            made = good(wire, "POST", "/v1/stores", servers.operator, body)
            merchant = {"Authorization": f"Bearer {made['api_key']}"}
            path, mug = f"/v1/stores/{made['id']}", {"title": "Mug", "price": 1, "stock": UNITS}
            product = good(wire, "POST", f"{path}/products", merchant, mug)["id"]
            shard = good(wire, "GET", f"/v1/admin/stores/{made['id']}/route", servers.operator)["shard"]
            values = {"store": made["id"], "rows": round(rows / rank / whole)}
            with servers.connect(servers.primary(shard)) as connection:
                connection.execute(_FILL, values)
            stores.append(Store(shard, made["id"], merchant, (product,)))
    return stores


def _stage(var: Path, load: Load, name: str, command: Sequence[str]) -> Stage:
    with psycopg.connect(config.load().catalog_dsn, autocommit=True) as catalog:
        ((since,),) = catalog.execute(_NOW).fetchall()
        began = time.monotonic()
        ran = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "app", "shards", *command],
            cwd=config.ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - began
        ((moved,),) = catalog.execute(_DECIDED, [since]).fetchall()
        ((twice,),) = catalog.execute(_MOVED_TWICE, [since]).fetchall()
    print(f"{name}: {ran.stdout.strip()}", file=sys.stderr)
    with load.paused():
        shards, wrong = _count(Servers(var), load)
    if ran.returncode:
        wrong.append(f"flask shards {' '.join(command)} ended with {ran.returncode}")
    if twice:
        wrong.append(f"{twice} stores moved more than once")
    return Stage(name, seconds, moved, shards, tuple(wrong))


def _count(servers: Servers, load: Load) -> tuple[str, list[str]]:
    """Each shard with its stores and rows, and what is not as it should be."""
    wrong: list[str] = []
    homes: dict[str, str] = {}
    orders: Counter[tuple[str, str]] = Counter()
    said = []
    for shard in servers.shards:
        servers.await_whole(shard)
        primary = servers.primary(shard)
        found = _rows(servers, primary)
        for replica in servers.replicas(shard):
            if _rows(servers, replica) != found:
                wrong.append(f"{replica} has not what {primary} has")
        for store in {store for _, store in found}:
            if store in homes:
                wrong.append(f"{store} has rows on {homes[store]} and on {shard}")
            homes[store] = shard
        with servers.connect(primary) as connection:
            orders.update((order, store) for store, order in connection.execute(_ORDERS).fetchall())
        stores = sum(name == "stores" for name, _ in found)
        said.append(f"{shard}: {stores} stores, {sum(count for count, _ in found.values()):,} rows")
    missing = [store.store_id for store in load.stores if store.store_id not in homes]
    lost = [order for order, store in load.placed.items() if orders[order, store] != 1]
    wrong += [f"store {store} is nowhere" for store in missing]
    wrong += [f"order {order} is not there exactly once" for order in lost]
    return "; ".join(said), wrong


def _rows(servers: Servers, node: str) -> Rows:
    found: Rows = {}
    with servers.connect(node) as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        for (name,) in connection.execute(_TABLES).fetchall():
            for store, count, digest in connection.execute(_DIGEST.format(Identifier(name))):
                found[name, store] = (count, int(digest))
    return found


def _report(stages: Sequence[Stage], load: Load, seconds: float, stores: int) -> None:
    heads = ("command", "s", "stores moved", "then")
    print(table(heads, [(stage.name, f"{stage.seconds:.1f}", stage.moved, stage.shards) for stage in stages]))
    print(f"\n{stores} stores; a third of them is {stores / 3:.0f}.")
    answered = sum(load.statuses.values())
    errors = sum(count for status, count in load.statuses.items() if status >= 500)  # noqa: PLR2004
    took = sorted(load.took)
    print(
        f"{answered:,} requests in {seconds:.0f} s, {errors} of them 5xx, {len(load.failed)} failed in any way;"
        f" {len(load.placed):,} orders acknowledged; p50 {1000 * took[len(took) // 2]:.0f} ms,"
        f" p99 {1000 * took[len(took) * 99 // 100]:.0f} ms"
    )
    print(f"by status: {dict(sorted(load.statuses.items()))}")
    for wrong in [reason for stage in stages for reason in stage.wrong][:10] + load.failed[:5]:
        print(f"  WRONG: {wrong}")


if __name__ == "__main__":
    sys.exit(main())

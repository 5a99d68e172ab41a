"""What moving a store promises, as figures of a running `make up`: a large store goes back and forth under load.

    make up                                                        # in another terminal
    .venv/bin/python -m bench.moves --moves 50 --rows 100000

Clients order from the store that moves, and from one that does not, a fixed number of times a second each. Then, with
nothing moving, the same load again for comparison. Tables in Markdown. Exits with 1 where a request failed, a move did,
or an order is lost or doubled.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from uuid import uuid4

import config
from bench.replicas.stores import Store, audit, good, open_stores
from bench.servers import Servers
from bench.wire import DroppedError, Wire

_FILL = """
INSERT INTO customers SELECT %(store)s, gen_random_uuid(), n || '@example.com', 'Ada ' || n, 'x', now()
FROM generate_series(1, %(rows)s) AS n
"""
_ORDERS = """
INSERT INTO orders (store_id, id, customer_id, status, currency, total, created_at, updated_at)
SELECT store_id, id, id, 'pending', 'EUR', 5, now(), now() FROM customers WHERE store_id = %(store)s
"""
_LINES = """
INSERT INTO order_items SELECT store_id, id, 1, id, 'Mug', 5, 1 FROM customers WHERE store_id = %(store)s
"""
_NO_LINES = """
DELETE FROM order_items AS i USING customers AS c
WHERE i.store_id = %(store)s AND c.store_id = i.store_id AND c.id = i.order_id
"""
_NO_ORDERS = """
DELETE FROM orders AS o USING customers AS c WHERE o.store_id = %(store)s AND c.store_id = o.store_id AND c.id = o.id
"""


@dataclass(slots=True)
class Load:
    """Clients of one store: what each request took, in seconds, by when it began."""

    store: Store
    address: str
    clients: int
    per_second: float
    took: list[tuple[float, float]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    placed: dict[str, str] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        self.threads = [threading.Thread(target=self._run) for _ in range(self.clients)]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def between(self, began: float, ended: float) -> list[float]:
        return [1000 * took for at, took in self.took if began <= at <= ended]

    def _run(self) -> None:
        pause = 1 / self.per_second
        due = time.monotonic()
        with Wire(self.address, lasts=50) as wire:
            key = self.store.another_key(wire)
            while not self.over.wait(max(0.0, due - time.monotonic())):
                due = max(due + pause, time.monotonic())
                self._order(wire, key)

    def _order(self, wire: Wire, key: dict[str, str]) -> None:
        name, began = uuid4().hex, time.monotonic()
        body = {"items": [{"product_id": self.store.products[0], "quantity": 1}]}
        try:
            answer = wire.request("POST", f"{self.store.path}/orders", {**key, "Idempotency-Key": name}, body)
        except DroppedError as error:
            self.failed.append(str(error))
            return
        self.took.append((began, time.monotonic() - began))
        if answer.good:
            self.placed[name] = answer.document["id"]
        else:
            self.failed.append(f"{answer.status} {answer.body.decode()}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.moves", description=__doc__.splitlines()[0])
    parser.add_argument("--moves", type=int, default=50, help="how many (%(default)s)")
    parser.add_argument("--rows", type=int, default=100_000, help="of the store that moves (%(default)s)")
    parser.add_argument("--clients", type=int, default=4, help="of each store (%(default)s)")
    parser.add_argument("--per-second", type=float, default=10.0, help="orders of each client (%(default)s)")
    options = parser.parse_args(arguments)
    servers = Servers(config.load().var)
    moving, staying = open_stores(servers, 1)
    values = {"store": moving.store_id, "rows": options.rows // 3}
    with servers.connect(servers.primary(moving.shard)) as connection:
        for statement in (_FILL, _ORDERS, _LINES):
            connection.execute(statement, values)
    loads = [Load(store, servers.address, options.clients, options.per_second) for store in (moving, staying)]
    for load in loads:
        load.start()
    try:
        began = time.monotonic()
        moves = [_move(servers, moving, number) for number in range(options.moves)]
        ended = time.monotonic()
        time.sleep(min(60.0, ended - began))
        quiet = time.monotonic()
    finally:
        for load in loads:
            load.stop()
    home = str(moves[-1]["to_shard"])
    with servers.connect(servers.primary(home)) as connection:
        for statement in (_NO_LINES, _NO_ORDERS):
            connection.execute(statement, values)
    now = Store(home, moving.store_id, moving.merchant, moving.products)
    checked = audit(servers, [now, staying], loads[0].placed | loads[1].placed)
    failed = [reason for load in loads for reason in load.failed]
    _report(moves, loads, (began, ended, quiet))
    print(f"\nfailed requests: {len(failed)}; {checked}")
    for reason in failed[:5]:
        print(f"  {reason}")
    return 0 if not failed and checked.clean and all(move["state"] == "done" for move in moves) else 1


def _move(servers: Servers, store: Store, number: int) -> dict[str, object]:
    """One move to the other shard, once it is over."""
    with Wire(servers.address) as wire:
        route = good(wire, "GET", f"/v1/admin/stores/{store.store_id}/route", servers.operator)
        target = next(shard for shard in servers.shards if shard != route["shard"])
        body = {"store_id": store.store_id, "to_shard": target}
        move = good(wire, "POST", "/v1/admin/moves", servers.operator, body)
        while move["finished_at"] is None:
            time.sleep(0.1)
            move = good(wire, "GET", f"/v1/admin/moves/{move['id']}", servers.operator)
    print(
        f"{number}: {move['state']} {move['rows_copied']} rows, pause {move['write_pause_ms']} ms",
        file=sys.stderr,
    )
    found: dict[str, object] = move
    return found


def _report(moves: list[dict[str, object]], loads: list[Load], times: tuple[float, float, float]) -> None:
    began, ended, quiet = times
    pauses = [float(str(move["write_pause_ms"])) for move in moves]
    shares = [100 * float(str(move["verify_ms"])) / pause for move, pause in zip(moves, pauses, strict=True)]
    # What the clients of the store that moved saw: of each move the slowest of their requests.
    print("\n| | p50 | p99 | worst |\n| --- | ---: | ---: | ---: |")
    for name, values in (
        ("pause by the mover, ms", pauses),
        ("of it for comparing, %", shares),
        ("orders of the store that moves, ms", loads[0].between(began, ended)),
        ("the same with nothing moving", loads[0].between(ended, quiet)),
        ("orders of the store that stays, ms", loads[1].between(began, ended)),
        ("the same with nothing moving", loads[1].between(ended, quiet)),
    ):
        cuts = quantiles(values, n=100, method="inclusive") if len(values) > 1 else values * 99
        print(f"| {name} | {cuts[49]:.1f} | {cuts[98]:.1f} | {max(values):.1f} |")
    print(f"\n{len(moves)} moves in {ended - began:.0f} s")


if __name__ == "__main__":
    sys.exit(main())

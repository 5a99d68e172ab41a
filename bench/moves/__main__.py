"""What moving a store promises, as figures of a running `make up`: a large store goes back and forth under load.

    make up                                                        # in another terminal
    .venv/bin/python -m bench.moves --moves 50 --rows 100000

Clients read and write the store that moves, and one on each shard that does not, a fixed number of times a second each.
After each move nothing moves for a part of the time that it took, so that whatever else the machine has to do troubles
both alike.
Tables in Markdown. Exits with 1 where a request failed, a move did, or an order is lost or doubled.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import config
from bench.moves.load import Load
from bench.moves.report import report
from bench.moves.watch import STILL, Watch
from bench.replicas.stores import Store, audit, good, open_stores
from lab.servers import Servers, wait_for
from lab.wire import Wire

PRODUCTS = 20
LONGEST_MOVE_SECONDS = 600.0
# Until caches, pools and plans are as they will be.
WARM_UP_SECONDS = 3.0

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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.moves", description=__doc__.splitlines()[0])
    parser.add_argument("--moves", type=int, default=50, help="how many (%(default)s)")
    parser.add_argument("--rows", type=int, default=100_000, help="of the store that moves (%(default)s)")
    parser.add_argument("--clients", type=int, default=2, help="of each store (%(default)s)")
    parser.add_argument(
        "--per-second", type=float, default=10.0, help="requests of each client (%(default)s)"
    )
    parser.add_argument("--undo-seconds", type=float, default=1.0, help="after each move (%(default)s)")
    parser.add_argument(
        "--still", type=float, default=1.0, help="nothing moves for so many times a move (%(default)s)"
    )
    options = parser.parse_args(arguments)
    servers = Servers(config.load().var)
    moving, *others = open_stores(servers, PRODUCTS)[:1] + open_stores(servers, PRODUCTS)
    values = {"store": moving.store_id, "rows": options.rows // 3}
    with servers.connect(servers.primary(moving.shard)) as connection:
        for statement in (_FILL, _ORDERS, _LINES):
            connection.execute(statement, values)
        connection.execute("VACUUM (ANALYZE) customers, orders, order_items")
    loads = [Load(store, servers.address, options.clients, options.per_second) for store in (moving, *others)]
    with Watch(servers) as watch:
        for load in loads:
            load.start()
        try:
            time.sleep(WARM_UP_SECONDS)
            for load in loads:
                load.samples.clear()
            moves = []
            for number in range(options.moves):
                began = time.monotonic()
                moves.append(_move(servers, watch, moving, number, options.undo_seconds))
                time.sleep(options.still * (time.monotonic() - began))
        finally:
            for load in loads:
                load.stop()
    home = str(moves[-1]["to_shard"])
    with servers.connect(servers.primary(home)) as connection:
        for statement in (_NO_LINES, _NO_ORDERS):
            connection.execute(statement, values)
    now = Store(home, moving.store_id, moving.merchant, moving.products)
    placed = {key: order for load in loads for key, order in load.placed.items()}
    checked = audit(servers, [now, *others], placed)
    failed = [reason for load in loads for reason in load.failed]
    print(report(moves, loads[0], loads[1:], watch))
    requests = sum(len(load.samples) for load in loads)
    server_errors = sum(": 5" in reason[:12] for reason in failed)
    print(
        f"\n{len(moves)} moves; requests: {requests}, failed: {len(failed)}, of them 5xx: {server_errors}; {checked}"
    )
    for reason in failed[:5]:
        print(f"  {reason}")
    return 0 if not failed and checked.clean and all(move["state"] == "done" for move in moves) else 1


def _move(servers: Servers, watch: Watch, store: Store, number: int, undo_seconds: float) -> dict[str, Any]:
    """One move to the other shard, once nothing of it is left."""
    with Wire(servers.address) as wire:
        route = good(wire, "GET", f"/v1/admin/stores/{store.store_id}/route", servers.operator)
        target = next(shard for shard in servers.shards if shard != route["shard"])
        body = {"store_id": store.store_id, "to_shard": target}
        began = time.monotonic()
        move: dict[str, Any] = good(wire, "POST", "/v1/admin/moves", servers.operator, body)
        wait_for(lambda: watch.now() != STILL, "the move begins")
        while move["finished_at"] is None:
            time.sleep(0.1)
            move = good(wire, "GET", f"/v1/admin/moves/{move['id']}", servers.operator)
    switched = time.monotonic() - began
    watch.end_undoing(str(move["id"]), undo_seconds)
    wait_for(lambda: watch.now() == STILL, "the move is tidied up", LONGEST_MOVE_SECONDS)
    print(
        f"{number}: {move['state']} {move['rows_copied']} rows in {switched:.1f} s, tidied after"
        f" {time.monotonic() - began:.1f} s, pause {move['write_pause_ms']} ms",
        file=sys.stderr,
    )
    return move


if __name__ == "__main__":
    sys.exit(main())

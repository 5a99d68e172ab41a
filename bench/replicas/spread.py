"""`spread`: which nodes answer reads while all is well, without writes and just after one."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bench.replicas.stores import TOKEN, Store, open_stores
from bench.table import table
from lab.servers import Servers
from lab.wire import Wire

MOST_ON_PRIMARIES = 0.05
MOST_OUT_OF_BALANCE = 0.05
CONNECTION_LASTS = 25


def spread(servers: Servers, options: argparse.Namespace) -> bool:
    """Reads by node, on each shard; the share on its primary, and how far its replicas are from even."""
    servers.switch("read_replicas", enabled=True)
    stores = open_stores(servers, options.clients)
    well, rows, shares = True, [], []
    for name, read in (("reads alone", _read), ("each just after a write", _write_and_read)):
        for store in stores:
            nodes = _count(servers, store, read, options)
            primary = servers.primary(store.shard)
            replicas = [nodes[node] for node in servers.of_shard(store.shard) if node != primary]
            on_primary = nodes[primary] / nodes.total()
            even = sum(replicas) / len(replicas)
            astray = max(abs(count - even) for count in replicas) / even if even else 1.0
            well &= on_primary <= MOST_ON_PRIMARIES and astray <= MOST_OUT_OF_BALANCE
            rows += [
                (f"{name}, {node}", role(node, primary), nodes[node])
                for node in servers.of_shard(store.shard)
            ]
            shares.append((f"{name}, {store.shard}", f"{on_primary:.1%}", f"{astray:.1%}"))
    print(table(("reads", "role", "answered"), rows))
    print(table(("", "on the primary", "a replica's furthest from even"), shares))
    return well


def role(node: str, primary: str) -> str:
    return "primary" if node == primary else "replica"


Read = Callable[[Wire, Wire, Store, str], str]


def _read(_writes: Wire, reads: Wire, store: Store, product: str) -> str:
    answer = reads.request("GET", f"{store.path}/products/{product}")
    return answer.headers["x-served-by"]


def _write_and_read(writes: Wire, reads: Wire, store: Store, product: str) -> str:
    path = f"{store.path}/products/{product}"
    wrote = writes.request("PATCH", path, store.merchant, {"price": 1})
    return reads.request("GET", path, {TOKEN: wrote.headers[TOKEN.lower()]}).headers["x-served-by"]


def _count(servers: Servers, store: Store, read: Read, options: argparse.Namespace) -> Counter[str]:
    def client(product: str) -> Counter[str]:
        wires = [Wire(servers.address, lasts=CONNECTION_LASTS) for _ in range(2)]
        with wires[0] as writes, wires[1] as reads:
            each = range(options.reads // options.clients)
            return Counter(read(writes, reads, store, product) for _ in each)

    total: Counter[str] = Counter()
    with ThreadPoolExecutor(options.clients) as threads:
        for counted in threads.map(client, store.products):
            total += counted
    return total

"""`delay`: what a token costs a write and a guard a read, where PostgreSQL is 10 ms away; and their round trips.

First the statements alone, in the flights the router sends them in, beside other ways to send them; then the service.
"""

from __future__ import annotations

import argparse
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

import config
from bench.replicas.slow_network import Proxies, catalog, proxies
from bench.replicas.stores import TOKEN, Store, open_stores
from bench.service import HOST, service
from bench.table import table
from lab.servers import Servers
from lab.wire import Wire
from pools.connection import ShardConnection
from pools.flight import flight
from sql import query as named

WRITE_LIMIT, READ_LIMIT = 1.05, 1.1
WARM = 20

Statement = tuple[str, Mapping[str, Any]]


def delay(servers: Servers, options: argparse.Namespace) -> bool:
    """Both tables; whether the first keeps the limits."""
    servers.switch("read_replicas", enabled=True)
    with proxies(servers, options.round_trip_ms) as between:
        store = open_stores(servers, products=1)[0]
        figures = _statements(servers, between, store, options.count)
        rows = [(name, f"{ms:.1f}", f"{trips:.2f}") for name, (ms, trips) in figures.items()]
        print(table((f"statements, {options.round_trip_ms:g} ms away", "p50, ms", "round trips"), rows))
        with catalog(servers, between.ports) as dsn, service(servers.var, CATALOG_DSN=dsn) as served:
            print(
                table(
                    ("requests", "p50, ms", "by replicas"),
                    _requests(servers.served_at(served.address), options.count),
                )
            )
    write = figures["write, position in its flight"][0] / figures["write, no position"][0]
    read = figures["read, guard in its flight"][0] / figures["read, no guard"][0]
    print(f"write with token / without: {write:.3f} (limit {WRITE_LIMIT})")
    print(f"guarded read / unguarded: {read:.3f} (limit {READ_LIMIT})")
    return write <= WRITE_LIMIT and read <= READ_LIMIT


def _statements(
    servers: Servers, between: Proxies, store: Store, count: int
) -> dict[str, tuple[float, float]]:
    """By name: p50 in ms, and round trips."""
    primary = servers.primary(store.shard)
    replica = servers.replicas(store.shard)[0]
    what = {"store_id": uuid.UUID(store.store_id), "product_id": uuid.UUID(store.products[0])}
    nothing = dict.fromkeys(("title", "description", "price", "stock", "attributes", "versions"))
    begin: Statement = ("BEGIN", {})
    commit: Statement = ("COMMIT", {})
    fence = (named("fence_store").text, {**what, "epoch": 2**62})
    update = (named("update_product").text, {**what, **nothing, "price": 7})
    position: Statement = (named("read_position").text, {})
    guard = (named("await_replay").text, {"wanted": 1, "patience_ms": 10})
    read = (named("read_product").text, what)
    write = (begin, fence, update, commit)
    kinds: dict[str, tuple[str, Sequence[Sequence[Statement]]]] = {
        "write, no position": (primary, [write]),
        "write, position in its flight": (primary, [(*write, position)]),
        "write, position asked for after it": (primary, [write, (position,)]),
        "write, statement by statement, then position": (primary, [(each,) for each in (*write, position)]),
        "read, no guard": (replica, [(read,)]),
        "read, guard in its flight": (replica, [(guard, read)]),
        "read, guard asked first": (replica, [(guard,), (read,)]),
    }
    connections = {node: _connect(servers, node, between.ports[node]) for node in (primary, replica)}
    try:
        work = {name: _sender(connections[node], flights) for name, (node, flights) in kinds.items()}
        return _measure(work, between, count)
    finally:
        for connection in connections.values():
            connection.close()


def _connect(servers: Servers, node: str, port: int) -> ShardConnection:
    settings = config.load()
    given = conninfo_to_dict(servers.conninfo(node))
    own = make_conninfo(
        host=HOST,
        port=port,
        dbname=given["dbname"],
        user=settings.database_user,
        password=settings.database_password,
    )
    return ShardConnection.connect(own, autocommit=True)


def _sender(connection: ShardConnection, flights: Sequence[Sequence[Statement]]) -> Callable[[], None]:
    def send() -> None:
        for statements in flights:
            with flight(connection):
                for text, parameters in statements:
                    connection.execute(text, parameters, prepare=True)

    return send


def _measure(
    work: Mapping[str, Callable[[], None]], between: Proxies, count: int
) -> dict[str, tuple[float, float]]:
    """Each kind in turn, so that whatever else the machine does meets all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    trips = dict.fromkeys(work, 0)
    for send in work.values():
        for _ in range(WARM):
            send()
    for _ in range(count):
        for name, send in work.items():
            before = between.round_trips()
            began = time.perf_counter()
            send()
            seconds[name].append(time.perf_counter() - began)
            trips[name] += between.round_trips() - before
    return {name: (median(seconds[name]) * 1000, trips[name] / count) for name in work}


def _requests(servers: Servers, count: int) -> list[tuple[str, str, str]]:
    """The service's, one after the other: a write, a read of who has written, a read of who has not."""
    servers.switch("read_replicas", enabled=True)
    store = open_stores(servers, products=1)[0]
    path = f"{store.path}/products/{store.products[0]}"
    primary = servers.primary(store.shard)
    seconds: dict[str, list[float]] = {
        "write": [],
        "read with its token, at once": [],
        "read without a token": [],
    }
    by_replicas = dict.fromkeys(seconds, 0)
    with Wire(servers.address) as wire:
        for number in range(WARM + count):
            token: dict[str, str] = {}
            for kind, samples in seconds.items():
                began = time.perf_counter()
                if kind == "write":
                    answer = wire.request("PATCH", path, store.merchant, {"price": number})
                    token = {TOKEN: answer.headers[TOKEN.lower()]}
                else:
                    answer = wire.request("GET", path, token if "its token" in kind else {})
                if number >= WARM:
                    samples.append(time.perf_counter() - began)
                    by_replicas[kind] += answer.headers.get("x-served-by") != primary
    return [
        (kind, f"{median(samples) * 1000:.1f}", f"{by_replicas[kind] / count:.0%}")
        for kind, samples in seconds.items()
    ]

"""`lost`: a write is acknowledged by a primary that no replica hears, the primary dies, a replica is promoted and its
log grows beyond that write's position. By numbers alone the write is "replayed"; it is gone.

Every read that brings its token, and nothing newer, has to be counted as one that asks for a lost write.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial

from bench.replicas.stores import TOKEN, Store, open_stores
from bench.table import table
from lab.servers import Servers, wait_for
from lab.wire import Wire

READS = 20
_POSITION = "SELECT (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint"
_GROW = "SELECT pg_logical_emit_message(true, 'growth', repeat('x', 100000))"
_SETTINGS = ("synchronous_standby_names", "primary_conninfo")


def lost(servers: Servers, options: argparse.Namespace) -> bool:
    """So many lost writes, on each shard in turn."""
    servers.switch("read_replicas", enabled=True)
    stores = open_stores(servers, products=1)
    reads, unreported, seen, deceived = 0, 0, 0, 0
    for number in range(options.times):
        store = next((each for each in stores if each.shard == options.shard), stores[number % len(stores)])
        token, version, deceives = _lose(servers, store)
        reported, had_it = _read(servers, store, token, version)
        reads += READS
        unreported += READS - reported
        seen += had_it
        deceived += deceives
        servers.await_whole(store.shard)
        _reset(servers, store.shard)
        print(f"{number + 1}: {READS} reads, {reported} reported as of a lost write", file=sys.stderr)
    heads = ("writes lost", "reads with the write's token", "called replayed", 'by numbers alone "replayed"')
    print(table(heads, [(options.times, reads, unreported, f"{deceived} of {options.times}")]))
    if seen:
        print(f"{seen} reads saw the write: it was not lost, and nothing has been shown")
    return unreported == 0 and seen == 0 and deceived == options.times


def _lose(servers: Servers, store: Store) -> tuple[str, int, bool]:
    """The token and the version of a write that is lost, and whether the new primary's position is beyond its own."""
    old = servers.primary(store.shard)
    new, *others = servers.replicas(store.shard)
    for node in (*others, new):  # the one to be promoted last: who has more than it could not follow it
        _alter(servers, node, "SET primary_conninfo = ''")
        wait_for(partial(_hears_nobody, servers, node), f"{node} is detached")
    _alter(servers, old, "SET synchronous_standby_names = ''")
    with Wire(servers.address) as wire:
        answer = None

        def acknowledged() -> bool:
            nonlocal answer
            path = f"{store.path}/products/{store.products[0]}"
            answer = wire.request("PATCH", path, store.merchant, {"price": 2})
            return answer.good

        wait_for(acknowledged, "the detached primary acknowledges a write")
        assert answer is not None
        token, version = answer.headers[TOKEN.lower()], answer.document["version"]
    ((position,),) = servers.sql(old, _POSITION)
    servers.kill(old)
    servers.sql(new, "SELECT pg_promote()")
    for node in (*others, new):
        _alter(servers, node, "RESET primary_conninfo")
    wait_for(lambda: _count(servers, new, "pg_stat_replication") > 0, f"{others[0]} follows {new}")
    while servers.sql(new, _POSITION)[0][0] <= position:
        servers.sql(new, _GROW)
    return token, version, servers.sql(new, _POSITION)[0][0] > position


def _read(servers: Servers, store: Store, token: str, version: int) -> tuple[int, int]:
    """How many reads with this token were counted as of a lost write, and how many saw it all the same."""
    path = f"{store.path}/products/{store.products[0]}"
    with Wire(servers.address) as wire:
        wait_for(lambda: wire.request("GET", path).good, f"{store.shard} answers")
    before = reported = _reported(servers)
    seen = answered = 0
    while answered < READS:
        with Wire(servers.address) as wire:  # by whichever worker takes the connection
            answer = wire.request("GET", path, {TOKEN: token})
        if not answer.good:
            time.sleep(0.05)
            continue
        answered += 1
        seen += answer.document["version"] >= version
    reported = _reported(servers) - before
    return min(reported, READS), seen


def _reported(servers: Servers) -> int:
    """By all workers together."""
    with Wire(servers.address) as wire:
        text = wire.request("GET", "/metrics").body.decode()
    lines = [line.split() for line in text.splitlines() if line.startswith("lost_writes_total")]
    return int(sum(float(value) for _, value in lines))


def _alter(servers: Servers, node: str, change: str) -> None:
    servers.insist(node, f"ALTER SYSTEM {change}")
    servers.insist(node, "SELECT pg_reload_conf()")


def _reset(servers: Servers, shard: str) -> None:
    """What was altered stays with a node, also on its way back as a replica."""
    for node in servers.of_shard(shard):
        for name in _SETTINGS:
            _alter(servers, node, f"RESET {name}")
    servers.await_whole(shard)


def _hears_nobody(servers: Servers, node: str) -> bool:
    return _count(servers, node, "pg_stat_wal_receiver") == 0


def _count(servers: Servers, node: str, view: str) -> int:
    ((count,),) = servers.sql(node, f"SELECT count(*) FROM {view}")  # noqa: S608 - one of two names
    return int(count)

"""`pairs`: write, then read what was written, on another connection; how many reads did not see it?

Just after the write the primary answers where the replicas are late. So a token is used once more when it is about as
old as they are late: then they begin to have the write, and are asked.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from statistics import median

from bench.replicas.stores import TOKEN, Store, open_stores
from bench.table import table
from lab.servers import Servers, wait_for
from lab.wire import DroppedError, Wire

CARRIED = ("header", "cookie", "credential")
# Requests on one connection before another worker may get the next.
CONNECTION_LASTS = 25
RESTART_EVERY_SECONDS = 3.0
# After the last write, for which the credential alone has to do: longer than other systems remember (30 s).
AGAIN_AFTER_SECONDS = 35


@dataclass(slots=True)
class Outcome:
    """What became of the pairs of one client, or of all. `nodes`: who answered the reads, one a pair."""

    pairs: int = 0
    stale: int = 0
    unanswered: int = 0  # refused, or the connection ended: nothing was read, so nothing was wrong
    nodes: Counter[str] = field(default_factory=Counter)
    write_seconds: list[float] = field(default_factory=list)
    read_seconds: list[float] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        self.pairs += other.pairs
        self.stale += other.stale
        self.unanswered += other.unanswered
        self.nodes += other.nodes
        self.write_seconds += other.write_seconds
        self.read_seconds += other.read_seconds


class Client:
    """Writes and reads one product, its own, with a credential of its own; two connections, so often two workers."""

    def __init__(self, servers: Servers, store: Store, product: str) -> None:
        self._writes, self._reads = (Wire(servers.address, lasts=CONNECTION_LASTS) for _ in range(2))
        self._path = f"{store.path}/products/{product}"
        self._key = store.another_key(self._writes)
        self._written = 0
        self._choice = Random(product)  # noqa: S311
        self._kept: deque[tuple[float, dict[str, str], int]] = deque()  # when, carried how, version

    def work(self, carry: str, pairs: int, delay_seconds: float) -> Outcome:
        outcome = Outcome()
        self._kept.clear()
        while outcome.pairs < pairs:
            try:
                self._pair(carry, outcome)
                if carry != "credential":  # which stands for the latest write, always
                    self._look_with_an_old_token(delay_seconds, outcome)
            except DroppedError:
                outcome.unanswered += 1
        return outcome

    def _look_with_an_old_token(self, delay_seconds: float, outcome: Outcome) -> None:
        age = time.monotonic() - delay_seconds * self._choice.uniform(0.8, 1.2)
        while self._kept and self._kept[0][0] <= age:
            _, headers, version = self._kept.popleft()
            if not self._kept or self._kept[0][0] > age:
                self._look(headers, version, outcome)

    def _pair(self, carry: str, outcome: Outcome) -> None:
        began = time.perf_counter()
        wrote = self._writes.request("PATCH", self._path, self._key, {"price": outcome.pairs})
        if not wrote.good:
            outcome.unanswered += 1
            return
        outcome.write_seconds.append(time.perf_counter() - began)
        self._written = wrote.document["version"]
        token = wrote.headers[TOKEN.lower()]
        headers = {
            "header": {TOKEN: token},
            "cookie": {"Cookie": f"{TOKEN}={token}"},
            "credential": self._key,
        }
        self._kept.append((time.monotonic(), headers[carry], self._written))
        self._look(headers[carry], self._written, outcome)

    def _look(self, headers: dict[str, str], written: int, outcome: Outcome) -> None:
        began = time.perf_counter()
        read = self._reads.request("GET", self._path, headers)
        if not read.good and read.status != 404:  # noqa: PLR2004
            outcome.unanswered += 1
            return
        outcome.pairs += 1
        outcome.read_seconds.append(time.perf_counter() - began)
        outcome.nodes[read.headers["x-served-by"]] += 1
        outcome.stale += not read.good or read.document["version"] < written

    def again(self) -> Outcome:
        """Read the last write once more, by the credential alone."""
        outcome = Outcome()
        while outcome.pairs == 0:
            with suppress(DroppedError):
                self._look(self._key, self._written, outcome)
        return outcome

    def close(self) -> None:
        self._writes.close()
        self._reads.close()


def pairs(servers: Servers, options: argparse.Namespace) -> bool:
    """So many pairs in all, over every delay of the replicas and every way to carry consistency."""
    servers.switch("read_replicas", enabled=True)
    stores = open_stores(servers, options.clients)
    clients = [
        Client(servers, stores[number % len(stores)], stores[number % len(stores)].products[number])
        for number in range(options.clients)
    ]
    each = -(-options.pairs // (len(options.delays) * len(CARRIED) * len(clients)))
    primaries = {servers.primary(shard) for shard in servers.shards}
    rows, stale = [], 0
    try:
        with _restarting(servers, enabled=options.restart_workers) as restarts:
            for seconds in options.delays:
                servers.delay_replay(int(seconds * 1000))
                outcomes = [(carry, *_all(clients, carry, each, seconds)) for carry in CARRIED]
                if seconds > AGAIN_AFTER_SECONDS:
                    time.sleep(AGAIN_AFTER_SECONDS)
                    outcomes.append(
                        (f"credential, {AGAIN_AFTER_SECONDS} s later", *_all(clients, None, 1, seconds))
                    )
                for carry, outcome, took in outcomes:
                    rows.append((f"{seconds:g} s, {carry}", *_row(outcome, took, primaries)))
                    stale += outcome.stale
                    print(rows[-1], file=sys.stderr)
    finally:
        servers.delay_replay(0)
        for client in clients:
            client.close()
    print(
        table(("replicas' delay, carried by", "reads", "stale", "by replicas", "unanswered", *_TIMES), rows)
    )
    if options.restart_workers:
        print(f"workers ended meanwhile: {restarts[0]}")
    return stale == 0


_TIMES = ("write p50, ms", "read p50, ms", "reads/s")


def _row(outcome: Outcome, took: float, primaries: set[str]) -> tuple[object, ...]:
    by_replicas = sum(count for node, count in outcome.nodes.items() if node not in primaries)
    return (
        outcome.pairs,
        outcome.stale,
        f"{by_replicas / outcome.pairs:.0%}",
        outcome.unanswered,
        f"{median(outcome.write_seconds or [0]) * 1000:.1f}",
        f"{median(outcome.read_seconds) * 1000:.1f}",
        f"{outcome.pairs / took:.0f}",
    )


def _all(clients: list[Client], carry: str | None, count: int, delay_seconds: float) -> tuple[Outcome, float]:
    """Every client's pairs together, and the seconds they took; `carry` None: only reading again."""
    began, total = time.monotonic(), Outcome()
    with ThreadPoolExecutor(len(clients)) as threads:
        if carry is None:
            running = [threads.submit(client.again) for client in clients]
        else:
            running = [threads.submit(client.work, carry, count, delay_seconds) for client in clients]
        for future in running:
            total.add(future.result())
    return total, time.monotonic() - began


@contextmanager
def _restarting(servers: Servers, *, enabled: bool) -> Iterator[list[int]]:
    """Meanwhile a worker ends every few seconds, in turn asked to and killed; how many have."""
    done, count = threading.Event(), [0]

    def run() -> None:
        size = len(servers.workers())
        while not done.wait(RESTART_EVERY_SECONDS):
            workers = servers.workers()
            number = (signal.SIGTERM, signal.SIGKILL)[count[0] % 2]
            with suppress(ProcessLookupError):
                os.kill(workers[count[0] % len(workers)].pid, number)
                count[0] += 1
            wait_for(lambda: len(servers.workers()) >= size or done.is_set(), "the worker is replaced")

    thread = threading.Thread(target=run)
    if enabled:
        thread.start()
    try:
        yield count
    finally:
        done.set()
        if enabled:
            thread.join()

"""One store with most of all traffic: what the others notice, without and with its limit, before and after a rebalance.

    make up                                              # in another terminal
    .venv/bin/python -m bench.hot_store                  # prints a table in Markdown
    .venv/bin/python -m bench.hot_store --no-rebalance

Requests come at a fixed total rate, whether the service keeps up or not (an open model), and each is timed from when it
was due. Two services of the same code stand before the running servers, one that lets everybody wait in one line
(STORE_POOL_SHARE=0), one with the default; they are asked in turns, in short blocks, and the figures are of all blocks.
The whale is asked what the other stores are; then, a sale, for orders of one and the same product, of which each waits
for the one before it and holds a connection meanwhile: that is what fills a shard's pool. In between `flask shards
rebalance` moves other stores away from it.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from statistics import quantiles
from uuid import uuid4

import config
from bench.replicas.stores import UNITS, good
from bench.service import service
from bench.table import table
from lab.servers import Servers
from lab.wire import Answer, DroppedError, Wire

PRODUCTS = 10  # of each store
# So many that those who wait for an answer keep nobody else from asking: as many as may wait for a pool, and more.
CLIENTS = 150
LISTS, READS = 0.6, 0.2  # of the requests; the rest are orders
TOO_BUSY = 503
_POOL = re.compile(r"\bpool;dur=([0-9.]+)")


@dataclass(frozen=True, slots=True)
class Store:
    store_id: str
    merchant: dict[str, str]
    products: tuple[str, ...]

    @property
    def path(self) -> str:
        return f"/v1/stores/{self.store_id}"


@dataclass(slots=True)
class Answers:
    """Of one group of stores: milliseconds since each was due, and of it in the pool's line; what was not answered."""

    took: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    refused: int = 0
    failed: int = 0

    def __iadd__(self, other: Answers) -> Answers:
        self.took += other.took
        self.waited += other.waited
        self.refused += other.refused
        self.failed += other.failed
        return self

    def cells(self) -> tuple[str, ...]:
        return (
            f"{_of(self.took, 50):.1f}",
            f"{_of(self.took, 99):.0f}",
            f"{_of(self.waited, 99):.1f}",
            f"{self.refused}",
        )


def _of(values: list[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Due:
    at: float
    store: Store
    sale: bool


class Crowd:
    """Clients that send a list of requests, each when it is due, or as soon after as one of them is free."""

    def __init__(self, address: str, dues: Sequence[Due], chance: random.Random) -> None:
        self.answers: dict[str, Answers] = {}
        self._address = address
        self._dues = dues
        self._chance = chance
        self._next = count()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(min(CLIENTS, len(dues)))]

    def start(self, began: float) -> None:
        self._began = began
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        with Wire(self._address, lasts=50) as wire:
            while (number := next(self._next)) < len(self._dues):
                due = self._dues[number]
                at = self._began + due.at
                time.sleep(max(0.0, at - time.monotonic()))
                answer = self._send(wire, due)
                took = 1000 * (time.monotonic() - at)
                with self._lock:
                    self._note(self.answers.setdefault(due.store.store_id, Answers()), answer, took)

    @staticmethod
    def _note(answers: Answers, answer: Answer | None, took: float) -> None:
        if answer is not None and answer.good:
            answers.took.append(took)
            if found := _POOL.search(answer.headers.get("server-timing", "")):
                answers.waited.append(float(found[1]))
        elif answer is not None and answer.status == TOO_BUSY:
            answers.refused += 1
        else:
            answers.failed += 1

    def _send(self, wire: Wire, due: Due) -> Answer | None:
        """None: the connection ended before there was one."""
        store, kind = due.store, self._chance.random()
        product = self._chance.choice(store.products)
        if due.sale:
            kind, product = 1.0, store.products[0]
        try:
            if kind < LISTS:
                return wire.request("GET", f"{store.path}/products?limit=20")
            if kind < LISTS + READS:
                return wire.request("GET", f"{store.path}/products/{product}")
            body = {"items": [{"product_id": product, "quantity": 1}]}
            key = {**store.merchant, "Idempotency-Key": uuid4().hex}
            return wire.request("POST", f"{store.path}/orders", key, body)
        except DroppedError:
            return None


class Bench:
    def __init__(self, servers: Servers, options: argparse.Namespace) -> None:
        self.servers = servers
        self.options = options
        with Wire(servers.address) as wire:
            self.whale, *self.others = [self._open(wire) for _ in range(options.stores)]
        for shard in servers.shards:
            servers.await_whole(shard)

    def _open(self, wire: Wire) -> Store:
        made = good(wire, "POST", "/v1/stores", self.servers.operator, {"name": "Bench", "currency": "EUR"})
        merchant = {"Authorization": f"Bearer {made['api_key']}"}
        path = f"/v1/stores/{made['id']}/products"
        product = {"price": 1, "stock": UNITS}
        ids = [
            good(wire, "POST", path, merchant, product | {"title": f"Mug {n}"})["id"] for n in range(PRODUCTS)
        ]
        return Store(made["id"], merchant, tuple(ids))

    def _homes(self, wire: Wire) -> dict[str, str]:
        return {
            store.store_id: good(
                wire, "GET", f"/v1/admin/stores/{store.store_id}/route", self.servers.operator
            )["shard"]
            for store in (self.whale, *self.others)
        }

    def block(self, address: str, whales_share: float, chance: random.Random, *, sale: bool) -> list[Answers]:
        """One load, for a while: the others on the whale's shard, those elsewhere, the whale."""
        homes, rate = self.homes, self.options.rate
        groups = [
            list(self._dues([self.whale], rate * whales_share, chance, sale=sale)),
            list(self._dues(self.others, rate * (1 - whales_share), chance, sale=False)),
        ]
        crowds = [Crowd(address, dues, chance) for dues in groups]
        began = time.monotonic() + 0.2
        for crowd in crowds:
            crowd.start(began)
        for crowd in crowds:
            crowd.join()
        found = [Answers(), Answers(), crowds[0].answers.get(self.whale.store_id, Answers())]
        for store_id, answers in crowds[1].answers.items():
            found[homes[store_id] != homes[self.whale.store_id]] += answers
        return found

    def _dues(
        self, stores: Sequence[Store], rate: float, chance: random.Random, *, sale: bool
    ) -> Iterator[Due]:
        at = chance.expovariate(rate)
        while at < self.options.seconds:
            yield Due(at, chance.choice(stores), sale)
            at += chance.expovariate(rate)

    def run(self) -> list[tuple[str, ...]]:
        with ExitStack() as opened:
            in_line, by_turns = (
                opened.enter_context(service(self.servers.var, **settings)).address
                for settings in ({"STORE_POOL_SHARE": "0"}, {})
            )
            rows = self._rows("", {"off": in_line, "on": by_turns})
            if not self.options.no_rebalance:
                self._rebalance()
                rows += self._rows(", rebalanced", {"off": in_line, "on": by_turns})
        return rows

    def _rows(self, when: str, services: dict[str, str]) -> list[tuple[str, ...]]:
        even, share = 1 / self.options.stores, self.options.share
        loads = {"even": (even, False), f"{share:.0%}": (share, False), f"{share:.0%}, a sale": (share, True)}
        with Wire(self.servers.address) as wire:
            self.homes = self._homes(wire)
        beside = sum(self.homes[store.store_id] == self.homes[self.whale.store_id] for store in self.others)
        found = {(load, limit): [Answers() for _ in range(3)] for load in loads for limit in services}
        chance = random.Random(self.options.random_seed)  # noqa: S311 - not a secret
        for number in range(-1, self.options.rounds):
            for load, (whales_share, sale) in loads.items():
                for limit in sorted(services, reverse=number % 2 == 0):
                    block = self.block(services[limit], whales_share, chance, sale=sale)
                    if number < 0:  # statements are prepared, connections made
                        continue
                    for answers, more in zip(found[load, limit], block, strict=True):
                        answers += more  # noqa: PLW2901 - in place
            print(f"{number + 1} of {self.options.rounds} rounds{when}", file=sys.stderr)
        for (load, limit), groups in found.items():
            if failed := sum(answers.failed for answers in groups):
                print(f"{load}{when}, limit {limit}: {failed} requests failed", file=sys.stderr)
        return [
            (f"{load}{when}", limit, f"{beside}", *(cell for answers in groups for cell in answers.cells()))
            for (load, limit), groups in found.items()
        ]

    def _rebalance(self) -> None:
        command = [sys.executable, "-m", "flask", "--app", "app", "shards", "rebalance"]
        ran = subprocess.run(command, cwd=config.ROOT, capture_output=True, text=True, check=False)
        print(ran.stdout, ran.stderr, sep="\n", file=sys.stderr)
        if ran.returncode:
            raise SystemExit("flask shards rebalance failed; --no-rebalance does without it")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.hot_store", description=__doc__.splitlines()[0])
    parser.add_argument("--stores", type=int, default=20, help="the whale among them (%(default)s)")
    parser.add_argument("--rate", type=float, default=150.0, help="requests a second in all (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a block (%(default)s)")
    parser.add_argument("--share", type=float, default=0.6, help="the whale's part of them (%(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="blocks of each load and service (%(default)s)")
    parser.add_argument("--random-seed", type=int, default=7, help="(%(default)s)")
    parser.add_argument("--no-rebalance", action="store_true", help="only without it")
    options = parser.parse_args()
    rows = Bench(Servers(config.load().var), options).run()
    groups = ("others beside the whale", "others elsewhere", "the whale")
    figures = ("p50, ms", "p99, ms", "in line p99, ms", "refused")
    print(
        table(
            [
                "the whale's part",
                "limit",
                "stores beside it",
                *(f"{g}: {f}" for g in groups for f in figures),
            ],
            rows,
        )
    )


if __name__ == "__main__":
    main()

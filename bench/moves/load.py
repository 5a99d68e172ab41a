"""Clients of one store, as shoppers and merchants use it: reads and writes mixed, so many a second each."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import uuid4

from bench.replicas.stores import Store
from lab.wire import DroppedError, Wire

# Of 100 requests: the contract's section 7 without the carts, which live in Redis and stay there.
SHARES = {"list": 35, "product": 20, "order": 10, "place": 15, "patch": 5}
WRITES = ("place", "patch")
READS = ("list", "product", "order")
ORDERS_ONLY = {"place": 1}
# A connection is made anew after so many requests, so that all workers get some.
_LASTS = 50


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: what, when by the wall clock, and how long in seconds."""

    kind: str
    began: float
    took: float

    @property
    def milliseconds(self) -> float:
        return 1000 * self.took

    @property
    def ended(self) -> float:
        return self.began + self.took


@dataclass(slots=True)
class Load:
    store: Store
    address: str
    clients: int
    per_second: float
    shares: Mapping[str, int] = field(default_factory=lambda: SHARES)
    samples: list[Sample] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    placed: dict[str, str] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        self.threads = [threading.Thread(target=self._run, args=[number]) for number in range(self.clients)]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def _run(self, number: int) -> None:
        pause, draw = 1 / self.per_second, random.Random(number)  # noqa: S311 - which request is next
        with Wire(self.address, lasts=_LASTS) as wire:
            client = _Client(self, wire, self.store.another_key(wire), draw)
            client.place()
            due = time.monotonic() + pause * draw.random()
            while not self.over.wait(max(0.0, due - time.monotonic())):
                due = max(due + pause, time.monotonic())
                (kind,) = draw.choices(tuple(self.shares), tuple(self.shares.values()))
                getattr(client, kind)()


@dataclass(slots=True)
class _Client:
    load: Load
    wire: Wire
    key: dict[str, str]
    draw: random.Random
    order_id: str = ""

    def list(self) -> None:
        self._send("list", "GET", "/products?limit=20")

    def product(self) -> None:
        self._send("product", "GET", f"/products/{self._any()}")

    def order(self) -> None:
        """Its own last."""
        self._send("order", "GET", f"/orders/{self.order_id}")

    def patch(self) -> None:
        self._send("patch", "PATCH", f"/products/{self._any()}", body={"price": self.draw.randint(1, 1000)})

    def place(self) -> None:
        name = uuid4().hex
        body = {"items": [{"product_id": self._any(), "quantity": 1}]}
        placed = self._send("place", "POST", "/orders", {"Idempotency-Key": name}, body)
        if placed is not None:
            self.load.placed[name] = self.order_id = placed

    def _any(self) -> str:
        return self.draw.choice(self.load.store.products)

    def _send(
        self, kind: str, method: str, path: str, more: dict[str, str] | None = None, body: object = None
    ) -> str | None:
        """The id in a good answer."""
        began, started = time.time(), time.monotonic()
        try:
            answer = self.wire.request(
                method, self.load.store.path + path, {**self.key, **(more or {})}, body
            )
        except DroppedError as error:
            self.load.failed.append(f"{kind}: {error}")
            return None
        self.load.samples.append(Sample(kind, began, time.monotonic() - started))
        if not answer.good:
            self.load.failed.append(f"{kind}: {answer.status} {answer.body.decode()}")
            return None
        found: str | None = answer.document.get("id")
        return found

"""The requests that are measured: each kind over a connection to each worker, one at a time, at a steady rate."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from bench.replicas.stores import Store, good
from bench.service import Service
from lab.servers import wait_for
from lab.wire import Answer, DroppedError, Wire

RATE = 50  # requests a second
CARTS = ("cart read", "line put")
# Whose, method, path, body.
Request = tuple[str, str, str, Any]


@dataclass(slots=True)
class Figures:
    """Of one kind during one fault. Times in milliseconds; `statuses` are those while it lasts."""

    first: list[float] = field(default_factory=list)
    before: list[float] = field(default_factory=list)
    later: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


class Shoppers:
    """Two sessions of the store, which carry their credentials and no consistency token.

    One buys, the other looks: who has just written is not shown what was cached before.
    """

    def __init__(self, service: Service, store: Store, workers: int, quota: int) -> None:
        self._store, self._share = store, quota // workers
        self.wires = connections(service, workers)
        wire = self.wires[0]
        self._credentials = {
            name: good(wire, "POST", f"{store.path}/sessions", {}, {})["token"]
            for name in ("buyer", "reader")
        }
        # Ordered is what is not on the first page, so that orders void nothing of it.
        line = {"items": [{"product_id": store.products[0], "quantity": 1}]}
        order = self._send(wire, ("buyer", "POST", "/orders", line)).document["id"]
        product = store.products[-1]
        self.kinds: Mapping[str, Request] = {
            "product list": ("reader", "GET", "/products?limit=20", None),
            "product": ("reader", "GET", f"/products/{product}", None),
            "order read": ("buyer", "GET", f"/orders/{order}", None),
            "order placed": ("buyer", "POST", "/orders", line),
            "cart read": ("reader", "GET", "/cart", None),
            "line put": ("reader", "PUT", f"/cart/items/{product}", {"quantity": 2}),
        }

    def ask(self, kind: str, wire: Wire) -> tuple[float, int]:
        """Milliseconds and status; 0 where the connection ended."""
        began = time.perf_counter()
        try:
            status = self._send(wire, self.kinds[kind]).status
        except DroppedError:
            status = 0
        return (time.perf_counter() - began) * 1000, status

    def steadily(
        self, seconds: float, kinds: Sequence[str], heard: Callable[[str, float, int], None]
    ) -> None:
        """Each kind in turn, by each worker in turn."""
        turns = [(kind, wire) for wire in self.wires for kind in kinds]
        due = time.monotonic()
        for number in range(int(seconds * RATE)):
            due += 1 / RATE
            time.sleep(max(0.0, due - time.monotonic()))
            kind, wire = turns[number % len(turns)]
            heard(kind, *self.ask(kind, wire))

    def until_well(self) -> float:
        """Seconds until every worker has carts, the cache and the shared limiter back."""
        began = time.monotonic()
        for wire in self.wires:
            wait_for(lambda wire=wire: self._is_well(wire), "all is well", 30)  # type: ignore[misc]
        return time.monotonic() - began

    def _is_well(self, wire: Wire) -> bool:
        cart, line = (self._send(wire, self.kinds[kind]) for kind in CARTS)
        product, order = (self._send(wire, self.kinds[kind]) for kind in ("product", "order placed"))
        # Alone, a worker has no more than its share to give.
        left = int(product.headers["ratelimit"].partition('"session";r=')[2].partition(";")[0])
        answered = cart.good and line.good and order.good
        return answered and product.headers["x-cache"] == "hit" and left >= self._share

    def _send(self, wire: Wire, request: Request) -> Answer:
        whose, method, path, body = request
        headers = {"Authorization": f"Bearer {self._credentials[whose]}"}
        headers |= {"Idempotency-Key": secrets.token_hex(8)} if method == "POST" else {}
        return wire.request(method, self._store.path + path, headers, body)


def connections(service: Service, workers: int) -> list[Wire]:
    """One to each worker."""
    wait_for(lambda: len(psutil.Process(service.pid).children()) == workers, "all workers are there")
    pids = [process.pid for process in psutil.Process(service.pid).children()]
    found: dict[int, Wire] = {}
    while len(found) < workers:
        wire = Wire(service.address)
        wire.request("GET", "/healthz")
        (taken_by,) = (
            pid
            for pid in pids
            if any(
                each.raddr and each.raddr.port == wire.port
                for each in psutil.Process(pid).net_connections("tcp")
            )
        )
        if found.setdefault(taken_by, wire) is not wire:
            wire.close()
    return list(found.values())

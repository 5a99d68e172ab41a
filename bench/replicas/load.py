"""Mixed load on both shards from one process: orders, prices and reads, each answer kept with its time and its node."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any, Self

from bench.replicas.stores import TOKEN, Store
from lab.servers import wait_for
from lab.wire import Answer, DroppedError, Wire

READ, WRITE = "read", "write"
# A connection is given up after so many requests, so that every worker gets some.
CONNECTION_LASTS = 50
# What a client does that was refused; a request of its own otherwise waits for nothing.
REFUSED_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Sample:
    """One request, its times by the monotonic clock. `status` 0: the connection ended. `said`: a problem's detail."""

    kind: str
    shard: str
    began: float
    ended: float
    status: int
    node: str
    said: str = ""

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300  # noqa: PLR2004

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class Load:
    """So many clients on each store, for the length of the block.

    Of three clients one places orders and repeats each that is in doubt until it is told; one changes prices and
    reads them; one reads orders and lists. `placed` is what was acknowledged: idempotency key → order id.
    """

    def __init__(self, address: str, stores: Sequence[Store], clients: int, pause_seconds: float) -> None:
        self.stores = stores
        self.samples: list[Sample] = []
        self.placed: dict[str, str] = {}
        self._address, self._pause_seconds = address, pause_seconds
        self._done = threading.Event()
        roles: list[Callable[[Client], Iterator[None]]] = [Client.buy, Client.reprice, Client.browse]
        self._threads = [
            threading.Thread(target=self._run, args=(roles[number % len(roles)], store, number))
            for store in stores
            for number in range(clients)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def since(self, moment: float) -> list[Sample]:
        """What has ended since then, the latest first."""
        recent = itertools.takewhile(lambda each: each.ended > moment - 1, reversed(self.samples))
        return [each for each in recent if each.ended >= moment]  # threads append a little out of order

    def await_good(self, shard: str, count: int) -> None:
        """Wait for so many more good answers of a shard."""
        began = time.monotonic()
        wait_for(
            lambda: sum(each.good for each in self.since(began) if each.shard == shard) >= count,
            f"{count} good answers of {shard}",
        )

    def await_write(self, shard: str, since: float, but: str = "") -> Sample:
        """The first write of a shard acknowledged since then, by another node than `but`."""
        found: list[Sample] = []

        def look() -> bool:
            found[:] = [
                each
                for each in self.since(since)
                if each.kind == WRITE and each.shard == shard and each.good and each.node != but
            ]
            return bool(found)

        wait_for(look, f"a write of {shard}")
        return min(found, key=lambda each: each.ended)

    def _run(self, role: Callable[[Client], Iterator[None]], store: Store, number: int) -> None:
        client = Client(self, store, f"{store.shard}-{number}")
        with client.wire:
            for _ in role(client):
                # In the middle of an order in doubt nobody stops: it is told what became of it first.
                if self._done.is_set() and not client.in_doubt:
                    return
                self._done.wait(REFUSED_PAUSE_SECONDS if client.refused else self._pause_seconds)

    @property
    def address(self) -> str:
        return self._address


class Client:
    """One client: the steps of its role, each one request. It carries the token of its last answer as a header."""

    def __init__(self, load: Load, store: Store, name: str) -> None:
        self.load, self.store, self.name = load, store, name
        self.wire = Wire(load.address, lasts=CONNECTION_LASTS)
        self.refused = self.in_doubt = False
        self._token: dict[str, str] = {}
        self._choice = Random(name)  # noqa: S311

    def buy(self) -> Iterator[None]:
        for number in itertools.count():
            key = f"{self.name}-{number}"
            body = {"items": [{"product_id": self._product(), "quantity": self._choice.randint(1, 3)}]}
            answer = None
            while answer is None or not answer.good:
                answer = self._send(WRITE, "POST", "/orders", {"Idempotency-Key": key}, body)
                self.in_doubt = answer is None or not answer.good
                if answer is not None and answer.good:
                    self.load.placed[key] = answer.document["id"]
                yield

    def reprice(self) -> Iterator[None]:
        for price in itertools.count(1):
            path = f"/products/{self._product()}"
            self._send(WRITE, "PATCH", path, {}, {"price": price})
            yield
            self._send(READ, "GET", path)
            yield

    def browse(self) -> Iterator[None]:
        while True:
            self._send(READ, "GET", f"/products/{self._product()}")
            yield
            self._send(READ, "GET", "/products?limit=20")
            yield
            self._send(READ, "GET", "/orders?limit=5")
            yield

    def _product(self) -> str:
        return self._choice.choice(self.store.products)

    def _send(
        self, kind: str, method: str, path: str, headers: dict[str, str] | None = None, body: Any = None
    ) -> Answer | None:
        """One request, sampled; None where the connection ended."""
        began = time.monotonic()
        answer = None
        with suppress(DroppedError):
            answer = self.wire.request(
                method,
                self.store.path + path,
                {**self.store.merchant, **self._token, **(headers or {})},
                body,
            )
        status, node = (answer.status, answer.headers.get("x-served-by", "")) if answer else (0, "")
        said = answer.document["detail"] if answer and not answer.good else ""
        if answer and TOKEN.lower() in answer.headers:
            self._token = {TOKEN: answer.headers[TOKEN.lower()]}
        self.refused = answer is None or not answer.good
        self.load.samples.append(Sample(kind, self.store.shard, began, time.monotonic(), status, node, said))
        return answer

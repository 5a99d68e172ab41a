"""What the sessions work on: a store on each shard, with a few products and the credentials to get at them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lab.wire import Answer, Wire
from tests.faults.consistency.history import MERCHANT, Stock

PRODUCTS = 3
UNITS = 1_000_000
FIRST_PRICE = 100


@dataclass(frozen=True, slots=True)
class Credential:
    """A key or session token. A history has its `name`, and never the secret."""

    name: str
    secret: str

    @property
    def header(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}


@dataclass(frozen=True, slots=True)
class Market:
    """One store. `prices` gives each price once, so that a price tells who wrote it."""

    shard: str
    store: str
    merchant: Credential
    twin: Credential  # a second key of the same merchant
    shopper: Credential  # a guest's session
    products: tuple[str, ...]
    prices: Iterator[int]

    @property
    def path(self) -> str:
        return f"/v1/stores/{self.store}"

    @property
    def stocks(self) -> tuple[Stock, ...]:
        return tuple(Stock(each, self.store, self.shard, FIRST_PRICE, UNITS) for each in self.products)


def open_markets(address: str, operator_token: str) -> list[Market]:
    """A store on every shard."""
    with Wire(address) as wire:
        return _open(wire, operator_token)


def _open(wire: Wire, operator_token: str) -> list[Market]:
    operator = {"Authorization": f"Bearer {operator_token}"}
    topology = _good(wire.request("GET", "/v1/admin/topology", operator))
    wanted = {shard["name"] for shard in topology["shards"]}
    found: dict[str, Market] = {}
    while found.keys() != wanted:
        made = _good(wire.request("POST", "/v1/stores", operator, {"name": "Checked", "currency": "EUR"}))
        shard = _good(wire.request("GET", f"/v1/admin/stores/{made['id']}/route", operator))["shard"]
        if shard not in found:
            found[shard] = _furnish(wire, shard, made)
    return [found[shard] for shard in sorted(found)]


def _furnish(wire: Wire, shard: str, made: dict[str, Any]) -> Market:
    path, store = f"/v1/stores/{made['id']}", made["id"]
    merchant = Credential(f"{MERCHANT}-{shard}", made["api_key"])
    second = _good(wire.request("POST", f"{path}/api-keys", merchant.header))
    product = {"price": FIRST_PRICE, "stock": UNITS}
    products = [
        _good(wire.request("POST", f"{path}/products", merchant.header, product | {"title": f"Mug {number}"}))
        for number in range(PRODUCTS)
    ]
    twin = Credential(f"{MERCHANT}-twin-{shard}", second["api_key"])
    shopper = Credential(
        f"shopper-{shard}", _good(wire.request("POST", f"{path}/sessions", body={}))["token"]
    )
    ids = tuple(each["id"] for each in products)
    return Market(shard, store, merchant, twin, shopper, ids, itertools.count(FIRST_PRICE + 1))


def every_page(get: Callable[[str], Answer], path: str) -> list[dict[str, Any]]:
    """All of a list, each page by the cursor of the one before."""
    found: list[dict[str, Any]] = []
    query = "?limit=100"
    while True:
        page = _good(get(path + query))
        found += page["data"]
        if page["next_cursor"] is None:
            return found
        query = f"?limit=100&cursor={page['next_cursor']}"


def _good(answer: Answer) -> Any:
    assert answer.good, f"{answer.status}: {answer.body[:500]!r}"
    return answer.document

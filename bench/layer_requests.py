"""The store and the requests whose cost `bench/layers.py` compares."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from bench.replicas.stores import good
from lab.wire import Wire

# So many that none of them comes near its quota.
SESSIONS = 64
# A page for each request of a block that no request before it has asked for.
PRODUCTS = 160
# So few that they are found again before they expire.
HOT = 2
WARM = 12

Request = tuple[str, str, dict[str, str], Any]


@dataclass(frozen=True, slots=True)
class Store:
    path: str
    shard: str
    products: tuple[str, ...]
    cursors: tuple[str, ...]
    sessions: tuple[dict[str, str], ...]
    orders: tuple[str, ...]  # each session's own


def open_store(wire: Wire, operator: dict[str, str]) -> Store:
    """With products, and with shoppers who each have a cart and an order."""
    made = good(wire, "POST", "/v1/stores", operator, {"name": "Bench", "currency": "EUR"})
    path, merchant = f"/v1/stores/{made['id']}", {"Authorization": f"Bearer {made['api_key']}"}
    shard = good(wire, "GET", f"/v1/admin/stores/{made['id']}/route", operator)["shard"]
    body = {"title": "Mug", "description": "Hand made, one of a kind. " * 3, "price": 1, "stock": 10**9}
    products = [good(wire, "POST", f"{path}/products", merchant, body)["id"] for _ in range(PRODUCTS)]
    cursors: list[str] = []
    for _ in range(PRODUCTS - 1):
        last = f"&cursor={cursors[-1]}" if cursors else ""
        page = good(wire, "GET", f"{path}/products?limit=1{last}", {})
        cursors.append(page["next_cursor"])
    sessions, orders = [], []
    for product in products[:SESSIONS]:
        token = good(wire, "POST", f"{path}/sessions", {}, {})["token"]
        sessions.append({"Authorization": f"Bearer {token}"})
        good(wire, "PUT", f"{path}/cart/items/{product}", sessions[-1], {"quantity": 1})
        order = good(wire, *_order(path, sessions[-1], products[:2]))
        orders.append(order["id"])
    return Store(path, shard, tuple(products), tuple(cursors), tuple(sessions), tuple(orders))


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request. `x_cache`: what it is to the cache. `warm`: how many come before those that count."""

    name: str
    requests: Callable[[Store], Iterator[Request]]
    x_cache: str = ""
    warm: int = WARM

    def called(self, *, cached: bool) -> str:
        return f"{self.name}, {self.x_cache}" if cached and self.x_cache else self.name


def _lists(store: Store) -> Iterator[Request]:
    for session in cycle(store.sessions):
        yield "GET", f"{store.path}/products?limit=20", session, None


def _pages(store: Store) -> Iterator[Request]:
    for session, cursor in zip(cycle(store.sessions), store.cursors, strict=False):
        yield "GET", f"{store.path}/products?limit=20&cursor={cursor}", session, None


def _products(store: Store) -> Iterator[Request]:
    for session, product in zip(cycle(store.sessions), cycle(store.products[:HOT]), strict=False):
        yield "GET", f"{store.path}/products/{product}", session, None


def _own_orders(store: Store) -> Iterator[Request]:
    for session, order in cycle(list(zip(store.sessions, store.orders, strict=True))):
        yield "GET", f"{store.path}/orders/{order}", session, None


def _new_orders(store: Store) -> Iterator[Request]:
    pairs = cycle(zip(store.products[10::2], store.products[11::2], strict=False))
    for session, pair in zip(cycle(store.sessions), pairs, strict=False):
        yield _order(store.path, session, list(pair))


def _carts(store: Store) -> Iterator[Request]:
    for session in cycle(store.sessions):
        yield "GET", f"{store.path}/cart", session, None


def _order(path: str, session: dict[str, str], products: list[str]) -> Request:
    items = [{"product_id": product, "quantity": 1} for product in products]
    return "POST", f"{path}/orders", session | {"Idempotency-Key": uuid.uuid4().hex}, {"items": items}


KINDS = (
    Kind("list of 20", _lists, "hit"),
    Kind("list of 20", _pages, "miss", warm=0),
    Kind("product", _products, "hit"),
    Kind("order, read", _own_orders),
    Kind("order of two lines", _new_orders),
    # All of them: a session's first look at its cart in a minute asks PostgreSQL as well.
    Kind("cart, read", _carts, warm=SESSIONS),
)

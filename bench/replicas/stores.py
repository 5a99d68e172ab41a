"""A store on each shard to put load on, and what became of its orders in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lab.servers import Servers
from lab.wire import Wire

TOKEN = "Consistency-Token"  # noqa: S105 - a header's name
UNITS = 10**9  # the most a product may begin with


@dataclass(frozen=True, slots=True)
class Store:
    shard: str
    store_id: str
    merchant: dict[str, str]  # the header that carries its key
    products: tuple[str, ...]

    @property
    def path(self) -> str:
        return f"/v1/stores/{self.store_id}"

    def another_key(self, wire: Wire) -> dict[str, str]:
        """One more merchant key, as a header: what is remembered for one says nothing of another."""
        made = good(wire, "POST", f"{self.path}/api-keys", self.merchant)
        return {"Authorization": f"Bearer {made['api_key']}"}


def open_stores(servers: Servers, products: int) -> list[Store]:
    """One on each shard, with so many products."""
    found: dict[str, Store] = {}
    with Wire(servers.address) as wire:
        while found.keys() != set(servers.shards):
            body = {"name": "Bench", "currency": "EUR"}
            made = good(wire, "POST", "/v1/stores", servers.operator, body)
            route = good(wire, "GET", f"/v1/admin/stores/{made['id']}/route", servers.operator)
            if route["shard"] in found:
                continue
            merchant = {"Authorization": f"Bearer {made['api_key']}"}
            path = f"/v1/stores/{made['id']}/products"
            ids = [
                good(wire, "POST", path, merchant, {"title": f"Mug {n}", "price": 1, "stock": UNITS})["id"]
                for n in range(products)
            ]
            found[route["shard"]] = Store(route["shard"], made["id"], merchant, tuple(ids))
    for shard in servers.shards:
        servers.await_whole(shard)  # from here on every replica has them
    return [found[shard] for shard in sorted(found)]


def good(wire: Wire, method: str, path: str, headers: dict[str, str], body: Any = None) -> Any:
    """The document of an answer that has to be a good one."""
    answer = wire.request(method, path, headers, body)
    if not answer.good:
        raise SystemExit(f"{method} {path}: {answer.status} {answer.body.decode()}")
    return answer.document


@dataclass(frozen=True, slots=True)
class Audit:
    """Orders on the primaries against those that were acknowledged."""

    acknowledged: int
    lost: int
    doubled: int
    units_astray: int

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.units_astray)

    @property
    def row(self) -> tuple[int, ...]:
        return self.acknowledged, self.lost, self.doubled, self.units_astray


AUDIT_HEADS = ("orders acknowledged", "lost", "doubled", "units astray")

_ORDERS = "SELECT id::text FROM orders WHERE store_id = %s"
_KEYS = "SELECT key, order_id::text FROM idempotency_keys WHERE store_id = %s"
_LEFT = "SELECT sum(stock)::bigint FROM products WHERE store_id = %s"
_SOLD = "SELECT coalesce(sum(quantity), 0)::bigint FROM order_items WHERE store_id = %s"


def audit(servers: Servers, stores: Sequence[Store], placed: dict[str, str]) -> Audit:
    """`placed`: idempotency key → order id, as acknowledged. Every key that was sent has been settled."""
    orders: set[str] = set()
    keys: dict[str, str] = {}
    count, astray = 0, 0
    for store in stores:
        with servers.connect(servers.primary(store.shard)) as connection:
            found = [row[0] for row in connection.execute(_ORDERS, [store.store_id])]
            orders.update(found)
            count += len(found)
            keys.update(dict(connection.execute(_KEYS, [store.store_id]).fetchall()))
            ((left,),) = connection.execute(_LEFT, [store.store_id]).fetchall()
            ((sold,),) = connection.execute(_SOLD, [store.store_id]).fetchall()
            astray += abs(len(store.products) * UNITS - left - sold)
    lost = sum(order not in orders for order in placed.values())
    # A second order for a key would be one that no key has.
    doubled = count - len(set(keys.values()) & orders)
    doubled += sum(keys.get(key) != order for key, order in placed.items() if order in orders)
    return Audit(len(placed), lost, doubled, astray)

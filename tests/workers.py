"""One worker in this process: what gunicorn starts, put together by `operations/marketplace.py`, without HTTP."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ids
import sql
from config import Settings
from operations.marketplace import Marketplace
from routing.scope import Scope
from routing.token import Position
from tests.shard_servers import until

CREATE_STORE = sql.query("create_store")
CREATE_PRODUCT = sql.query("create_product")
UPDATE_PRODUCT = sql.query("update_product")
READ_PRODUCT = sql.query("read_product")


@dataclass(frozen=True, slots=True)
class Worker:
    """A started worker, with one store that has one product."""

    market: Marketplace
    store_id: uuid.UUID
    product_id: uuid.UUID

    def scope(self, positions: Mapping[int, Position] | None = None, **fields: Any) -> Scope:
        """A request that has seen these positions."""
        return Scope(self.market.maps.current().flags, dict(positions or {}), **fields)

    def write(self, scope: Scope, price: int) -> int:
        """Set the product's price; its version then."""
        fields = dict.fromkeys(sql.query("update_product").parameters)
        values = fields | {"product_id": self.product_id, "price": price}
        row = self.market.router.write(scope, self.store_id, UPDATE_PRODUCT, values)
        assert row is not None
        return int(row[1])

    def read(self, scope: Scope) -> tuple[int, str]:
        """The product's version, and the node that said so."""
        scope.served_by = scope.served_by[:0]  # by earlier reads
        _, version = self.market.router.read(
            scope, self.store_id, READ_PRODUCT, {"product_id": self.product_id}
        )
        return int(version), scope.served_by[-1]


@contextmanager
def worker(settings: Settings, *, read_replicas: bool = True, **changed: Any) -> Iterator[Worker]:
    market = Marketplace(replace(settings, **changed))
    market.start("worker-1")
    try:
        market.catalog.set_flag("read_replicas", read_replicas)
        until(lambda: market.maps.current().flags.read_replicas is read_replicas)
        nodes = len(market.maps.current().map.nodes)
        until(lambda: sum(state.healthy for state in market.replay.states().values()) == nodes)
        until(lambda: all(pool.gauge().available for pool in market.pools.pools()))
        scope = Scope(market.maps.current().flags)
        store_id, product_id = ids.new_id(), ids.new_id()
        store = {"name": "Shop", "currency": "EUR", "key_id": ids.new_id(), "secret_hash": bytes(32)}
        market.router.create(scope, store_id, CREATE_STORE, store | {"created_at": ids.timestamp(store_id)})
        product = {"title": "Mug", "description": "", "price": 1, "stock": 1, "attributes": "{}"}
        product |= {"product_id": product_id, "created_at": ids.timestamp(product_id)}
        market.router.write(scope, store_id, CREATE_PRODUCT, product)
        yield Worker(market, store_id, product_id)
    finally:
        market.stop()

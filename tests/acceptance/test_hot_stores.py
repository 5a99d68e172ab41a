"""The hot stores in the topology: what clients did, by all workers together."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster_fixtures import Service
from tests.shop import Json, Shop, eventually, ok, operator

# Other stores of the same service may have been asked more, a minute ago: who goes on being asked gets ahead of them.
PATIENCE_SECONDS = 30.0


@pytest.fixture(scope="module")
def whale(market: Service) -> Shop:
    """A store that has been asked for a lot, over connections that any worker may take, until it was listed."""
    shop = Shop.create(market)
    mug = shop.product(stock=10**6)
    shopper = shop.guest()

    def is_listed() -> bool:
        for _ in range(10):
            ok(shop.anyone.afresh().get("/products"))
            shop.place_order(shopper, [(mug, 1)])
        return shop.id in hot_stores(market)

    eventually(is_listed, PATIENCE_SECONDS)
    return shop


def hot_stores(market: Service) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for shard in ok(operator(market).get("/v1/admin/topology"))["shards"]:
        for hot in shard["hot_stores"]:
            found[hot["store_id"]] = hot | {"shard": shard["name"]}
    return found


def test_a_store_that_is_asked_a_lot_is_listed_with_its_shard(market: Service, whale: Shop) -> None:
    home = ok(operator(market).get(f"/v1/admin/stores/{whale.id}/route"))["shard"]
    found: dict[str, Any] = hot_stores(market)[whale.id]
    assert found.keys() == {
        "store_id",
        "shard",
        "requests_per_second",
        "statements_per_second",
        "postgres_ms_per_second",
        "share",
    }
    assert found["shard"] == home
    assert found["requests_per_second"] > 0
    assert found["statements_per_second"] > 0
    assert found["postgres_ms_per_second"] > 0
    assert 0 < found["share"] <= 1


def test_no_store_is_named_in_the_metrics(market: Service, whale: Shop) -> None:
    assert whale.id not in operator(market).get("/metrics").text

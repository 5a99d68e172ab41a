"""The service with nothing but `REDIS_URL` changed: Redis Sentinel, and a Redis Cluster."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from tests.cluster_fixtures import Databases, Service, serving
from tests.redis_fleets import Fleet, running_redis_cluster, running_sentinels
from tests.shop import Shop, eventually, ok, operator

FLAGS = ("read_replicas", "redis_cache", "rate_limit", "distributed_locks")


@pytest.fixture(scope="module", params=[running_sentinels, running_redis_cluster])
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    with request.param() as running:
        yield running


@pytest.fixture(scope="module")
def service(databases: Databases, fleet: Fleet) -> Iterator[Service]:
    with serving(databases.settings, redis_url=fleet.url, scrypt_log2_n=8, cache_ttl_seconds=60.0) as running:
        everywhere = [operator(running) for _ in range(12)]
        for flag in FLAGS:
            ok(everywhere[0].put(f"/v1/admin/flags/{flag}", json={"enabled": True}))
        eventually(
            lambda: all(all(ok(each.get("/v1/admin/flags"))[flag] for flag in FLAGS) for each in everywhere)
        )
        yield running


def is_cached(shop: Shop, path: str) -> bool:
    return bool(shop.anyone.afresh().get(path).headers["X-Cache"] == "hit")


def test_all_that_redis_is_for_works_there(service: Service, fleet: Fleet) -> None:
    shop = Shop.create(service)
    products = [shop.product(stock=5) for _ in range(3)]
    shopper = shop.customer()
    for product in products:
        shop.put_in_cart(shopper, product, 2)
    assert len(ok(shopper.get("/cart"))["items"]) == 3
    ok(shop.place_order(shopper), 201)
    assert ok(shopper.get("/cart"))["items"] == []
    for product in products:
        path = f"/products/{product['id']}"
        eventually(partial(is_cached, shop, path))
        assert ok(shopper.afresh().get(path))["stock"] == 3  # by its session alone
    limits = [shopper.get("/cart").headers["RateLimit"] for _ in range(2)]
    left = [int(limit.partition("r=")[2].partition(";")[0]) for limit in limits]
    assert left[0] - left[1] == 1  # by both workers together
    eventually(lambda: any(server.admin.keys("position:*") for server in fleet.primaries()))
    assert not [line for line in service.log.read_text().splitlines() if "Traceback" in line]

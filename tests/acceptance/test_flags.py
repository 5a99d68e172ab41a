"""The five flags: contract section 4. This module has a service of its own, since a flag is everyone's."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from devcluster.cluster import Cluster
from tests.cluster_fixtures import Service, fresh_databases, serving
from tests.shop import Caller, Shop, eventually, ok, operator, refused

FLAGS = ("sharding", "read_replicas", "redis_cache", "rate_limit", "distributed_locks")
# Connections enough that every worker has some of them.
CONNECTIONS = 12


@pytest.fixture(scope="module")
def everywhere(service: Service) -> list[Caller]:
    """The operator on many connections."""
    return [operator(service) for _ in range(CONNECTIONS)]


@pytest.fixture
def sharding_off(service: Service, everywhere: list[Caller]) -> Iterator[None]:
    """While a test runs. There must be no store on another shard than the first."""
    turn(everywhere, "sharding", enabled=False)
    yield
    turn(everywhere, "sharding", enabled=True)


def turn(everywhere: list[Caller], name: str, *, enabled: bool) -> None:
    """Set a flag and wait until every worker has it."""
    assert ok(everywhere[0].put(f"/v1/admin/flags/{name}", json={"enabled": enabled}))[name] is enabled
    eventually(lambda: all(ok(caller.get("/v1/admin/flags"))[name] is enabled for caller in everywhere))


def test_there_are_five_flags_each_on_or_off(service: Service) -> None:
    flags = ok(operator(service).get("/v1/admin/flags"))
    assert set(flags) == set(FLAGS)
    assert all(isinstance(value, bool) for value in flags.values())


@pytest.mark.usefixtures("sharding_off")
def test_with_sharding_off_every_store_lives_on_the_first_shard(service: Service) -> None:
    asked = operator(service)
    for _ in range(6):
        shop = Shop.create(service)
        route = ok(asked.get(f"/v1/admin/stores/{shop.id}/route"))
        assert (route["shard"], route["reason"]) == ("shard-0", "sharding-off")
        assert (
            shop.merchant.post("/products", json={"title": "x", "price": 1, "stock": 1})
            .headers["X-Served-By"]
            .startswith("shard-0-")
        )


def test_turned_on_again_stores_stay_where_they_are_and_new_ones_spread(
    service: Service, everywhere: list[Caller]
) -> None:
    turn(everywhere, "sharding", enabled=False)
    shops = [Shop.create(service) for _ in range(8)]
    products = [shop.product() for shop in shops]
    turn(everywhere, "sharding", enabled=True)
    for shop, product in zip(shops, products, strict=True):
        for caller in everywhere[:4]:
            route = ok(caller.get(f"/v1/admin/stores/{shop.id}/route"))
            assert route["shard"] == "shard-0"
            assert route["reason"] in ("ring", "pin")
        assert ok(shop.anyone.get(f"/products/{product['id']}")) == product
        ok(shop.place_order(shop.guest(), [(product, 1)]), 201)
    reasons = {ok(everywhere[0].get(f"/v1/admin/stores/{shop.id}/route"))["reason"] for shop in shops}
    assert "pin" in reasons  # of eight stores the ring gives some to the other shard
    assert set(Shop.on_each_shard(service)) == {"shard-0", "shard-1"}


def test_setting_a_flag_to_what_it_is_changes_nothing(service: Service) -> None:
    asked = operator(service)
    before = ok(asked.get("/v1/admin/flags"))

    def set_all() -> int:
        """The map's epoch after every flag was set to what it is."""
        for name, enabled in before.items():
            assert ok(asked.put(f"/v1/admin/flags/{name}", json={"enabled": enabled})) == before
        return int(ok(asked.get("/v1/admin/topology"))["epoch"])

    # The first time a flag is set it is written down, which workers hear of as of a change.
    assert set_all() == set_all()


@pytest.mark.parametrize("name", ["nonesuch", "Sharding", "sharding%20", "%00", "SHARDING"])
def test_an_unknown_flag_is_404(service: Service, name: str) -> None:
    for enabled in (True, False):
        refused(operator(service).put(f"/v1/admin/flags/{name}", json={"enabled": enabled}), 404)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "/enabled"),
        ({"enabled": "true"}, "/enabled"),
        ({"enabled": 1}, "/enabled"),
        ({"enabled": None}, "/enabled"),
        ({"enabled": True, "why": "x"}, "/why"),
        (True, ""),
        ([], ""),
    ],
)
def test_any_other_body_is_refused(service: Service, body: Any, path: str) -> None:
    problem = refused(operator(service).put("/v1/admin/flags/sharding", json=body), 400)
    assert [error["path"] for error in problem["errors"]] == [path]


def test_sharding_cannot_go_off_while_stores_live_elsewhere(service: Service) -> None:
    shop = Shop.on_each_shard(service)["shard-1"]
    asked = operator(service)
    problem = refused(asked.put("/v1/admin/flags/sharding", json={"enabled": False}), 409)
    assert "flask shards gather" in problem["detail"]
    assert ok(asked.get("/v1/admin/flags"))["sharding"] is True
    assert ok(asked.get(f"/v1/admin/stores/{shop.id}/route"))["shard"] == "shard-1"
    shop.product()


def test_no_store_is_lost_that_is_made_while_sharding_is_turned(cluster: Cluster) -> None:
    """Each was acknowledged, so each is found, by every worker, wherever the map of that moment put it."""
    with fresh_databases(cluster) as databases, serving(databases.settings) as service:
        asked = operator(service)
        for enabled in (False, True):
            with ThreadPoolExecutor(12) as threads:
                turned = threads.submit(asked.put, "/v1/admin/flags/sharding", json={"enabled": enabled})
                made = list(threads.map(lambda _: Shop.create(service), range(40)))
            # Turning it off comes too late where a store was made on the other shard before.
            assert turned.result().status_code == 200 or not enabled
            for shop in made:
                route = ok(asked.afresh().get(f"/v1/admin/stores/{shop.id}/route"))
                answer = shop.merchant.get("/customers")
                assert ok(answer)["data"] == []
                assert answer.headers["X-Served-By"].startswith(route["shard"])

"""The cache while its server is frozen, dead, or back with another memory, and while nobody tells it of a write."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from tests.cluster_fixtures import Databases, Service, serving
from tests.shop import Caller, Json, Shop, eventually, ok, operator
from tests.valkey_server import ValkeyServer, running_valkey


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with running_valkey() as running:
        yield running


def on(service: Service) -> Service:
    """With the flag on, in every worker."""
    callers = [operator(service) for _ in range(12)]
    ok(callers[0].put("/v1/admin/flags/redis_cache", json={"enabled": True}))
    eventually(lambda: all(ok(caller.get("/v1/admin/flags"))["redis_cache"] for caller in callers))
    return service


@pytest.fixture(scope="module")
def patient(databases: Databases, server: ValkeyServer) -> Iterator[Service]:
    """Where an entry lives so long that what is shown is never simply expired."""
    with serving(databases.settings, redis_url=server.url, cache_ttl_seconds=60.0) as service:
        yield on(service)


@pytest.fixture
def shop(patient: Service) -> Shop:
    return Shop.create(patient)


def is_cached(readers: list[Caller], path: str) -> None:
    """Wait until all of them, by whichever worker, are shown it from the cache."""
    eventually(lambda: all(reader.get(path).headers["X-Cache"] == "hit" for reader in readers))


def strangers(shop: Shop) -> list[Caller]:
    """Readers with no credential, on connections enough that every worker has some of them."""
    return [shop.caller(None) for _ in range(8)]


def prices(readers: list[Caller], product: Json) -> set[int]:
    return {ok(reader.get(f"/products/{product['id']}"))["price"] for reader in readers}


def are_shown(readers: list[Caller], product: Json, price: int) -> bool:
    return prices(readers, product) == {price}


def test_while_it_is_frozen_everything_is_answered_from_the_databases(
    shop: Shop, server: ValkeyServer
) -> None:
    mug = shop.product(price=1)
    readers = strangers(shop)
    is_cached(readers, f"/products/{mug['id']}")
    with server.frozen():
        for price in range(2, 6):
            ok(shop.merchant.patch(f"/products/{mug['id']}", json={"price": price}))
            answers = [reader.get(f"/products/{mug['id']}") for reader in readers]
            assert {ok(answer)["price"] for answer in answers} == {price}
            assert {answer.headers["X-Cache"] for answer in answers} == {"bypass"}
    is_cached(readers, "/products")


@pytest.mark.parametrize("with_snapshot", [False, True], ids=["empty", "with an old memory"])
def test_back_with_another_memory_it_shows_nothing_of_before(
    shop: Shop, server: ValkeyServer, *, with_snapshot: bool
) -> None:
    mug = shop.product(price=1)
    readers = strangers(shop)
    is_cached(readers, f"/products/{mug['id']}")
    server.admin.save()
    server.kill()
    ok(shop.merchant.patch(f"/products/{mug['id']}", json={"price": 2}))
    assert prices(readers, mug) == {2}
    server.restart(with_snapshot=with_snapshot)
    assert prices(readers, mug) == {2}
    is_cached(readers, f"/products/{mug['id']}")
    assert prices(readers, mug) == {2}


def test_while_the_server_is_full_a_writer_sees_the_write_by_credential_alone(
    shop: Shop, server: ValkeyServer
) -> None:
    mug = shop.product(price=1)
    path = f"/products/{mug['id']}"
    is_cached([shop.merchant.afresh() for _ in range(8)], path)
    server.admin.config_set("maxmemory", "1")
    try:
        ok(shop.merchant.afresh().patch(path, json={"price": 2}))
        assert prices([shop.merchant.afresh() for _ in range(8)], mug) == {2}
    finally:
        server.admin.config_set("maxmemory", "0")


def test_a_write_that_nobody_told_of_is_seen_by_its_writer_at_once(shop: Shop, server: ValkeyServer) -> None:
    """The worker could not tell the cache; the entry is there still, and the writer's token says that it is old."""
    mug = shop.product(price=1)
    readers = strangers(shop)
    is_cached(readers, f"/products/{mug['id']}")
    with server.frozen():
        answer = shop.merchant.patch(f"/products/{mug['id']}", json={"price": 2})
    ok(answer)
    writers = strangers(shop)
    for writer in writers:
        writer.http.headers["Consistency-Token"] = answer.headers["Consistency-Token"]
    assert prices(writers, mug) == {2}
    is_cached(writers, f"/products/{mug['id']}")
    assert prices(writers, mug) == {2}


def test_what_a_credential_saw_while_the_server_was_away_does_not_vanish(
    shop: Shop, server: ValkeyServer
) -> None:
    """It could not be remembered; the entry of before is there still, and nobody told the cache that it is old."""
    mug, other = shop.product(price=1), shop.product()
    shopper = shop.guest()
    shoppers = [shopper.afresh() for _ in range(8)]
    is_cached(shoppers, f"/products/{mug['id']}")
    with server.frozen():
        assert prices(shoppers, other) == {other["price"]}  # every worker has found it away
        ok(shop.merchant.afresh().patch(f"/products/{mug['id']}", json={"price": 2}))
        assert prices(shoppers, mug) == {2}
    for _ in range(20):
        assert prices([each.afresh() for each in shoppers], mug) == {2}
    is_cached(shoppers, f"/products/{mug['id']}")
    assert prices(shoppers, mug) == {2}


def test_a_write_that_nobody_told_of_is_seen_by_all_within_two_seconds(
    databases: Databases, server: ValkeyServer
) -> None:
    """As where a worker dies between the commit and telling of it: here the database is written behind its back."""
    with serving(databases.settings, redis_url=server.url) as service:
        shop = Shop.create(on(service))
        mug = shop.product(price=1)
        readers = strangers(shop)
        route = ok(operator(service).get(f"/v1/admin/stores/{shop.id}/route"))
        shard = databases.cluster.primary(route["shard"])
        for price in range(2, 6):
            is_cached(readers, f"/products/{mug['id']}")
            with databases.cluster.postgres.connect(shard, databases.settings.database_name) as connection:
                connection.execute("UPDATE products SET price = %s WHERE id = %s", (price, mug["id"]))
            eventually(partial(are_shown, readers, mug, price), within_seconds=2.0)

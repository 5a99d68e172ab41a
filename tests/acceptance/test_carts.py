"""Carts: contract section 2."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from tests.cluster_fixtures import Databases, Service, free_ports, serving
from tests.shop import Json, Shop, at_once, ok, refused

NOT_THERE = "01900000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def products(shop: Shop) -> list[Json]:
    return [shop.product(title=f"Mug {number}") for number in range(3)]


def lines(cart: Json) -> dict[str, int]:
    assert cart.keys() == {"items", "expires_in"}
    assert cart["expires_in"] > 0
    found = {line["product_id"]: line["quantity"] for line in cart["items"]}
    assert len(found) == len(cart["items"])
    return found


def test_a_new_cart_is_empty(shop: Shop) -> None:
    for shopper in (shop.guest(), shop.customer()):
        assert lines(ok(shopper.get("/cart"))) == {}


def test_a_quantity_is_set_and_not_added(shop: Shop, products: list[Json]) -> None:
    shopper = shop.guest()
    first, second, _ = (product["id"] for product in products)
    assert lines(shop.put_in_cart(shopper, products[0], 2)) == {first: 2}
    assert lines(shop.put_in_cart(shopper, products[1], 1)) == {first: 2, second: 1}
    assert lines(shop.put_in_cart(shopper, products[0], 5)) == {first: 5, second: 1}
    assert lines(ok(shopper.get("/cart"))) == {first: 5, second: 1}


def test_quantity_0_removes_the_line(shop: Shop, products: list[Json]) -> None:
    shopper = shop.guest()
    shop.put_in_cart(shopper, products[0], 2)
    shop.put_in_cart(shopper, products[1], 3)
    assert lines(shop.put_in_cart(shopper, products[0], 0)) == {products[1]["id"]: 3}
    assert lines(shop.put_in_cart(shopper, products[0], 0)) == {products[1]["id"]: 3}
    assert lines(shop.put_in_cart(shopper, products[1], 0)) == {}


def test_a_cleared_cart_is_empty_and_can_be_filled_again(shop: Shop, products: list[Json]) -> None:
    shopper = shop.guest()
    shop.put_in_cart(shopper, products[0], 2)
    for _ in range(2):
        answer = shopper.delete("/cart")
        assert (answer.status_code, answer.content) == (204, b"")
        assert lines(ok(shopper.get("/cart"))) == {}
    assert lines(shop.put_in_cart(shopper, products[1], 1)) == {products[1]["id"]: 1}


def test_every_shopper_has_their_own_cart(shop: Shop, products: list[Json]) -> None:
    one, other = shop.guest(), shop.guest()
    shop.put_in_cart(one, products[0], 2)
    assert lines(ok(other.get("/cart"))) == {}


def test_a_customers_sessions_share_one_cart(shop: Shop, products: list[Json]) -> None:
    here = shop.customer()
    assert here.email is not None
    shop.put_in_cart(here, products[0], 2)
    assert lines(ok(shop.sign_in(here.email).get("/cart"))) == {products[0]["id"]: 2}


@pytest.mark.parametrize("quantity", [1, 10_000])
def test_a_quantity_to_10000_is_taken_whatever_is_in_stock(
    shop: Shop, products: list[Json], quantity: int
) -> None:
    cart = shop.put_in_cart(shop.guest(), products[0], quantity)
    assert lines(cart) == {products[0]["id"]: quantity}


@pytest.mark.parametrize("quantity", [-1, 10_001, 2**63, 1.5, "1", True, None, [1]])
def test_any_other_quantity_is_refused(shop: Shop, products: list[Json], quantity: Any) -> None:
    shopper = shop.guest()
    answer = shopper.put(f"/cart/items/{products[0]['id']}", json={"quantity": quantity})
    assert [error["path"] for error in refused(answer, 400)["errors"]] == ["/quantity"]
    assert lines(ok(shopper.get("/cart"))) == {}


@pytest.mark.parametrize(
    ("body", "path"), [({}, "/quantity"), ({"quantity": 1, "x": 1}, "/x"), ([], ""), (7, "")]
)
def test_any_other_body_is_refused(shop: Shop, products: list[Json], body: Any, path: str) -> None:
    answer = shop.guest().put(f"/cart/items/{products[0]['id']}", json=body)
    assert [error["path"] for error in refused(answer, 400)["errors"]] == [path]


def test_a_product_that_is_not_there_cannot_be_put_in(
    shop: Shop, products: list[Json], market: Service
) -> None:
    shopper = shop.guest()
    elsewhere = Shop.create(market).product()
    for product in (NOT_THERE, "not-an-id", elsewhere["id"]):
        refused(shopper.put(f"/cart/items/{product}", json={"quantity": 1}), 404)
    assert lines(ok(shopper.get("/cart"))) == {}


def test_a_line_whose_product_was_deleted_can_be_removed(shop: Shop) -> None:
    shopper, product = shop.guest(), shop.product()
    shop.put_in_cart(shopper, product, 2)
    shop.merchant.delete(f"/products/{product['id']}")
    assert lines(ok(shopper.get("/cart"))) == {product["id"]: 2}
    assert lines(shop.put_in_cart(shopper, product, 0)) == {}


def test_a_cart_has_100_lines_at_most(market: Service) -> None:
    shop = Shop.create(market)
    shopper = shop.guest()
    products = [shop.product() for _ in range(101)]
    for product in products[:100]:
        cart = shop.put_in_cart(shopper, product)
    assert len(cart["items"]) == 100
    answer = shopper.put(f"/cart/items/{products[100]['id']}", json={"quantity": 1})
    assert refused(answer, 400)["errors"]
    assert len(shop.put_in_cart(shopper, products[0], 7)["items"]) == 100


def test_lines_put_in_at_once_are_all_there(market: Service) -> None:
    shop = Shop.create(market)
    shopper = shop.guest()
    products = [shop.product() for _ in range(8)]
    callers = [shopper.afresh() for _ in products]
    with ThreadPoolExecutor(len(callers)) as threads:
        list(threads.map(shop.put_in_cart, callers, products, range(1, 9)))
    assert lines(ok(shopper.get("/cart"))) == {
        product["id"]: quantity for quantity, product in enumerate(products, start=1)
    }


def test_checking_out_empties_the_cart(shop: Shop, products: list[Json]) -> None:
    shopper = shop.guest()
    shop.put_in_cart(shopper, products[0], 2)
    ok(shop.place_order(shopper), 201)
    assert lines(ok(shopper.get("/cart"))) == {}


def test_only_a_session_has_a_cart(shop: Shop, products: list[Json], market: Service) -> None:
    other = shop.caller(Shop.create(market).guest().token)
    for caller in (shop.anyone, shop.merchant, shop.caller(market.operator_token), other):
        status = 401 if caller is shop.anyone else 403
        refused(caller.get("/cart"), status)
        refused(caller.put(f"/cart/items/{products[0]['id']}", json={"quantity": 1}), status)
        refused(caller.delete("/cart"), status)


def test_a_burst_of_shoppers_is_served_whole(shop: Shop) -> None:
    """Many more at one moment than a worker has connections to Redis."""
    assert set(at_once(shop.guest(), "/cart", 300)) == {200}


@pytest.fixture(scope="module")
def without_redis(databases: Databases) -> Iterator[Service]:
    """A service whose Redis is not there."""
    url = f"redis://127.0.0.1:{free_ports(1)}/0"
    with serving(databases.settings, redis_url=url, scrypt_log2_n=8) as running:
        yield running


def test_without_redis_carts_are_503_and_everything_else_goes_on(without_redis: Service) -> None:
    shop = Shop.create(without_redis)
    product, shopper = shop.product(), shop.customer()
    for answer in (
        shopper.get("/cart"),
        shopper.put(f"/cart/items/{product['id']}", json={"quantity": 1}),
        shopper.delete("/cart"),
        shop.place_order(shopper),
    ):
        refused(answer, 503)
        assert answer.headers["Retry-After"]
    order = ok(shop.place_order(shopper, [(product, 1)]), 201)
    ok(shopper.get(f"/orders/{order['id']}"))
    ok(shop.anyone.get("/products"))
    assert shopper.delete("/sessions/current").status_code == 204
    refused(shopper.get("/orders"), 401)


def test_a_cart_that_is_left_alone_is_forgotten_when_it_says(market: Service) -> None:
    shop = Shop.create(market)
    shopper = shop.guest()
    shop.put_in_cart(shopper, shop.product())
    says = ok(shopper.get("/cart"))["expires_in"]
    with redis.Redis.from_url(market.settings.redis_url) as server:
        kept = [server.ttl(key) for key in server.scan_iter(f"cart*{shop.id}*")]
    assert kept
    assert all(says - 60 < seconds <= says for seconds in kept)


@pytest.mark.parametrize("use", ["read", "put"])
def test_every_use_of_a_cart_keeps_it_for_another_while(market: Service, use: str) -> None:
    shop = Shop.create(market)
    shopper, product = shop.guest(), shop.product()
    shop.put_in_cart(shopper, product)
    with redis.Redis.from_url(market.settings.redis_url) as server:
        keys = list(server.scan_iter(f"cart*{shop.id}*"))
        assert len(keys) == 2
        assert all(server.expire(key, 100) for key in keys)
        says = (ok(shopper.get("/cart")) if use == "read" else shop.put_in_cart(shopper, product, 2))[
            "expires_in"
        ]
        assert all(says - 60 < server.ttl(key) <= says for key in keys)

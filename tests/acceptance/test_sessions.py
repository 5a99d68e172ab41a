"""Shoppers' sessions: contract section 2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster_fixtures import Databases, Service, serving
from tests.shop import PASSWORD, Caller, Json, Shop, eventually, ok, refused

CONNECTIONS = 8


@pytest.fixture(scope="module")
def short_lived(databases: Databases) -> Iterator[Service]:
    """A service whose sessions live for a second."""
    with serving(databases.settings, session_ttl_seconds=1, scrypt_log2_n=8) as running:
        yield running


def test_a_guest_gets_a_token_that_every_worker_takes(shop: Shop) -> None:
    session = ok(shop.anyone.post("/sessions", json={}), 201)
    assert session.keys() == {"token", "customer_id", "expires_in"}
    assert session["customer_id"] is None
    assert session["expires_in"] > 0
    for _ in range(CONNECTIONS):
        ok(shop.caller(session["token"]).get("/cart"))


def test_every_guest_is_another(shop: Shop) -> None:
    first, second = shop.guest(), shop.guest()
    order = ok(shop.place_order(first, [(shop.product(), 1)]), 201)
    ok(first.get(f"/orders/{order['id']}"))
    refused(second.get(f"/orders/{order['id']}"), 404)


@pytest.mark.parametrize("email", ["grace@example.com", "Grace@EXAMPLE.com"])
def test_a_customer_signs_in_with_the_email_in_any_case(market: Service, email: str) -> None:
    shop = Shop.create(market)
    customer = shop.customer("grace@example.com")
    session = ok(shop.anyone.post("/sessions", json={"email": email, "password": PASSWORD}), 201)
    assert session["customer_id"] == customer.customer_id
    assert session["token"] != customer.token


def test_a_wrong_password_says_what_an_unknown_email_says(shop: Shop) -> None:
    customer = shop.customer()
    wrong = [
        {"email": customer.email, "password": PASSWORD + "x"},
        {"email": customer.email, "password": PASSWORD.upper()},
        {"email": customer.email, "password": " " + PASSWORD},
        {"email": "nobody@example.com", "password": PASSWORD},
    ]
    problems = [refused(shop.anyone.post("/sessions", json=body), 401) for body in wrong]
    assert all(problem == problems[0] for problem in problems)


def test_a_customer_of_one_store_is_nobody_in_another(shop: Shop, market: Service) -> None:
    customer = shop.customer()
    body = {"email": customer.email, "password": PASSWORD}
    refused(Shop.create(market).anyone.post("/sessions", json=body), 401)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"email": "ada@example.com"}, "/password"),
        ({"password": PASSWORD}, "/email"),
        ({"email": 1, "password": PASSWORD}, "/email"),
        ({"email": "ada@example.com", "password": 1}, "/password"),
        ({"email": None, "password": None}, "/email"),
        ({"email": "a@example.com", "password": PASSWORD, "otp": "1"}, "/otp"),
        ({"guest": True}, "/guest"),
        ([], ""),
        ("", ""),
        (None, ""),
    ],
)
def test_any_other_body_is_refused_by_its_field(shop: Shop, body: Any, path: str) -> None:
    answer = shop.anyone.post(
        "/sessions", **({"json": body} if body is not None else {"data": "null", "headers": JSON})
    )
    assert [error["path"] for error in refused(answer, 400)["errors"]] == [path]


JSON = {"Content-Type": "application/json"}


def test_there_is_no_session_in_a_store_that_is_not_there(shop: Shop) -> None:
    nowhere = shop.caller(None)
    nowhere.path = "/v1/stores/01900000-0000-7000-8000-000000000000"
    for body in ({}, {"email": "ada@example.com", "password": PASSWORD}):
        refused(nowhere.post("/sessions", json=body), 404)


def uses(shopper: Caller, order: Json) -> list[int]:
    """What everything answers that takes a session."""
    product = order["items"][0]["product_id"]
    return [
        answer.status_code
        for answer in (
            shopper.get("/cart"),
            shopper.put(f"/cart/items/{product}", json={"quantity": 1}),
            shopper.get("/orders"),
            shopper.get(f"/orders/{order['id']}"),
            shopper.post("/orders", json={}, headers={"Idempotency-Key": "after"}),
            shopper.delete("/cart"),
            shopper.delete("/sessions/current"),
        )
    ]


@pytest.mark.parametrize("kind", ["guest", "customer"])
def test_a_session_that_was_signed_out_stops_working_everywhere(shop: Shop, kind: str) -> None:
    shopper = shop.guest() if kind == "guest" else shop.customer()
    product = shop.product()
    order = ok(shop.place_order(shopper, [(product, 1)]), 201)
    shop.put_in_cart(shopper, product)
    answer = shopper.delete("/sessions/current")
    assert (answer.status_code, answer.content) == (204, b"")
    for _ in range(CONNECTIONS):
        assert uses(shopper.afresh(), order) == [401] * 7
    assert shop.stock(product) == product["stock"] - 1


def test_signing_out_leaves_the_customers_other_session(shop: Shop) -> None:
    here = shop.customer()
    assert here.email is not None
    there = shop.sign_in(here.email)
    shop.put_in_cart(here, shop.product(), 3)
    assert here.delete("/sessions/current").status_code == 204
    assert [line["quantity"] for line in ok(there.get("/cart"))["items"]] == [3]


def test_only_a_session_signs_out(shop: Shop, market: Service) -> None:
    refused(shop.anyone.delete("/sessions/current"), 401)
    refused(shop.merchant.delete("/sessions/current"), 403)
    refused(shop.caller(market.operator_token).delete("/sessions/current"), 403)
    refused(shop.caller(Shop.create(market).guest().token).delete("/sessions/current"), 403)


def test_a_session_ends_when_its_time_is_over(short_lived: Service) -> None:
    shop = Shop.create(short_lived)
    product = shop.product()
    shopper = shop.guest()
    order = ok(shop.place_order(shop.merchant, [(product, 1)]), 201)
    eventually(lambda: shopper.get("/orders").status_code == 401)
    assert uses(shopper, order) == [401] * 7
    refused(shopper.get("/cart"), 401)
    assert ok(shop.anyone.post("/sessions", json={}), 201)["expires_in"] == 1

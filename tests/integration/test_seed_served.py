"""A seeded shop through the API: what `flask seed` made is what the service serves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster_fixtures import Databases, Service
from tests.commandline import flask
from tests.shop import Caller, Json, ok, operator


@pytest.fixture(scope="module")
def keys(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> list[Json]:
    """Three stores, and their merchant keys."""
    file: Path = tmp_path_factory.mktemp("seed") / "keys"
    size = ("--stores", "3", "--products", "90", "--orders", "30")
    answer = flask(databases.settings, "seed", *size, "--keys", str(file))
    assert answer.returncode == 0, answer.stderr
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def merchant(service: Service, keys: list[Json]) -> Caller:
    return Caller(service, f"/v1/stores/{keys[0]['store_id']}", keys[0]["api_key"])


def test_every_seeded_store_is_listed_and_routed(service: Service, keys: list[Json]) -> None:
    listed = {store["id"] for page in operator(service).pages("/v1/stores", limit=2) for store in page}
    assert listed == {key["store_id"] for key in keys}


def test_the_catalogue_is_listed_newest_first_and_found_by_a_word(merchant: Caller) -> None:
    products = [product for page in merchant.pages("/products", limit=7) for product in page]
    assert len(products) == 30
    assert [p["created_at"] for p in products] == sorted((p["created_at"] for p in products), reverse=True)
    word = products[-1]["title"].split()[0].upper()
    found = [p["id"] for page in merchant.pages("/products", q=word) for p in page]
    assert products[-1]["id"] in found


def test_the_merchant_key_writes_and_what_it_makes_comes_first(merchant: Caller) -> None:
    made = ok(merchant.post("/products", json={"title": "Made by hand", "price": 1, "stock": 1}), 201)
    assert ok(merchant.get("/products", params={"limit": 1}))["data"][0]["id"] == made["id"]


def test_a_seeded_customer_signs_in_and_sees_the_orders_of_its_own(
    service: Service, merchant: Caller
) -> None:
    orders = [order for page in merchant.pages("/orders", limit=100) for order in page]
    assert len(orders) == 10
    (first,) = [
        c["id"]
        for page in merchant.pages("/customers")
        for c in page
        if c["email"] == "shopper-1@example.com"
    ]
    credentials = {"email": "shopper-1@example.com", "password": "demo-password"}
    token = ok(Caller(service, merchant.path).post("/sessions", json=credentials), 201)["token"]
    own = [order for page in Caller(service, merchant.path, token).pages("/orders") for order in page]
    assert [order["id"] for order in own] == [o["id"] for o in orders if o["customer_id"] == first]
    assert all(o["total"] == sum(i["unit_price"] * i["quantity"] for i in o["items"]) for o in orders)


def test_a_pending_order_can_be_cancelled_and_its_stock_comes_back(merchant: Caller) -> None:
    order = next(order for page in merchant.pages("/orders", status="pending", limit=100) for order in page)
    line = order["items"][0]
    path = f"/products/{line['product_id']}"
    before = ok(merchant.get(path))["stock"]
    ok(merchant.post(f"/orders/{order['id']}/cancel"))
    assert ok(merchant.get(path))["stock"] == before + line["quantity"]

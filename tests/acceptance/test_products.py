"""Products: contract section 2."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest

from tests.cluster_fixtures import Service
from tests.shop import Caller, Json, Shop, at_once, new_product, ok, refused

NOT_THERE = "01900000-0000-7000-8000-000000000000"
KIB = 1024


def attributes_of(size: int) -> Json:
    """An object that takes so many bytes of JSON without white space."""
    return {"a": "x" * (size - len('{"a":""}'))}


@pytest.fixture(scope="module")
def mug(shop: Shop) -> Json:
    """A product nobody changes."""
    return shop.product(title="Mug", description="Holds 30 cl.", attributes={"colour": "blue"})


# Creating and reading


def test_a_new_product_is_answered_whole_and_with_its_place(shop: Shop) -> None:
    body = {"title": "Mug", "description": "Blue.", "price": 1250, "stock": 4, "attributes": {"a": [1, None]}}
    answer = shop.merchant.post("/products", json=body)
    product = ok(answer, 201)
    assert body.items() <= product.items()
    assert product["store_id"] == shop.id
    assert product["currency"] == shop.store["currency"]
    assert UUID(product["id"]).version == 7
    assert product["created_at"] == product["updated_at"]
    assert answer.headers["Location"] == f"{shop.path}/products/{product['id']}"
    assert ok(shop.anyone.get(f"/products/{product['id']}")) == product


def test_description_and_attributes_may_be_left_out(shop: Shop) -> None:
    product = ok(shop.merchant.post("/products", json={"title": "Mug", "price": 0, "stock": 0}), 201)
    assert (product["description"], product["attributes"]) == ("", {})


@pytest.mark.parametrize("field", ["title", "price", "stock"])
def test_any_other_field_may_not(shop: Shop, field: str) -> None:
    body = new_product()
    del body[field]
    problem = refused(shop.merchant.post("/products", json=body), 400)
    assert [error["path"] for error in problem["errors"]] == [f"/{field}"]


@pytest.mark.parametrize(
    "field", ["id", "store_id", "currency", "version", "created_at", "Title", "a/b~c", ""]
)
def test_a_field_that_products_do_not_take_is_refused_by_its_name(shop: Shop, mug: Json, field: str) -> None:
    pointer = "/" + field.replace("~", "~0").replace("/", "~1")  # RFC 6901
    for answer in (
        shop.merchant.post("/products", json=new_product(**{field: "x"})),
        shop.merchant.patch(f"/products/{mug['id']}", json={field: "x"}),
    ):
        assert [error["path"] for error in refused(answer, 400)["errors"]] == [pointer]


ACCEPTED: list[tuple[str, Any]] = [
    ("title", "x"),
    ("title", "x" * 200),
    ("title", "𝔘" * 200),
    ("title", "e\u0301"),
    ("title", "\u00e9"),
    ("title", "</script>\"'\\\u2028"),
    ("description", ""),
    ("description", "x" * 10_000),
    ("description", "𝔘" * 10_000),
    ("price", 0),
    ("price", 10**12),
    ("stock", 0),
    ("stock", 10**9),
    ("attributes", {}),
    ("attributes", attributes_of(16 * KIB)),
    ("attributes", {"": "", "𝔘": ["e\u0301", None, True, -1.5, 0.25, 10**30, {"deep": [[]]}]}),
]
REFUSED: list[tuple[str, Any]] = [
    ("title", ""),
    ("title", "x" * 201),
    ("title", "𝔘" * 201),
    ("title", "a\0b"),
    ("title", 7),
    ("title", None),
    ("title", ["x"]),
    ("description", "x" * 10_001),
    ("description", "\0"),
    ("description", None),
    ("price", -1),
    ("price", 10**12 + 1),
    ("price", 10**400),
    ("price", 2**64),
    ("price", 12.5),
    ("price", 1e300),
    ("price", "12"),
    ("price", True),
    ("price", None),
    ("stock", -1),
    ("stock", 10**9 + 1),
    ("stock", 0.5),
    ("stock", False),
    ("stock", "1"),
    ("attributes", attributes_of(16 * KIB + 1)),
    ("attributes", {"𝔘" * (4 * KIB): 1}),
    ("attributes", []),
    ("attributes", "{}"),
    ("attributes", None),
    ("attributes", {"a": "\0"}),
    ("attributes", {"a\0": 1}),
    ("attributes", {"a": [{"b": "\0"}]}),
]


def named(case: object) -> str:
    text = json.dumps(case)
    return text if len(text) < 30 else f"{text[:12]}…{len(text)}"


@pytest.mark.parametrize(("field", "value"), ACCEPTED, ids=named)
def test_a_value_in_range_is_kept_as_it_is(shop: Shop, field: str, value: Any) -> None:
    made = shop.product(**{field: value})
    changed = shop.product()
    path = f"/products/{changed['id']}"
    assert made[field] == value
    assert ok(shop.merchant.patch(path, json={field: value}))[field] == value
    assert ok(shop.anyone.get(path))[field] == value


@pytest.mark.parametrize(("field", "value"), REFUSED, ids=named)
def test_a_value_out_of_range_is_refused_by_its_field(shop: Shop, mug: Json, field: str, value: Any) -> None:
    for answer in (
        shop.merchant.post("/products", json=new_product(**{field: value})),
        shop.merchant.patch(f"/products/{mug['id']}", json={field: value}),
    ):
        assert [error["path"] for error in refused(answer, 400)["errors"]] == [f"/{field}"]
    assert ok(shop.anyone.get(f"/products/{mug['id']}")) == mug


@pytest.mark.parametrize("product_id", [NOT_THERE, "not-an-id", "1", "%00", "%ff", "𝔘"])
def test_a_product_that_is_not_there_is_404(shop: Shop, product_id: str) -> None:
    path = f"/products/{product_id}"
    refused(shop.anyone.get(path), 404)
    refused(shop.merchant.patch(path, json={"price": 1}), 404)
    refused(shop.merchant.patch(path, json={}), 404)
    refused(shop.merchant.delete(path), 404)


def test_a_product_is_not_found_in_another_store(shop: Shop, mug: Json, market: Service) -> None:
    other = Shop.create(market)
    path = f"/products/{mug['id']}"
    refused(other.anyone.get(path), 404)
    refused(other.merchant.patch(path, json={"price": 1}), 404)
    refused(other.merchant.delete(path), 404)
    assert ok(shop.anyone.get(path)) == mug


def test_only_the_merchant_changes_products(shop: Shop, mug: Json, market: Service) -> None:
    path = f"/products/{mug['id']}"
    other = shop.caller(Shop.create(market).api_key)
    callers: dict[int, list[Caller]] = {
        401: [shop.anyone],
        403: [shop.guest(), shop.customer(), shop.caller(market.operator_token), other],
    }
    for status, those in callers.items():
        for caller in those:
            refused(caller.post("/products", json=new_product()), status)
            refused(caller.patch(path, json={"price": 1}), status)
            refused(caller.delete(path), status)
    assert ok(shop.anyone.get(path)) == mug


def test_a_burst_of_readers_is_served_whole(shop: Shop, mug: Json) -> None:
    """Many more at one moment than a worker has connections to the shard."""
    assert set(at_once(shop.anyone, "/products", 300)) == {200}


# Changing and deleting


def test_a_change_touches_the_named_fields_alone(shop: Shop) -> None:
    product = shop.product(description="Blue.", attributes={"a": 1})
    changed = ok(shop.merchant.patch(f"/products/{product['id']}", json={"price": 7, "attributes": {"b": 2}}))
    assert changed["version"] > product["version"]
    assert changed["updated_at"] >= product["updated_at"]
    same = {"version", "updated_at", "price", "attributes"}
    assert changed == product | {name: changed[name] for name in same}
    assert (changed["price"], changed["attributes"]) == (7, {"b": 2})


def test_no_change_is_answered_with_the_product(shop: Shop, mug: Json) -> None:
    assert ok(shop.merchant.patch(f"/products/{mug['id']}", json={})) == mug


def test_a_deleted_product_is_gone(shop: Shop) -> None:
    product = shop.product()
    path = f"/products/{product['id']}"
    answer = shop.merchant.delete(path)
    assert (answer.status_code, answer.content) == (204, b"")
    refused(shop.anyone.get(path), 404)
    refused(shop.merchant.delete(path), 404)
    refused(shop.merchant.patch(path, json={"price": 1}), 404)
    assert product["id"] not in [seen["id"] for seen in ok(shop.anyone.get("/products"))["data"]]


def test_an_order_keeps_the_lines_of_a_deleted_product(shop: Shop) -> None:
    product = shop.product(title="Rare Mug", price=300)
    order = ok(shop.place_order(shop.merchant, [(product, 2)]), 201)
    shop.merchant.delete(f"/products/{product['id']}")
    line = {"product_id": product["id"], "title": "Rare Mug", "unit_price": 300, "quantity": 2}
    assert ok(shop.merchant.get(f"/orders/{order['id']}"))["items"] == [line]

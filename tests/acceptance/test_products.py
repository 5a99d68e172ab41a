"""Products, and conditional requests on them: contract sections 2 and 3."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from tests.cluster_fixtures import Service
from tests.shop import Caller, Json, Shop, new_product, ok, refused

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


# Conditional requests


def test_a_change_of_a_product_changes_its_etag_and_version(shop: Shop) -> None:
    product = shop.product(stock=5)
    path = f"/products/{product['id']}"

    def state() -> tuple[str, int]:
        answer = shop.anyone.get(path)
        return answer.headers["ETag"], ok(answer)["version"]

    seen = [state()]
    answer = shop.merchant.patch(path, json={"stock": 9})
    seen.append(state())
    assert answer.headers["ETag"] == seen[-1][0]
    ok(shop.place_order(shop.guest(), [(product, 1)]), 201)
    seen.append(state())
    assert len({tag for tag, _ in seen}) == 3
    assert [version for _, version in seen] == sorted({version for _, version in seen})
    assert state() == seen[-1]


def tags_that_match(tag: str) -> list[str]:
    return [tag, f"W/{tag}", f'"x", {tag}', f'W/"x,y" ,W/{tag},"z"', "*", f"{tag}, garbage"]


def test_a_client_that_has_the_product_does_not_get_it_again(shop: Shop, mug: Json) -> None:
    path = f"/products/{mug['id']}"
    tag = shop.anyone.get(path).headers["ETag"]
    for given in tags_that_match(tag):
        answer = shop.anyone.get(path, headers={"If-None-Match": given})
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag), given
    for given in ('"0"', 'W/"0", "x"', "", "0", tag.strip('"'), "*x"):
        answer = shop.anyone.get(path, headers={"If-None-Match": given})
        assert ok(answer) == mug, given
    refused(shop.anyone.get(f"/products/{NOT_THERE}", headers={"If-None-Match": "*"}), 404)


def test_a_changed_product_is_sent_again(shop: Shop) -> None:
    product = shop.product()
    path = f"/products/{product['id']}"
    tag = shop.anyone.get(path).headers["ETag"]
    shop.merchant.patch(path, json={"price": 1})
    assert ok(shop.anyone.get(path, headers={"If-None-Match": tag}))["price"] == 1


def test_if_match_lets_the_change_of_the_version_seen_through_and_no_other(shop: Shop) -> None:
    product = shop.product()
    path = f"/products/{product['id']}"
    first = shop.anyone.get(path).headers["ETag"]
    changed = shop.merchant.patch(path, json={"price": 1}, headers={"If-Match": first})
    assert ok(changed)["price"] == 1
    for body in ({"price": 2}, {}):
        refused(shop.merchant.patch(path, json=body, headers={"If-Match": first}), 412)
    assert ok(shop.anyone.get(path))["price"] == 1
    now = changed.headers["ETag"]
    several = f'"x", {first}, {now}'
    assert ok(shop.merchant.patch(path, json={"price": 3}, headers={"If-Match": several}))["price"] == 3
    assert ok(shop.merchant.patch(path, json={"price": 4}, headers={"If-Match": "*"}))["price"] == 4


def test_if_match_never_takes_a_weak_or_unquoted_tag(shop: Shop, mug: Json) -> None:
    path = f"/products/{mug['id']}"
    tag = shop.anyone.get(path).headers["ETag"]
    for given in (f"W/{tag}", tag.strip('"'), '"' + "9" * 40 + '"', '"٣"', '""', "garbage"):
        answer = shop.merchant.patch(path, json={"price": 1}, headers={"If-Match": given.encode()})
        refused(answer, 412)
    assert ok(shop.anyone.get(path)) == mug


def test_of_many_changes_to_one_version_one_goes_through(shop: Shop) -> None:
    path = f"/products/{shop.product()['id']}"
    tag = shop.anyone.get(path).headers["ETag"]
    callers = [shop.merchant.afresh() for _ in range(8)]

    def change(price: int) -> int:
        answer = callers[price].patch(path, json={"price": price}, headers={"If-Match": tag})
        return answer.status_code

    with ThreadPoolExecutor(len(callers)) as threads:
        statuses = list(threads.map(change, range(len(callers))))
    assert sorted(statuses) == [200] + [412] * 7
    assert ok(shop.anyone.get(path))["price"] == statuses.index(200)


def test_changes_of_different_fields_at_once_all_count(shop: Shop) -> None:
    path = f"/products/{shop.product()['id']}"
    changes: list[Json] = [
        {"title": "New"},
        {"description": "New"},
        {"price": 7},
        {"stock": 7},
        {"attributes": {"new": True}},
    ]
    callers = [shop.merchant.afresh() for _ in changes]
    with ThreadPoolExecutor(len(callers)) as threads:
        list(threads.map(lambda caller, change: ok(caller.patch(path, json=change)), callers, changes))
    product = ok(shop.anyone.get(path))
    assert all(change.items() <= product.items() for change in changes)
    assert product["version"] == 1 + len(changes)


def test_the_first_page_has_an_etag_that_every_change_changes(market: Service) -> None:
    shop = Shop.create(market)
    first, second = shop.product(stock=5), shop.product()

    def tag() -> str:
        return str(shop.anyone.get("/products").headers["ETag"])

    seen = [tag()]
    assert tag() == seen[0]
    shop.merchant.patch(f"/products/{first['id']}", json={"stock": 6})
    seen.append(tag())
    ok(shop.place_order(shop.guest(), [(first, 1)]), 201)
    seen.append(tag())
    third = shop.product()
    seen.append(tag())
    shop.merchant.delete(f"/products/{second['id']}")
    seen.append(tag())
    shop.merchant.delete(f"/products/{third['id']}")
    seen.append(tag())
    assert len(set(seen)) == len(seen)


def test_a_client_that_has_the_first_page_does_not_get_it_again(market: Service) -> None:
    shop = Shop.create(market)
    for _ in range(3):
        product = shop.product()
    for parameters in ({}, {"limit": 2}, {"q": "mug"}):
        tag = shop.anyone.get("/products", params=parameters).headers["ETag"]
        for given in tags_that_match(tag):
            answer = shop.anyone.get("/products", params=parameters, headers={"If-None-Match": given})
            assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag)
    tag = shop.anyone.get("/products").headers["ETag"]
    shop.merchant.patch(f"/products/{product['id']}", json={"price": 1})
    ok(shop.anyone.get("/products", headers={"If-None-Match": tag}))

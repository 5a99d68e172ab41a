"""Orders: placed whole or not at all, repeated byte for byte, taken on step by step."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
import pytest

from tests.cluster_fixtures import Databases, Service
from tests.shop import Json, Shop, ok, refused


@pytest.fixture(scope="module")
def shop(service: Service) -> Shop:
    return Shop.create(service)


def no_such_product() -> Json:
    return {"id": str(uuid.uuid4())}


def test_an_order_takes_the_stock_of_its_lines_and_keeps_title_and_price(shop: Shop) -> None:
    mug, plate = shop.product(title="Mug", price=100, stock=5), shop.product(title="Plate", price=7, stock=5)
    guest = shop.guest()
    answer = shop.place_order(guest, [(mug, 2), (plate, 3)])
    order = ok(answer, 201)
    assert order["status"] == "pending"
    assert order["customer_id"] is None
    assert (order["total"], order["currency"]) == (221, "EUR")
    assert order["items"] == [
        {"product_id": mug["id"], "title": "Mug", "unit_price": 100, "quantity": 2},
        {"product_id": plate["id"], "title": "Plate", "unit_price": 7, "quantity": 3},
    ]
    assert answer.headers["Location"] == f"{shop.path}/orders/{order['id']}"
    assert (shop.stock(mug), shop.stock(plate)) == (3, 2)
    assert ok(guest.get(f"/orders/{order['id']}")) == order


def test_an_order_changes_the_version_of_its_products(shop: Shop) -> None:
    mug = shop.product()
    ok(shop.place_order(shop.guest(), [(mug, 1)]), 201)
    after = ok(shop.anyone.get(f"/products/{mug['id']}"))
    assert after["version"] == mug["version"] + 1


def test_the_same_product_on_two_lines_is_taken_for_both(shop: Shop) -> None:
    mug = shop.product(stock=5)
    order = ok(shop.place_order(shop.guest(), [(mug, 2), (mug, 3)]), 201)
    assert [item["quantity"] for item in order["items"]] == [2, 3]
    assert shop.stock(mug) == 0


def test_the_same_product_on_two_lines_needs_stock_for_both(shop: Shop) -> None:
    mug = shop.product(stock=4)
    problem = refused(shop.place_order(shop.guest(), [(mug, 2), (mug, 3)]), 409, "insufficient-stock")
    assert problem["lines"] == [{"product_id": mug["id"], "requested": 5, "available": 4}]
    assert shop.stock(mug) == 4


def test_an_order_takes_the_stock_of_every_line_or_of_none(shop: Shop) -> None:
    plenty, little = shop.product(stock=50), shop.product(stock=1)
    guest = shop.guest()
    problem = refused(shop.place_order(guest, [(plenty, 10), (little, 2)]), 409, "insufficient-stock")
    assert problem["lines"] == [{"product_id": little["id"], "requested": 2, "available": 1}]
    assert (shop.stock(plenty), shop.stock(little)) == (50, 1)
    assert ok(guest.get("/orders"))["data"] == []


def test_a_product_that_is_not_there_is_named(shop: Shop) -> None:
    missing = no_such_product()
    problem = refused(
        shop.place_order(shop.guest(), [(shop.product(), 1), (missing, 1)]), 409, "unknown-product"
    )
    assert problem["lines"] == [{"product_id": missing["id"]}]


def test_a_product_of_another_store_is_not_there(shop: Shop, service: Service) -> None:
    foreign = Shop.create(service).product()
    refused(shop.place_order(shop.guest(), [(foreign, 1)]), 409, "unknown-product")


def test_the_largest_order_there_can_be_is_placed(shop: Shop) -> None:
    jewel = shop.product(price=10**12, stock=10**6)
    order = ok(shop.place_order(shop.guest(), [(jewel, 10_000)] * 100), 201)
    assert order["total"] == 10**18
    assert shop.stock(jewel) == 0


@pytest.mark.parametrize(
    "body",
    [
        {"items": []},
        {"items": [{"product_id": str(uuid.uuid4()), "quantity": 1}] * 101},
        {"items": [{"product_id": str(uuid.uuid4()), "quantity": 0}]},
        {"items": [{"product_id": str(uuid.uuid4()), "quantity": 10_001}]},
        {"items": [{"product_id": str(uuid.uuid4()), "quantity": "1"}]},
        {"items": [{"product_id": "1", "quantity": 1}]},
        {"items": [{"product_id": str(uuid.uuid4())}]},
        {"items": [{"product_id": str(uuid.uuid4()), "quantity": 1, "price": 1}]},
        {"items": None},
        {"lines": []},
    ],
)
def test_a_body_out_of_range_is_refused(shop: Shop, body: Json) -> None:
    answer = shop.guest().post("/orders", json=body, headers={"Idempotency-Key": "k"})
    assert refused(answer, 400, "invalid-request")["errors"]


# Checkout


def test_the_cart_is_checked_out_and_empty_afterwards(shop: Shop) -> None:
    mug, plate = shop.product(stock=3), shop.product(stock=3)
    guest = shop.guest()
    shop.put_in_cart(guest, mug, 1)
    shop.put_in_cart(guest, plate, 2)
    order = ok(shop.place_order(guest), 201)
    assert {item["product_id"]: item["quantity"] for item in order["items"]} == {mug["id"]: 1, plate["id"]: 2}
    assert ok(guest.get("/cart"))["items"] == []


def test_an_empty_cart_is_refused_and_leaves_no_key(shop: Shop) -> None:
    mug, guest = shop.product(), shop.guest()
    refused(shop.place_order(guest, key="again"), 409, "empty-cart")
    shop.put_in_cart(guest, mug)
    ok(shop.place_order(guest, key="again"), 201)


def test_a_merchant_has_no_cart(shop: Shop) -> None:
    refused(shop.place_order(shop.merchant), 409, "empty-cart")


def test_a_cart_whose_product_vanished_says_so_and_stays(shop: Shop) -> None:
    mug, plate, guest = shop.product(), shop.product(), shop.guest()
    for product in (plate, mug):
        shop.put_in_cart(guest, product)
    assert shop.merchant.delete(f"/products/{mug['id']}").status_code == 204
    problem = refused(shop.place_order(guest), 409, "unknown-product")
    assert problem["lines"] == [{"product_id": mug["id"]}]
    assert len(ok(guest.get("/cart"))["items"]) == 2
    shop.put_in_cart(guest, mug, 0)
    ok(shop.place_order(guest), 201)


def test_a_checkout_is_replayed_although_the_cart_is_another_by_now(shop: Shop) -> None:
    mug, plate, guest = shop.product(), shop.product(), shop.guest()
    shop.put_in_cart(guest, mug)
    first = shop.place_order(guest, key="cart")
    shop.put_in_cart(guest, plate)
    again = shop.place_order(guest, key="cart")
    assert again.content == first.content
    assert again.headers["Idempotent-Replayed"] == "true"
    assert [line["product_id"] for line in ok(guest.get("/cart"))["items"]] == [plate["id"]]


def test_a_replay_that_knows_no_cart_leaves_the_one_there_is(shop: Shop, databases: Databases) -> None:
    """What 0005_carts_once.sql made of the second of two orders of one cart, from before there was that index."""
    mug, plate, guest = shop.product(), shop.product(), shop.guest()
    shop.put_in_cart(guest, mug)
    first = shop.place_order(guest, key="cart")
    for shard in databases.cluster.topology.shard_names:
        with psycopg.connect(databases.dsn(shard)) as connection:
            connection.execute(
                "UPDATE idempotency_keys SET cart_version = NULL WHERE store_id = %s", [shop.id]
            )
    shop.put_in_cart(guest, plate)
    assert shop.place_order(guest, key="cart").content == first.content
    assert [line["product_id"] for line in ok(guest.get("/cart"))["items"]] == [plate["id"]]


# Idempotency


def test_a_repeated_key_gets_the_first_answer_byte_for_byte(shop: Shop) -> None:
    mug, guest = shop.product(stock=9), shop.guest()
    first = shop.place_order(guest, [(mug, 2)], key="once")
    assert "Idempotent-Replayed" not in first.headers
    shop.merchant.patch(f"/products/{mug['id']}", json={"title": "Other", "price": 1})
    again = shop.place_order(guest, [(mug, 2)], key="once")
    assert again.status_code == 201
    assert again.content == first.content
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert shop.stock(mug) == 7


def test_a_replay_gives_the_first_answer_also_after_the_order_went_on(shop: Shop) -> None:
    mug, guest = shop.product(), shop.guest()
    first = shop.place_order(guest, [(mug, 1)], key="on")
    ok(shop.merchant.post(f"/orders/{first.json()['id']}/pay"))
    assert shop.place_order(guest, [(mug, 1)], key="on").content == first.content


def test_the_same_key_with_another_body_is_refused(shop: Shop) -> None:
    mug, guest = shop.product(stock=9), shop.guest()
    ok(shop.place_order(guest, [(mug, 1)], key="mine"), 201)
    refused(shop.place_order(guest, [(mug, 2)], key="mine"), 422)
    refused(shop.place_order(guest, key="mine"), 422)
    assert shop.stock(mug) == 8


def test_the_same_body_in_other_white_space_is_the_same_body(shop: Shop) -> None:
    mug, guest = shop.product(stock=9), shop.guest()
    first = shop.place_order(guest, [(mug, 1)], key="spaced")
    text = f'{{ "items" : [ {{"quantity":1 , "product_id":"{mug["id"]}"}} ] }}'
    headers = {"Idempotency-Key": "spaced", "Content-Type": "application/json"}
    assert guest.post("/orders", data=text, headers=headers).content == first.content


def test_a_quoted_key_is_the_bare_one(shop: Shop) -> None:
    mug, guest = shop.product(), shop.guest()
    first = shop.place_order(guest, [(mug, 1)], key="quoted key")
    assert shop.place_order(guest, [(mug, 1)], key='"quoted key"').content == first.content


def test_a_key_belongs_to_its_credential(shop: Shop) -> None:
    mug = shop.product(stock=9)
    orders = [ok(shop.place_order(buyer, [(mug, 1)], key="shared"), 201)["id"]
              for buyer in (shop.guest(), shop.guest(), shop.merchant)]  # fmt: skip
    assert len(set(orders)) == 3


def test_a_refused_order_leaves_no_key_behind(shop: Shop) -> None:
    mug, guest = shop.product(stock=0), shop.guest()
    refused(shop.place_order(guest, [(mug, 1)], key="later"), 409, "insufficient-stock")
    ok(shop.merchant.patch(f"/products/{mug['id']}", json={"stock": 1}))
    answer = shop.place_order(guest, [(mug, 1)], key="later")
    assert answer.status_code == 201
    assert "Idempotent-Replayed" not in answer.headers


@pytest.mark.parametrize("key", ["", '""', "é", "x" * 256, '"open', "tab\there"])
def test_a_key_that_is_none_is_refused(shop: Shop, key: str) -> None:
    body = {"items": [{"product_id": shop.product()["id"], "quantity": 1}]}
    headers = {"Idempotency-Key": key.encode("latin-1")}
    refused(shop.guest().post("/orders", json=body, headers=headers), 400)


def test_a_missing_key_is_refused(shop: Shop) -> None:
    mug = shop.product()
    refused(shop.guest().post("/orders", json={"items": [{"product_id": mug["id"], "quantity": 1}]}), 400)
    assert shop.stock(mug) == mug["stock"]


# Who sees what


def test_an_order_is_its_shoppers_and_the_merchants_alone(shop: Shop) -> None:
    mug, ada, bob = shop.product(), shop.customer(), shop.guest()
    order = ok(shop.place_order(ada, [(mug, 1)]), 201)
    assert order["customer_id"] == ada.customer_id
    path = f"/orders/{order['id']}"
    assert ok(shop.merchant.get(path)) == ok(ada.get(path)) == order
    refused(bob.get(path), 404)
    refused(shop.anyone.get(path), 401)
    assert ok(bob.get("/orders"))["data"] == []


def test_a_customer_sees_the_orders_of_all_own_sessions(shop: Shop) -> None:
    mug, ada = shop.product(), shop.customer()
    order = ok(shop.place_order(ada, [(mug, 1)]), 201)
    assert ada.email is not None
    later = shop.sign_in(ada.email)
    assert ok(later.get("/orders"))["data"] == [order]
    assert ok(later.get(f"/orders/{order['id']}")) == order


def test_a_list_of_orders_is_newest_first_and_narrowed_by_status(service: Service) -> None:
    shop = Shop.create(service)
    mug, guest = shop.product(stock=99), shop.guest()
    made = [ok(shop.place_order(guest, [(mug, 1)]), 201)["id"] for _ in range(5)]
    for order in made[1:3]:
        ok(shop.merchant.post(f"/orders/{order}/pay"))

    def ids(pages: list[list[Json]]) -> list[Any]:
        return [order["id"] for page in pages for order in page]

    for reader in (shop.merchant, guest):
        assert ids(reader.pages("/orders", limit=2)) == made[::-1]
        assert ids(reader.pages("/orders", limit=1, status="paid")) == [made[2], made[1]]
        assert ids(reader.pages("/orders", status="fulfilled")) == []
        refused(reader.get("/orders", params={"status": "lost"}), 400)


def test_a_signed_out_session_neither_orders_nor_sees_its_orders(shop: Shop) -> None:
    mug, ada = shop.product(), shop.customer()
    order = ok(shop.place_order(ada, [(mug, 1)]), 201)
    assert ada.delete("/sessions/current").status_code == 204
    for answer in (
        shop.place_order(ada, [(mug, 1)]),
        ada.get(f"/orders/{order['id']}"),
        ada.get("/orders"),
        shop.place_order(ada),
    ):
        refused(answer, 401)
    assert shop.stock(mug) == mug["stock"] - 1


# Steps


@pytest.mark.parametrize("steps", [["pay", "fulfil"], ["cancel"], ["pay", "cancel"]])
def test_an_order_goes_step_by_step(shop: Shop, steps: list[str]) -> None:
    order = ok(shop.place_order(shop.guest(), [(shop.product(), 1)]), 201)
    becomes = {"pay": "paid", "fulfil": "fulfilled", "cancel": "cancelled"}
    for step in steps:
        after = ok(shop.merchant.post(f"/orders/{order['id']}/{step}"))
        assert after["status"] == becomes[step]
        assert after["items"] == order["items"]
        assert ok(shop.merchant.get(f"/orders/{order['id']}")) == after


@pytest.mark.parametrize(
    ("steps", "refused_step"),
    [
        ([], "fulfil"),
        (["pay"], "pay"),
        (["pay", "fulfil"], "cancel"),
        (["pay", "fulfil"], "pay"),
        (["cancel"], "pay"),
        (["cancel"], "fulfil"),
        (["cancel"], "cancel"),
    ],
)
def test_a_step_that_the_status_does_not_allow_is_refused(
    shop: Shop, steps: list[str], refused_step: str
) -> None:
    mug = shop.product()
    path = f"/orders/{ok(shop.place_order(shop.guest(), [(mug, 1)]), 201)['id']}"
    for step in steps:
        ok(shop.merchant.post(f"{path}/{step}"))
    before, stock = ok(shop.merchant.get(path)), shop.stock(mug)
    refused(shop.merchant.post(f"{path}/{refused_step}"), 409, "invalid-transition")
    assert ok(shop.merchant.get(path)) == before
    assert shop.stock(mug) == stock


def test_cancelling_restocks_every_line_that_is_still_there(shop: Shop) -> None:
    mug, plate = shop.product(stock=5), shop.product(stock=5)
    order = ok(shop.place_order(shop.guest(), [(mug, 2), (plate, 1), (mug, 1)]), 201)
    assert shop.merchant.delete(f"/products/{plate['id']}").status_code == 204
    after = ok(shop.merchant.post(f"/orders/{order['id']}/cancel"))
    assert shop.stock(mug) == 5
    assert len(after["items"]) == 3


def test_cancelling_restocks_beyond_what_a_merchant_may_enter(shop: Shop) -> None:
    mug = shop.product(stock=10)
    order = ok(shop.place_order(shop.guest(), [(mug, 10)]), 201)
    ok(shop.merchant.patch(f"/products/{mug['id']}", json={"stock": 10**9}))
    ok(shop.merchant.post(f"/orders/{order['id']}/cancel"))
    assert shop.stock(mug) == 10**9 + 10


def test_steps_are_the_merchants(shop: Shop) -> None:
    guest = shop.guest()
    order = ok(shop.place_order(guest, [(shop.product(), 1)]), 201)
    refused(guest.post(f"/orders/{order['id']}/pay"), 403)
    refused(shop.merchant.post(f"/orders/{uuid.uuid4()}/pay"), 404)


def test_a_deleted_products_orders_keep_their_lines(shop: Shop) -> None:
    mug = shop.product(title="Gone soon")
    order = ok(shop.place_order(shop.guest(), [(mug, 1)]), 201)
    assert shop.merchant.delete(f"/products/{mug['id']}").status_code == 204
    assert ok(shop.merchant.get(f"/orders/{order['id']}"))["items"][0]["title"] == "Gone soon"

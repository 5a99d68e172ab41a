"""Lists, page by page: contract section 2, "Paging"."""

from __future__ import annotations

import re
import string
from typing import Any

import pytest
import requests

from tests.cluster_fixtures import Service
from tests.shop import Caller, Json, Shop, new_product, ok, operator, refused

PRODUCTS = 23


@pytest.fixture(scope="module")
def products(shop: Shop) -> list[Json]:
    """What the module's store has, newest first. No test changes it."""
    return [shop.product(title=f"Mug {number}") for number in range(PRODUCTS)][::-1]


@pytest.fixture(scope="module")
def lists(shop: Shop, products: list[Json]) -> dict[str, tuple[Caller, str]]:
    """Every list there is, with more than two things in it: who may read it, and its path."""
    guest = shop.guest()
    for number in range(3):
        ok(shop.place_order(guest, [(products[0], 1)]), 201)
        body = {"email": f"ada{number}@example.com", "name": "Ada", "password": "long enough"}
        ok(shop.anyone.post("/customers", json=body), 201)
        Shop.create(shop.service)
    return {
        "products": (shop.anyone, "/products"),
        "search": (shop.anyone, "/products?q=mug"),
        "customers": (shop.merchant, "/customers"),
        "orders": (shop.merchant, "/orders"),
        "own orders": (guest, "/orders"),
        "pending orders": (shop.merchant, "/orders?status=pending"),
        "stores": (operator(shop.service), "/v1/stores"),
    }


LISTS = ("products", "search", "customers", "orders", "own orders", "pending orders", "stores")


def test_products_come_newest_first_and_20_a_page(shop: Shop, products: list[Json]) -> None:
    page = ok(shop.anyone.get("/products"))
    assert [product["id"] for product in page["data"]] == [product["id"] for product in products[:20]]
    rest = ok(shop.anyone.get("/products", params={"cursor": page["next_cursor"]}))
    assert [product["id"] for product in rest["data"]] == [product["id"] for product in products[20:]]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize("limit", [1, 2, 22, 23, 24, 100])
def test_pages_of_any_size_make_up_the_list(shop: Shop, products: list[Json], limit: int) -> None:
    pages = shop.anyone.pages("/products", limit=limit)
    assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert len(pages) == -(-PRODUCTS // limit)
    listed = [product["id"] for page in pages for product in page]
    assert listed == [product["id"] for product in products]


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("limit", ["0", "101", "-1", "1.5", "abc", "", "null", "true", "٣", "9" * 30, "1\0"])
def test_a_limit_that_is_no_number_from_1_to_100_is_refused(
    lists: dict[str, tuple[Caller, str]], name: str, limit: str
) -> None:
    caller, path = lists[name]
    problem = refused(get(caller, path, limit=limit), 400)
    assert [error["path"] for error in problem["errors"]] == ["/limit"]


def get(caller: Caller, path: str, **parameters: str) -> requests.Response:
    return caller.get(path, params=parameters)


@pytest.mark.parametrize("name", LISTS)
def test_the_cursor_stands_in_the_link_as_well(lists: dict[str, tuple[Caller, str]], name: str) -> None:
    caller, path = lists[name]
    answer = get(caller, path, limit="1")
    page = ok(answer)
    (link,) = re.findall(r'<([^>]*)>; rel="next"', answer.headers["Link"])
    followed = caller.http.get(link.removeprefix(caller.service.base_url))
    by_cursor = get(caller, path, limit="1", cursor=page["next_cursor"])
    assert ok(followed) == ok(by_cursor)
    assert ok(followed)["data"] != page["data"]


@pytest.mark.parametrize("q", ["100% a&b=c", "a+b;c", "🍵 tea", '"quoted" <b>', "#x ?y", "\\ %2B"])
def test_the_link_asks_for_the_same_words(market: Service, q: str) -> None:
    shop = Shop.create(market)
    older, newer = shop.product(title=q), shop.product(description=q)
    shop.product(title="Something else")
    answer = shop.anyone.get("/products", params={"q": q, "limit": 1})
    assert [product["id"] for product in ok(answer)["data"]] == [newer["id"]]
    rest = requests.get(answer.links["next"]["url"], timeout=10)
    assert [product["id"] for product in ok(rest)["data"]] == [older["id"]]


@pytest.mark.parametrize("name", LISTS)
def test_the_last_page_has_no_cursor_and_no_link(lists: dict[str, tuple[Caller, str]], name: str) -> None:
    caller, path = lists[name]
    answer = get(caller, path, limit="2")
    while (cursor := ok(answer)["next_cursor"]) is not None:
        assert "Link" in answer.headers
        answer = get(caller, path, limit="2", cursor=cursor)
    assert "Link" not in answer.headers
    assert ok(answer)["data"]


def test_an_empty_list_is_one_page(market: Service) -> None:
    shop = Shop.create(market)
    for caller, path in (
        (shop.anyone, "/products"),
        (shop.merchant, "/customers"),
        (shop.merchant, "/orders"),
    ):
        answer = caller.get(path)
        assert ok(answer) == {"data": [], "next_cursor": None}
        assert "Link" not in answer.headers


def test_a_list_that_fits_its_page_exactly_has_no_further_one(market: Service) -> None:
    shop = Shop.create(market)
    for _ in range(2):
        shop.product()
    page = ok(shop.anyone.get("/products", params={"limit": 2}))
    assert (len(page["data"]), page["next_cursor"]) == (2, None)


def test_a_cursor_with_any_character_changed_is_refused(shop: Shop, products: list[Json]) -> None:
    cursor = ok(shop.anyone.get("/products", params={"limit": 1}))["next_cursor"]
    alphabet = string.ascii_letters + string.digits + "-_"
    changed = []
    for place, character in enumerate(cursor):
        neighbour = alphabet[(alphabet.index(character) + 1) % len(alphabet)]
        changed.append(cursor[:place] + neighbour + cursor[place + 1 :])
        changed.append(cursor[:place] + cursor[place + 1 :])
    last = alphabet.index(cursor[-1])
    # The spare bits of the last character, which decode to the same bytes.
    changed += [cursor[:-1] + alphabet[last ^ bit] for bit in (1, 2, 4)]
    changed += [
        "",
        "null",
        "x",
        "%",
        cursor + "A",
        cursor + "=",
        f" {cursor}",
        f"{cursor}\n",
        cursor.swapcase(),
    ]
    changed += ["\0", "𝔘", cursor * 50]
    for text in changed:
        problem = refused(shop.anyone.get("/products", params={"cursor": text}), 400)
        assert [error["path"] for error in problem["errors"]] == ["/cursor"], text


def test_a_cursor_of_one_list_is_no_other_lists(
    lists: dict[str, tuple[Caller, str]], market: Service
) -> None:
    cursors = {name: ok(get(*where, limit="1"))["next_cursor"] for name, where in lists.items()}
    for name, (caller, path) in lists.items():
        for of, cursor in cursors.items():
            answer = get(caller, path, limit="1", cursor=cursor)
            if of == name:
                ok(answer)
            else:
                refused(answer, 400)
    elsewhere = Shop.create(market)
    refused(get(elsewhere.anyone, "/products", cursor=cursors["products"]), 400)
    refused(get(elsewhere.merchant, "/orders", cursor=cursors["orders"]), 400)
    (caller, _) = lists["search"]
    refused(get(caller, "/products", q="blue", cursor=cursors["search"]), 400)


def test_another_shopper_cannot_go_on_in_a_list_of_orders(
    lists: dict[str, tuple[Caller, str]], shop: Shop
) -> None:
    cursor = ok(get(*lists["own orders"], limit="1"))["next_cursor"]
    refused(shop.guest().get("/orders", params={"cursor": cursor}), 400)


def test_a_cursor_goes_on_with_another_limit(shop: Shop, products: list[Json]) -> None:
    cursor = ok(shop.anyone.get("/products", params={"limit": 1}))["next_cursor"]
    page = ok(shop.anyone.get("/products", params={"limit": 5, "cursor": cursor}))
    assert [product["id"] for product in page["data"]] == [product["id"] for product in products[1:6]]


def test_no_product_is_missed_or_seen_twice_while_others_come_and_go(market: Service) -> None:
    shop = Shop.create(market)
    there = [shop.product() for _ in range(12)]
    doomed, stay = there[::3], [product for product in there if product not in there[::3]]
    seen: list[Any] = []
    cursor = None
    while cursor is not None or not seen:
        parameters = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = ok(shop.anyone.get("/products", params=parameters))
        seen += [product["id"] for product in page["data"]]
        cursor = page["next_cursor"]
        shop.product()
        if doomed:
            # The one a cursor points at is among them now and then.
            assert shop.merchant.delete(f"/products/{doomed.pop()['id']}").status_code == 204
    assert len(set(seen)) == len(seen)
    assert {product["id"] for product in stay} <= set(seen)
    assert seen == sorted(seen, reverse=True)


def test_a_cursor_goes_on_where_the_product_it_points_at_is_gone(market: Service) -> None:
    shop = Shop.create(market)
    oldest, middle, newest = (shop.product() for _ in range(3))
    page = ok(shop.anyone.get("/products", params={"limit": 2}))
    assert [product["id"] for product in page["data"]] == [newest["id"], middle["id"]]
    shop.merchant.delete(f"/products/{middle['id']}")
    rest = ok(shop.anyone.get("/products", params={"cursor": page["next_cursor"]}))
    assert [product["id"] for product in rest["data"]] == [oldest["id"]]


def test_products_made_in_one_moment_have_an_order_too(market: Service) -> None:
    shop = Shop.create(market)
    made = [ok(shop.merchant.post("/products", json=new_product()), 201)["id"] for _ in range(10)]
    listed = [product["id"] for page in shop.anyone.pages("/products", limit=3) for product in page]
    assert listed == sorted(made, reverse=True)


def test_parameters_that_a_list_does_not_take_are_passed_over(shop: Shop, products: list[Json]) -> None:
    ok(shop.anyone.get("/products", params={"utm_source": "mail", "page": "2"}))


def test_the_merchant_alone_lists_customers(shop: Shop, market: Service) -> None:
    refused(shop.anyone.get("/customers"), 401)
    refused(shop.guest().get("/customers"), 403)
    refused(shop.customer().get("/customers"), 403)
    refused(shop.caller(market.operator_token).get("/customers"), 403)

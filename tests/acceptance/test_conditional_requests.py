"""`ETag`, `If-None-Match` and `If-Match` on a product and the first page of products: contract sections 2 and 3."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster_fixtures import Service
from tests.shop import Json, Shop, ok, refused

NOT_THERE = "01900000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def mug(shop: Shop) -> Json:
    """A product nobody changes."""
    return shop.product()


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

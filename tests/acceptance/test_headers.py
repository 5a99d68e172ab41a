"""What every answer carries: contract section 3. (Also test_conditional_requests.py, and test_paging.py for `Link`.)"""

from __future__ import annotations

import json
import re
import secrets

import pytest
import requests

from routing.token import Position, TokenCodec
from tests.cluster_fixtures import Service
from tests.shop import Caller, Json, Shop, eventually, new_product, ok, operator, refused

TOKEN = "Consistency-Token"
NOT_THERE = "01900000-0000-7000-8000-000000000000"
SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


@pytest.fixture(scope="module")
def shops(market: Service) -> dict[str, Shop]:
    """A store on each shard, by the shard's name."""
    return Shop.on_each_shard(market)


@pytest.fixture(scope="module")
def mug(shop: Shop) -> Json:
    return shop.product()


def positions(market: Service, token: str | None) -> dict[int, Position]:
    """What a token says, which to clients is opaque."""
    found = TokenCodec(market.settings.secret_key).decode(token)
    assert found, f"no token, or one that says nothing: {token}"
    return found


# Consistency-Token


def every_write(shop: Shop) -> list[tuple[Caller, str, str, Json | None, int]]:
    """Each endpoint that writes, with who may, and the answer."""
    mug, key = shop.product(), ok(shop.merchant.post("/api-keys"), 201)
    shopper, leaving = shop.guest(), shop.guest()
    one, two, three = (ok(shop.place_order(shopper, [(mug, 1)]), 201)["id"] for _ in range(3))
    lines = {"items": [{"product_id": mug["id"], "quantity": 1}]}
    customer = {"email": f"{secrets.token_hex(4)}@example.com", "name": "Ada", "password": "long enough"}
    return [
        (shop.merchant, "POST", "/api-keys", {}, 201),
        (shop.merchant, "DELETE", f"/api-keys/{key['id']}", None, 204),
        (shop.merchant, "POST", "/products", new_product(), 201),
        (shop.merchant, "PATCH", f"/products/{mug['id']}", {"price": 1}, 200),
        (shop.merchant, "PATCH", f"/products/{mug['id']}", {}, 200),
        (shop.anyone, "POST", "/customers", customer, 201),
        (shop.anyone, "POST", "/sessions", {}, 201),
        (leaving, "DELETE", "/sessions/current", None, 204),
        (shopper, "PUT", f"/cart/items/{mug['id']}", {"quantity": 1}, 200),
        (shopper, "DELETE", "/cart", None, 204),
        (shopper, "POST", "/orders", lines, 201),
        (shop.merchant, "POST", f"/orders/{one}/pay", {}, 200),
        (shop.merchant, "POST", f"/orders/{one}/fulfil", {}, 200),
        (shop.merchant, "POST", f"/orders/{two}/cancel", {}, 200),
        (shop.merchant, "DELETE", f"/products/{mug['id']}", None, 204),
        # Refused ones hand on what the client had seen before.
        (shop.anyone, "POST", "/customers", customer, 409),
        (shop.merchant, "POST", "/products", {}, 400),
        (shop.merchant, "DELETE", f"/products/{mug['id']}", None, 404),
        (shop.merchant, "DELETE", "/products/not-an-id", None, 404),
        (shop.merchant, "POST", f"/orders/{one}/cancel", {}, 409),
        (shop.anyone, "POST", "/products", {}, 401),
        (shopper, "POST", f"/orders/{three}/pay", {}, 403),
    ]


def test_every_answer_to_a_write_has_a_token_and_a_cookie_of_it(market: Service) -> None:
    shop = Shop.create(market)
    for caller, method, path, body, status in every_write(shop):
        answer = caller.afresh().request(method, path, json=body, headers={"Idempotency-Key": "k"})
        assert answer.status_code == status, answer.text
        assert answer.headers[TOKEN]
        assert answer.cookies[TOKEN] == answer.headers[TOKEN]
        assert re.fullmatch(r"[A-Za-z0-9_-]+", answer.headers[TOKEN])


def test_the_cookie_is_for_the_whole_service_and_not_for_scripts(shop: Shop) -> None:
    name_and_value, *attributes = (
        shop.merchant.post("/products", json=new_product()).headers["Set-Cookie"].split("; ")
    )
    assert name_and_value.startswith(f"{TOKEN}=")
    assert {"Path=/", "HttpOnly", "SameSite=Lax"} <= set(attributes)


def test_a_refused_write_hands_on_the_token_it_came_with(shop: Shop, market: Service) -> None:
    token = shop.merchant.post("/products", json=new_product()).headers[TOKEN]
    for path, status in (("/products", 400), ("/products/not-an-id/x", 404)):
        answer = shop.merchant.afresh().post(path, json={}, headers={TOKEN: token})
        refused(answer, status)
        if TOKEN in answer.headers:
            assert positions(market, answer.headers[TOKEN]) == positions(market, token)


@pytest.mark.parametrize("carried", ["header", "cookie"])
def test_one_token_stands_for_writes_on_two_shards(
    market: Service, shops: dict[str, Shop], carried: str
) -> None:
    token = ""
    for shop in shops.values():
        caller = shop.merchant.afresh()
        if token:
            name, value = (TOKEN, token) if carried == "header" else ("Cookie", f"{TOKEN}={token}")
            caller.http.headers[name] = value
        written = caller.post("/products", json=new_product()).headers[TOKEN]
        if token:
            assert positions(market, token).items() <= positions(market, written).items()
        token = written
    assert len(positions(market, token)) == len(shops) == 2


def test_a_token_never_goes_back(market: Service, shop: Shop) -> None:
    caller = shop.merchant.afresh()
    old = caller.post("/products", json=new_product()).headers[TOKEN]
    new = caller.post("/products", json=new_product()).headers[TOKEN]
    # An old one in the header beside the newer one in the cookie.
    answer = caller.post("/sessions", json={}, headers={TOKEN: old})
    assert positions(market, answer.headers[TOKEN]) == positions(market, new)


@pytest.mark.parametrize("carried", ["header", "cookie", "merchant key"])
def test_a_later_request_sees_the_write_whichever_worker_answers(shop: Shop, carried: str) -> None:
    product = shop.product()
    path = f"/products/{product['id']}"
    for price in range(20):
        written = shop.merchant.patch(path, json={"price": price})
        reader = shop.anyone.afresh() if carried != "merchant key" else shop.merchant.afresh()
        token = written.headers[TOKEN]
        headers = {"header": {TOKEN: token}, "cookie": {"Cookie": f"{TOKEN}={token}"}}.get(carried, {})
        assert ok(reader.get(path, headers=headers))["price"] == price
        listed = ok(reader.get("/products", params={"limit": 1}, headers=headers))["data"]
        assert [seen["price"] for seen in listed] == [price]


def test_a_forged_token_is_passed_over(market: Service, shop: Shop, mug: Json) -> None:
    good = shop.merchant.post("/products", json=new_product()).headers[TOKEN]
    made_up = TokenCodec("x" * 32).encode({1: Position(1, 1, 2**63)})
    forged = [
        "",
        "x",
        "null",
        "%00",
        "A" * 4000,
        good[:-1],
        good + "A",
        good.swapcase(),
        made_up,
        "ü",
        "{}",
        '"',
    ]
    for text in forged:
        for name, value in ((TOKEN, text), ("Cookie", f"{TOKEN}={text}"), ("Cookie", text)):
            headers = {name: value.encode()}
            assert ok(shop.anyone.afresh().get(f"/products/{mug['id']}", headers=headers)) == mug
            answer = shop.merchant.afresh().post("/products", json=new_product(), headers=headers)
            ok(answer, 201)
            assert len(positions(market, answer.headers[TOKEN])) == 1


def test_no_cache_on_the_way_answers_with_what_is_older_than_the_clients_write(shop: Shop, mug: Json) -> None:
    product = f"/products/{mug['id']}"
    tag = shop.anyone.get(product).headers["ETag"]
    for answer in (
        shop.anyone.get(product),
        shop.anyone.get(product, headers={"If-None-Match": tag}),
        shop.anyone.get("/products"),
    ):
        assert answer.headers["Cache-Control"] == "no-cache"
    for answer in (
        shop.anyone.get(),
        shop.anyone.get(f"/products/{NOT_THERE}"),
        shop.anyone.post("/sessions", json={}),
        shop.merchant.post("/api-keys"),
        shop.guest().get("/cart"),
    ):
        assert answer.headers["Cache-Control"] == "no-store"


# X-Served-By, X-Cache, Server-Timing


def test_the_node_that_answered_is_named(shops: dict[str, Shop]) -> None:
    for shard, shop in shops.items():
        product = shop.product()
        for answer in (
            shop.anyone.get(),
            shop.anyone.get("/products"),
            shop.anyone.get(f"/products/{product['id']}"),
            shop.merchant.patch(f"/products/{product['id']}", json={"price": 1}),
            shop.place_order(shop.guest(), [(product, 1)]),
        ):
            assert re.fullmatch(rf"{shard}-[abc]", answer.headers["X-Served-By"])


def test_a_list_from_every_shard_names_a_node_of_each(market: Service, shops: dict[str, Shop]) -> None:
    named = operator(market).get("/v1/stores").headers["X-Served-By"].split(", ")
    assert {name.rpartition("-")[0] for name in named} == set(shops)


def test_an_answer_for_which_no_database_was_asked_says_cache(shop: Shop, market: Service) -> None:
    for answer in (
        shop.anyone.get("/cart"),
        shop.guest().get("/customers"),
        operator(market).get("/v1/admin/flags"),
    ):
        assert answer.headers["X-Served-By"] == "cache"


def test_products_say_what_the_cache_did(shop: Shop, mug: Json) -> None:
    for path in ("/products", "/products?limit=1", "/products?q=mug", f"/products/{mug['id']}"):
        answer = shop.anyone.get(path)
        assert answer.headers["X-Cache"] in ("hit", "miss", "bypass")
        again = shop.anyone.get(path, headers={"If-None-Match": answer.headers["ETag"]})
        assert again.status_code == 304
        assert again.headers["X-Cache"] in ("hit", "miss", "bypass")


def timings(answer: requests.Response) -> dict[str, float]:
    entries = [
        re.fullmatch(r"(\w+);dur=(\d+(\.\d+)?)", part) for part in answer.headers["Server-Timing"].split(", ")
    ]
    assert all(entries)
    return {entry[1]: float(entry[2]) for entry in entries if entry}


def test_server_timing_says_where_the_time_went(shop: Shop, mug: Json) -> None:
    shopper = shop.guest()
    database = {"route", "pool", "db"}
    for answer, parts in (
        (shop.anyone.get(), database),
        (shop.anyone.get("/products"), database),
        (shop.anyone.get(f"/products/{mug['id']}"), database),
        (shop.merchant.patch(f"/products/{mug['id']}", json={}), database),
        (shop.place_order(shopper, [(mug, 1)]), database),
        (shopper.put(f"/cart/items/{mug['id']}", json={"quantity": 1}), database | {"cache"}),
        (shopper.get("/cart"), {"cache"}),
    ):
        assert timings(answer).keys() >= parts
        assert answer.elapsed.total_seconds() * 1000 >= max(timings(answer).values())


def test_without_the_limiter_there_is_no_limit_to_tell(shop: Shop) -> None:
    for answer in (shop.anyone.get("/products"), shop.merchant.post("/products", json=new_product())):
        assert not {"RateLimit", "RateLimit-Policy", "Retry-After"} & set(answer.headers)


# X-Request-Id


def everything_that_can_happen(shop: Shop, mug: Json) -> list[tuple[str, str]]:
    return [
        ("GET", f"{shop.path}/products/{mug['id']}"),
        ("POST", f"{shop.path}/products"),
        ("GET", f"{shop.path}/products/{NOT_THERE}"),
        ("GET", f"{shop.path}/cart"),
        ("GET", "/nowhere"),
        ("TRACE", "/v1/stores"),
        ("OPTIONS", "/v1/stores"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("GET", "/"),
    ]


@pytest.mark.parametrize("given", ["a", "0", "a.b_c-D9", "-", ".", "x" * 128])
def test_a_sane_request_id_is_echoed_whatever_the_answer(shop: Shop, mug: Json, given: str) -> None:
    for method, path in everything_that_can_happen(shop, mug):
        answer = requests.request(
            method, shop.service.base_url + path, headers={"X-Request-Id": given}, timeout=10
        )
        assert answer.headers["X-Request-Id"] == given


@pytest.mark.parametrize(
    "given", ["", "x" * 129, "a b", "a/b", "a:b", "a,b", "<script>", "ä", "a\tb", "%0a", "x" * 5000]
)
def test_any_other_request_id_is_replaced(shop: Shop, given: str) -> None:
    seen = set()
    for _ in range(3):
        answer = shop.anyone.get(headers={"X-Request-Id": given.encode()})
        seen.add(answer.headers["X-Request-Id"])
    assert len(seen) == 3
    assert given not in seen
    assert all(SANE_ID.fullmatch(text) for text in seen)


def test_an_id_is_made_up_for_every_request_without_one(shop: Shop, mug: Json) -> None:
    asked = everything_that_can_happen(shop, mug)
    seen = {
        requests.request(method, shop.service.base_url + path, timeout=10).headers["X-Request-Id"]
        for method, path in asked
    }
    assert len(seen) == len(asked)
    assert all(SANE_ID.fullmatch(text) for text in seen)


def test_a_requests_line_in_the_log_has_its_id_and_says_where_it_went_and_where_the_time(
    shop: Shop, market: Service
) -> None:
    given = secrets.token_hex(8)
    shop.anyone.get("/products?secret=1", headers={"X-Request-Id": given})

    def lines() -> list[Json]:
        return [json.loads(line) for line in market.log.read_text().splitlines() if given in line]

    eventually(lambda: len(lines()) == 1)
    (line,) = lines()
    assert line["request_id"] == given
    assert (line["method"], line["path"], line["status"]) == ("GET", f"{shop.path}/products", 200)
    assert line["shard"] in line["node"]
    assert line["store"] == shop.path.rpartition("/")[2]
    assert line["duration_ms"] >= line["pool_ms"] + line["db_ms"] > 0
    assert line["cache_ms"] is None

"""Orders that meet: the same one forty times, a hundred buyers for one unit, many lines in every order, one cart.

With locks, without, and with every lock server dead or frozen: what comes of it is the same.
"""

from __future__ import annotations

import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, TypeVar

import psycopg
import pytest
import requests

from tests.cluster_fixtures import Databases, Service, serving
from tests.shop import Caller, Shop, eventually, ok, operator, refused
from tests.valkey_server import running_valkey

T = TypeVar("T")


@pytest.fixture(scope="module", params=["off", "on", "away"], ids=lambda locks: f"locks-{locks}")
def service(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Service]:
    """A service of this module's own: a flag is everyone's."""
    settings = databases.settings
    with ExitStack() as running:
        if request.param == "away":
            servers = [running.enter_context(running_valkey()) for _ in range(3)]
            settings = replace(settings, lock_urls=",".join(server.url for server in servers))
            servers[0].kill()
            for server in servers[1:]:
                running.enter_context(server.frozen())
        service = running.enter_context(serving(settings))
        asked, enabled = [operator(service) for _ in range(12)], request.param != "off"
        ok(asked[0].put("/v1/admin/flags/distributed_locks", json={"enabled": enabled}))
        eventually(
            lambda: all(ok(each.get("/v1/admin/flags"))["distributed_locks"] is enabled for each in asked)
        )
        if request.param == "on":
            eventually(lambda: locks_asked(Shop.create(service))["held"] > 0)
        yield service


def locks_asked(shop: Shop) -> Counter[str]:
    """What came of one order's locks, by the service's own count."""

    def count() -> Counter[str]:
        text = operator(shop.service).get("/metrics").text
        found = re.findall(r'^lock_requests_total\{outcome="(\w+)"\} ([0-9.]+)$', text, re.MULTILINE)
        return Counter({outcome: int(float(number)) for outcome, number in found})

    before = count()
    ok(shop.place_order(shop.merchant, [(shop.product(), 1)]), 201)
    return count() - before


@pytest.fixture(scope="module")
def shop(service: Service) -> Shop:
    return Shop.create(service)


@pytest.fixture(scope="module")
def crowd(service: Service) -> Iterator[Callable[[Sequence[Callable[[requests.Session], T]]], list[T]]]:
    """Runs calls side by side, all released at once, each on a kept connection of its thread."""
    with ThreadPoolExecutor(40) as threads:
        sessions = threading.local()

        def run(call: Callable[[requests.Session], T], start: threading.Barrier | None) -> T:
            if not hasattr(sessions, "http"):
                sessions.http = requests.Session()
                sessions.http.trust_env = False
            if start is not None:
                start.wait(30)
            return call(sessions.http)

        def together(calls: Sequence[Callable[[requests.Session], T]]) -> list[T]:
            # A barrier only where there is a thread for each.
            start = threading.Barrier(len(calls)) if len(calls) <= 40 else None
            return list(threads.map(lambda call: run(call, start), calls))

        yield together


def order(
    shop: Shop, buyer: Caller, lines: Sequence[tuple[str, int]], key: str
) -> Callable[[requests.Session], requests.Response]:
    body: dict[str, Any] = {
        "items": [{"product_id": product, "quantity": quantity} for product, quantity in lines]
    }
    headers = {"Authorization": f"Bearer {buyer.token}", "Idempotency-Key": key}
    url = f"{shop.service.base_url}{shop.path}/orders"
    return lambda http: http.post(url, json=body, headers=headers, timeout=60)


def checkout(shop: Shop, buyer: Caller, key: str) -> Callable[[requests.Session], requests.Response]:
    headers = {"Authorization": f"Bearer {buyer.token}", "Idempotency-Key": key}
    url = f"{shop.service.base_url}{shop.path}/orders"
    return lambda http: http.post(url, json={}, headers=headers, timeout=60)


def test_the_layer_does_what_its_flag_says(shop: Shop, request: pytest.FixtureRequest) -> None:
    """Asked of the service's own count, so that the tests below are about what they say they are."""
    asked = locks_asked(shop)
    expected = {"locks-off": {}, "locks-on": {"held": 1}}
    assert asked == expected.get(request.node.callspec.id, {"unavailable": 1})


def test_forty_times_the_same_order_at_once_is_one_order(
    shop: Shop, crowd: Callable[..., list[requests.Response]]
) -> None:
    keys, copies = 50, 40
    mug, guest = shop.product(stock=10**6), shop.guest()
    placed = set()
    for number in range(keys):
        key = f"click-{number}"
        answers = crowd([order(shop, guest, [(mug["id"], 1)], key)] * copies)
        # Who comes while the first still runs is told to come back; and then gets what the first got.
        for answer in answers:
            if answer.status_code == 409:
                assert refused(answer, 409, "request-in-progress")
                assert int(answer.headers["Retry-After"]) >= 1
        again = shop.place_order(guest, [(mug, 1)], key=key)
        bodies = {answer.content for answer in [*answers, again] if answer.status_code == 201}
        assert len(bodies) == 1
        assert {answer.status_code for answer in answers} <= {201, 409}
        assert (
            sum(
                "Idempotent-Replayed" not in answer.headers for answer in answers if answer.status_code == 201
            )
            == 1
        )
        placed.add(again.json()["id"])
    assert len(placed) == keys
    assert shop.stock(mug) == mug["stock"] - keys


def test_the_last_unit_goes_to_one_of_a_hundred_buyers(
    shop: Shop, crowd: Callable[..., list[requests.Response]]
) -> None:
    for _ in range(10):
        last = shop.product(stock=1)
        answers = crowd(
            [order(shop, shop.merchant, [(last["id"], 1)], f"{last['id']}-{n}") for n in range(100)]
        )
        assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 99}
        assert {answer.json()["type"] for answer in answers if answer.status_code == 409} == {
            "insufficient-stock"
        }
        assert shop.stock(last) == 0


def test_a_thousand_orders_of_several_lines_sell_what_there_was(
    shop: Shop, databases: Databases, crowd: Callable[..., list[requests.Response]]
) -> None:
    draw = random.Random(7)
    products = [shop.product(stock=60) for _ in range(12)]
    ids = [product["id"] for product in products]
    calls = []
    for number in range(1000):
        # Lines in any order: only the service's own order of locking keeps two orders from a deadlock.
        lines = [(product, draw.randint(1, 3)) for product in draw.sample(ids, draw.randint(2, 5))]
        calls.append(order(shop, shop.merchant, lines, f"many-{number}"))
    answers = crowd(calls)
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert any(answer.status_code == 409 for answer in answers)
    sold: Counter[str] = Counter()
    for answer in answers:
        if answer.status_code == 201:
            sold.update({item["product_id"]: item["quantity"] for item in answer.json()["items"]})
    for product in products:
        assert shop.stock(product) + sold[product["id"]] == 60
    with psycopg.connect(databases.dsn(_shard_of(shop, databases), administrator=True)) as connection:
        (deadlocks,) = connection.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone() or (None,)
    assert deadlocks == 0


def test_one_cart_is_checked_out_once_by_forty_with_keys_of_their_own(
    shop: Shop, crowd: Callable[..., list[requests.Response]]
) -> None:
    """Whoever comes meanwhile is told to come back, who comes later that the cart is empty."""
    carts = 20
    mug = shop.product(stock=10**6)
    for number in range(carts):
        guest = shop.guest()
        shop.put_in_cart(guest, mug, 2)
        answers = crowd([checkout(shop, guest, f"click-{number}-{tab}") for tab in range(40)])
        statuses = Counter(answer.status_code for answer in answers)
        assert statuses == {201: 1, 409: 39}
        for answer in answers:
            if answer.status_code == 409:
                kind = answer.json()["type"]
                assert kind in ("request-in-progress", "empty-cart")
                assert ("Retry-After" in answer.headers) == (kind == "request-in-progress")
        assert ok(guest.get("/cart"))["items"] == []
        refused(shop.place_order(guest), 409, "empty-cart")
        assert len(ok(guest.get("/orders"))["data"]) == 1
    assert shop.stock(mug) == mug["stock"] - 2 * carts


def test_an_order_is_cancelled_once_by_twenty_who_try(
    shop: Shop, crowd: Callable[..., list[requests.Response]]
) -> None:
    mug = shop.product(stock=10)
    made = ok(shop.place_order(shop.guest(), [(mug, 4)]), 201)
    url = f"{shop.service.base_url}{shop.path}/orders/{made['id']}/cancel"
    headers = {"Authorization": f"Bearer {shop.api_key}"}
    answers = crowd([lambda http: http.post(url, headers=headers, timeout=60)] * 20)
    assert Counter(answer.status_code for answer in answers) == {200: 1, 409: 19}
    assert shop.stock(mug) == 10


def _shard_of(shop: Shop, databases: Databases) -> str:
    for shard in databases.cluster.topology.shard_names:
        with psycopg.connect(databases.dsn(shard)) as connection:
            if connection.execute("SELECT FROM stores WHERE store_id = %s", [shop.id]).fetchone() is not None:
                return shard
    raise AssertionError("the store is on no shard")

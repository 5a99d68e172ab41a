"""The service while a server behind it is frozen, dead or back: what fails, fails alone, at once and clearly."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
import requests

from tests.cluster_fixtures import Databases, Service, fresh_databases, serving
from tests.shard_servers import Servers, running_servers
from tests.shop import Caller, Shop, eventually, ok, operator, refused


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with running_servers() as servers:
        yield servers


@pytest.fixture(scope="module")
def databases(servers: Servers) -> Iterator[Databases]:
    with fresh_databases(servers.cluster) as databases:
        yield databases


@pytest.fixture(scope="module")
def service(databases: Databases) -> Iterator[Service]:
    # A short deadline: what is in flight when a server freezes fails that soon, and the tests wait for it.
    with serving(databases.settings, statement_timeout_seconds=2.0) as service:
        yield service


@pytest.fixture(scope="module")
def shops(service: Service) -> dict[str, Shop]:
    return Shop.on_each_shard(service)


@contextmanager
def frozen(servers: Servers, node: str) -> Iterator[None]:
    servers.freeze(node)
    try:
        yield
    finally:
        servers.thaw(node)


@contextmanager
def steady_load(shop: Shop, product: str, threads: int = 4) -> Iterator[list[requests.Response | Exception]]:
    """Reads and orders of one shop, without a pause, for the length of the block; every answer is kept."""
    answers: list[requests.Response | Exception] = []
    done = threading.Event()

    def run(number: int) -> None:
        http = requests.Session()
        http.trust_env = False
        http.headers["Authorization"] = f"Bearer {shop.api_key}"
        url = f"{shop.service.base_url}{shop.path}"
        count = 0
        while not done.is_set():
            count += 1
            try:
                answers.append(http.get(f"{url}/products?limit=20", timeout=60))
                body: dict[str, Any] = {"items": [{"product_id": product, "quantity": 1}]}
                key = {"Idempotency-Key": f"{product}-{number}-{count}"}
                answers.append(http.post(f"{url}/orders", json=body, headers=key, timeout=60))
            except requests.RequestException as error:
                answers.append(error)

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield answers
    finally:
        done.set()
        for thread in running:
            thread.join(60)


def statuses(answers: list[requests.Response | Exception]) -> Counter[object]:
    return Counter(
        answer.status_code if isinstance(answer, requests.Response) else repr(answer) for answer in answers
    )


def test_a_frozen_shard_fails_alone(servers: Servers, service: Service, shops: dict[str, Shop]) -> None:
    well, ill = shops["shard-0"], shops["shard-1"]
    mug = well.product(stock=10**6)["id"]
    with steady_load(well, mug) as good, frozen(servers, "shard-1-a"):
        # More at once than the frozen shard's pools have connections, again and again.
        with steady_load(ill, "00000000-0000-7000-8000-000000000000", threads=30) as bad:
            eventually(lambda: len(bad) > 300, 60)
        before = len(good)
        eventually(lambda: len(good) > before + 200, 60)
    assert set(statuses(good)) <= {200, 201}
    assert set(statuses(bad)) == {503}
    for answer in bad:
        assert isinstance(answer, requests.Response)
        problem = refused(answer, 503)
        assert int(answer.headers["Retry-After"]) >= 1
        assert problem["detail"]
        assert "pool;dur=" in answer.headers["Server-Timing"]  # also where none was to be had
    # Those that met the deadline say in the log which statement did.
    lines = (json.loads(line) for line in service.log.read_text().splitlines() if ill.path in line)
    waited = [line for line in lines if (line["db_ms"] or 0) > 1000]
    assert waited
    for line in waited:
        assert line["level"] == "error"
        assert {each["name"] for each in line["statements"]} <= {"list_products", "place_order"}
        assert sum(each["ms"] for each in line["statements"]) == pytest.approx(line["db_ms"], abs=0.1)


def test_readiness_names_the_shard_that_does_not_answer(servers: Servers, service: Service) -> None:
    asked = Caller(service)
    with frozen(servers, "shard-1-a"):
        eventually(lambda: asked.get("/readyz").status_code == 503)
        assert "shard-1" in refused(asked.get("/readyz"), 503)["detail"]
        assert asked.get("/healthz").status_code == 200
        shards = {shard["name"]: shard for shard in ok(operator(service).get("/v1/admin/topology"))["shards"]}
        assert shards["shard-0"]["stores"] is not None
    eventually(lambda: asked.get("/readyz").status_code == 200)


def test_a_shard_that_was_frozen_serves_again(servers: Servers, shops: dict[str, Shop]) -> None:
    shop = shops["shard-1"]
    mug = shop.product(stock=100)
    with frozen(servers, "shard-1-a"):
        refused(shop.place_order(shop.merchant, [(mug, 1)]), 503)
    eventually(lambda: shop.place_order(shop.merchant, [(mug, 1)]).status_code == 201)


def test_an_order_in_doubt_is_known_by_its_key(servers: Servers, shops: dict[str, Shop]) -> None:
    """The primary commits but waits for a replica that is frozen: the client is told that nobody knows yet."""
    shop = shops["shard-0"]
    mug, guest = shop.product(stock=10), shop.guest()
    with frozen(servers, "shard-0-b"):
        problem = refused(shop.place_order(guest, [(mug, 3)], key="doubt"), 503, "commit-in-doubt")
        assert "Idempotency-Key" in problem["detail"]
    eventually(lambda: shop.place_order(guest, [(mug, 3)], key="doubt").status_code == 201)
    assert shop.place_order(guest, [(mug, 3)], key="doubt").headers["Idempotent-Replayed"] == "true"
    assert shop.stock(mug) == 7


def test_a_restarted_primary_is_found_again_without_a_restart_of_the_service(
    servers: Servers, service: Service, shops: dict[str, Shop]
) -> None:
    shop = shops["shard-1"]
    workers = {process.pid for process in psutil.Process(service.pid).children()}
    servers.stop("shard-1-a")
    refused(shop.anyone.get("/products"), 503)
    servers.start("shard-1-a")
    eventually(lambda: shop.anyone.get("/products").status_code == 200)
    eventually(
        lambda: (
            shop.merchant.post("/products", json={"title": "x", "price": 1, "stock": 1}).status_code == 201
        )
    )
    assert {process.pid for process in psutil.Process(service.pid).children()} == workers


def test_a_frozen_redis_costs_carts_and_nothing_else(servers: Servers, shops: dict[str, Shop]) -> None:
    shop = shops["shard-0"]
    mug, ada = shop.product(stock=10), shop.customer()
    shop.put_in_cart(ada, mug, 2)
    checked_out = shop.place_order(ada, key="checkout")
    shop.put_in_cart(ada, mug, 1)
    with frozen(servers, "redis"):
        for answer in (
            ada.get("/cart"),
            ada.put(f"/cart/items/{mug['id']}", json={"quantity": 1}),
            ada.delete("/cart"),
            shop.place_order(ada),
        ):
            refused(answer, 503)
        # What was answered before is answered again, cart or not.
        again = shop.place_order(ada, key="checkout")
        assert again.content == checked_out.content
        ok(shop.anyone.get("/products"))
        ok(shop.place_order(ada, [(mug, 1)]), 201)
        ok(ada.get("/orders"))
        shop.guest()
        other = shop.sign_in(str(ada.email))
        assert other.delete("/sessions/current").status_code == 204
        refused(other.get("/orders"), 401)
    eventually(lambda: ada.get("/cart").status_code == 200)
    assert [line["quantity"] for line in ok(ada.get("/cart"))["items"]] == [1]
    eventually(lambda: other.get("/cart").status_code == 401)


def test_a_killed_worker_is_replaced_and_no_order_is_lost(service: Service, shops: dict[str, Shop]) -> None:
    shop = shops["shard-0"]
    mug = shop.product(stock=10**6)
    with steady_load(shop, mug["id"]) as answers:
        eventually(lambda: len(answers) > 50, 60)
        victim = psutil.Process(service.pid).children()[0]
        victim.kill()
        eventually(lambda: len(psutil.Process(service.pid).children()) == service.settings.workers, 60)
        before = len(answers)
        eventually(lambda: len(answers) > before + 100, 60)
    # Requests in the killed worker's hands lose their connection; whoever was answered 201 has an order.
    assert {status for status in statuses(answers) if isinstance(status, int)} <= {200, 201}
    acknowledged = [a for a in answers if isinstance(a, requests.Response) and a.status_code == 201]
    for answer in acknowledged[-20:]:
        assert ok(shop.merchant.get(f"/orders/{answer.json()['id']}"))["id"] == answer.json()["id"]
    assert mug["stock"] - shop.stock(mug) >= len(acknowledged)

"""Quotas over HTTP: contract sections 3 and 4. It has a service of its own: quotas and the flag are everyone's.

Windows are an hour long here, so that none passes while a test looks; each test asks as somebody new.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import requests

from devcluster.cluster import Cluster
from tests.cluster_fixtures import Service, fresh_databases, serving
from tests.shop import Caller, Shop, eventually, ok, operator, refused

SESSION, KEY, ADDRESS, STORE = 10, 12, 8, 30
HOUR = 3600
PROXY = "127.0.0.1"


@pytest.fixture(scope="module")
def service(cluster: Cluster) -> Iterator[Service]:
    quotas = {
        "rate_limit_session": f"{SESSION}/{HOUR}",
        "rate_limit_key": f"{KEY}/{HOUR}",
        "rate_limit_address": f"{ADDRESS}/{HOUR}",
        "rate_limit_store": f"{STORE}/{HOUR}",
    }
    with (
        fresh_databases(cluster, scrypt_log2_n=8, trusted_proxies=PROXY) as databases,
        serving(databases.settings, **quotas) as running,
    ):
        switch(running, enabled=True)
        yield running


def switch(service: Service, *, enabled: bool) -> None:
    """Turn the flag, and wait until every worker has it."""
    everywhere = [operator(service) for _ in range(12)]
    ok(everywhere[0].put("/v1/admin/flags/rate_limit", json={"enabled": enabled}))
    eventually(lambda: all(ok(each.get("/v1/admin/flags"))["rate_limit"] is enabled for each in everywhere))


class Addresses:
    """Addresses that nobody has had."""

    def __init__(self) -> None:
        self._given = 0

    def new(self) -> str:
        self._given += 1
        return f"203.0.113.{self._given}"


addresses = Addresses()


def from_address(caller: Caller, address: str | None = None) -> Caller:
    """The same one, behind a proxy, asking from an address of its own."""
    caller.http.headers["X-Forwarded-For"] = address or addresses.new()
    return caller


@pytest.fixture
def shop(service: Service, request: pytest.FixtureRequest) -> Shop:
    """A store of this test's, whose quotas are whole."""
    shop = Shop.create(service)
    from_address(shop.anyone)
    return shop


def guest(shop: Shop) -> Caller:
    """A shopper whose session is counted from now on; signing in is counted for an address."""
    answer = from_address(Caller(shop.service, shop.path)).post("/sessions", json={})
    return shop.caller(ok(answer, 201)["token"])


def standing(answer: requests.Response) -> dict[str, tuple[int, int]]:
    """`r` and `t` of each policy in `RateLimit`."""
    items = re.findall(r'"(\w+)";r=(\d+);t=(\d+)', answer.headers["RateLimit"])
    return {name: (int(remaining), int(seconds)) for name, remaining, seconds in items}


def remaining(answer: requests.Response) -> dict[str, int]:
    return {name: each[0] for name, each in standing(answer).items()}


def test_a_session_has_its_quota_and_then_429(shop: Shop) -> None:
    shopper = guest(shop)
    answers = [shopper.afresh().get("/cart") for _ in range(SESSION)]
    assert [answer.status_code for answer in answers] == [200] * SESSION
    assert [remaining(answer)["session"] for answer in answers] == list(reversed(range(SESSION)))
    over = shopper.get("/cart")
    problem = refused(over, 429, "quota-exceeded")
    assert problem["violated-policies"] == ["session"]
    assert over.headers["RateLimit-Policy"] == f'"session";q={SESSION};w={HOUR}, "store";q={STORE};w={HOUR}'
    left, seconds = standing(over)["session"]
    assert left == 0
    assert over.headers["RateLimit"].startswith('"session";')
    assert int(over.headers["Retry-After"]) == seconds
    assert HOUR - 60 < seconds <= HOUR


def test_what_is_refused_is_counted_nowhere(shop: Shop) -> None:
    shopper, other = guest(shop), guest(shop)
    for _ in range(SESSION):
        last = shopper.get("/cart")
    for _ in range(5):
        refused(shopper.get("/cart"), 429)
    assert remaining(other.get("/cart"))["store"] == remaining(last)["store"] - 1


def test_a_session_is_counted_wherever_it_asks_and_whatever_it_is_answered(
    shop: Shop, service: Service
) -> None:
    """Also where anyone may ask, and in another store."""
    elsewhere = Shop.create(service)
    shopper = guest(shop)
    abroad = Caller(service, elsewhere.path, shopper.token)
    answers = [
        shopper.get("/products"),
        shopper.post("/products", json={}),
        abroad.get("/products"),
        abroad.get("/cart"),
        shopper.get("/orders/nonsense"),
        shopper.put("/cart/items/00000000-0000-7000-8000-000000000000", json={"quantity": "x"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 403, 200, 403, 404, 400]
    assert [remaining(answer)["session"] for answer in answers] == [9, 8, 7, 6, 5, 4]
    assert [remaining(answer)["store"] for answer in answers[2:4]] == [STORE - 1, STORE - 2]


def test_a_merchants_key_has_a_quota_of_its_own(shop: Shop) -> None:
    answers = [shop.merchant.get("/orders") for _ in range(KEY + 1)]
    assert [answer.status_code for answer in answers] == [200] * KEY + [429]
    assert answers[-1].json()["violated-policies"] == ["key"]
    ok(guest(shop).get("/cart"))


def test_without_a_credential_the_address_is_counted_in_all_stores_together(
    shop: Shop, service: Service
) -> None:
    other = Shop.create(service)
    here = addresses.new()
    callers = [from_address(Caller(service, each.path), here) for each in (shop, other)]
    answers = [callers[turn % 2].get("/products") for turn in range(ADDRESS + 1)]
    assert [answer.status_code for answer in answers] == [200] * ADDRESS + [429]
    assert answers[-1].json()["violated-policies"] == ["address"]
    ok(from_address(callers[0]).get("/products"))


@pytest.mark.parametrize("forged", ["garbage", "st_garbage", "mk_garbage", "st_" + "A" * 150])
def test_a_credential_that_is_none_counts_for_the_address(shop: Shop, forged: str) -> None:
    here = addresses.new()
    for turn in range(ADDRESS):
        caller = from_address(shop.caller(f"{forged}{turn}"), here)
        answer = caller.get("/cart")
        refused(answer, 401)
        assert remaining(answer)["address"] == ADDRESS - 1 - turn
    refused(from_address(shop.caller(forged), here).get("/cart"), 429)


def test_only_the_word_of_a_trusted_proxy_counts(shop: Shop) -> None:
    """What the client itself claims stands in front of what the proxy says."""
    here = addresses.new()
    for turn in range(ADDRESS):
        claimed = f"198.51.100.{turn}, {here}"
        ok(from_address(shop.caller(None), claimed).get("/products"))
    refused(from_address(shop.caller(None), f"198.51.100.99, {here}").get("/products"), 429)


def test_a_store_has_a_quota_for_all_who_ask(shop: Shop) -> None:
    askers = [from_address(shop.caller(None)) for _ in range(5)]
    answers = [askers[turn % 5].get("/products") for turn in range(STORE + 1)]
    assert [answer.status_code for answer in answers] == [200] * STORE + [429]
    assert answers[-1].json()["violated-policies"] == ["store"]
    assert answers[-1].headers["RateLimit"].startswith('"store";r=0;')
    assert remaining(answers[-1])["address"] == 2  # of 8, less six that were admitted


def test_the_operator_is_never_limited(service: Service) -> None:
    asked = operator(service)
    for _ in range(3 * ADDRESS):
        answer = asked.get("/v1/admin/flags")
        ok(answer)
        assert not {"RateLimit", "RateLimit-Policy"} & set(answer.headers)


def test_who_is_not_the_operator_is_limited_there_too(service: Service) -> None:
    stranger = from_address(Caller(service, token="not-the-operators"))
    statuses = [stranger.get("/v1/admin/flags").status_code for _ in range(ADDRESS + 1)]
    assert statuses == [401] * ADDRESS + [429]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/"])
def test_what_is_no_endpoint_is_not_limited(service: Service, path: str) -> None:
    here = {"X-Forwarded-For": addresses.new()}
    for _ in range(ADDRESS + 2):
        answer = requests.get(service.base_url + path, headers=here, timeout=10)
        assert answer.status_code == 200
        assert "RateLimit" not in answer.headers


def test_a_refused_write_does_nothing_and_hands_on_what_was_seen(shop: Shop) -> None:
    product = shop.product()
    shopper = guest(shop)
    while (
        answer := shopper.post("/orders", json={"items": []}, headers={"Idempotency-Key": "x"})
    ).status_code != 429:
        token = answer.headers["Consistency-Token"]
    over = shop.place_order(shopper, [(product, 1)])
    refused(over, 429)
    assert over.headers["Consistency-Token"] == token
    assert shop.stock(product) == product["stock"]


def test_all_workers_together_admit_exactly_the_quota(shop: Shop) -> None:
    shopper = guest(shop)
    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(lambda _: shopper.afresh().get("/cart").status_code, range(40)))
    assert sorted(statuses) == [200] * SESSION + [429] * (40 - SESSION)


def test_decisions_are_counted(shop: Shop) -> None:
    def counted(decision: str) -> float:
        text = requests.get(f"{shop.service.base_url}/metrics", timeout=10).text
        found = re.search(rf'(?m)^limiter_decisions_total{{decision="{decision}"}} (\S+)$', text)
        assert found is not None
        return float(found[1])

    shopper = guest(shop)
    before = {name: counted(name) for name in ("allowed", "limited", "unavailable")}
    for _ in range(SESSION + 3):
        shopper.get("/cart")
    after = {name: counted(name) for name in before}
    assert {name: after[name] - before[name] for name in before} == {
        "allowed": SESSION,
        "limited": 3,
        "unavailable": 0,
    }


def test_with_the_flag_off_there_is_no_call_and_no_header(shop: Shop, service: Service) -> None:
    server = redis.Redis.from_url(service.settings.redis_url, protocol=2)

    def scripts() -> int:
        stats = server.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))

    shopper = guest(shop)
    for _ in range(SESSION + 1):
        over = shopper.get("/products")
    refused(over, 429)
    switch(service, enabled=False)
    try:
        before = scripts()
        for _ in range(SESSION):
            answer = shopper.get("/products")
            ok(answer)
            assert not {"RateLimit", "RateLimit-Policy", "Retry-After"} & set(answer.headers)
            assert "limit" not in answer.headers["Server-Timing"]
        assert scripts() == before
    finally:
        switch(service, enabled=True)
        server.close()
    refused(shopper.get("/products"), 429)

"""What a request wants from Redis is asked in one round trip: quotas, its credential's position, a cached answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from devcluster.cluster import Cluster
from tests.cluster_fixtures import Databases, Service, fresh_databases, serving
from tests.commandline import flask
from tests.counting_proxy import CountingProxy
from tests.shop import Caller, Json, Shop, eventually, ok, refused
from tests.valkey_server import ValkeyServer, running_valkey

QUOTA = 100


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with running_valkey() as running:
        yield running


@pytest.fixture(scope="module")
def proxy(server: ValkeyServer) -> Iterator[CountingProxy]:
    proxy = CountingProxy("127.0.0.1", server.port)
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def databases(cluster: Cluster, server: ValkeyServer, proxy: CountingProxy) -> Iterator[Databases]:
    through = server.url.replace(str(server.port), str(proxy.port))
    with fresh_databases(cluster, redis_url=through, scrypt_log2_n=8, workers=1) as databases:
        for flag in ("read_replicas", "redis_cache", "rate_limit"):
            assert flask(databases.settings, "flags", "set", flag, "on").returncode == 0
        yield databases


@pytest.fixture(scope="module")
def service(databases: Databases) -> Iterator[Service]:
    quotas = {"rate_limit_session": f"{QUOTA}/3600", "rate_limit_address": "100000/1"}
    with serving(databases.settings, cache_ttl_seconds=60.0, **quotas) as running:
        yield running


@pytest.fixture(scope="module")
def shop(service: Service) -> Shop:
    return Shop.create(service)


@pytest.fixture(scope="module")
def mug(shop: Shop) -> Json:
    return shop.product(stock=1000)


def round_trips(proxy: CountingProxy, caller: Caller, path: str, **changes: int) -> int:
    """Of one read, once it has nothing new to remember, or of one write. The worker's own questions are rare: the least
    counts."""
    found = []
    for _ in range(5):
        before = proxy.round_trips
        ok(caller.patch(path, json=changes) if changes else caller.get(path))
        found.append(proxy.round_trips - before)
    return min(found)


def until_cached(caller: Caller, path: str) -> None:
    eventually(lambda: caller.get(path).headers["X-Cache"] == "hit")


def test_quota_position_and_cached_answer_are_one_round_trip(
    shop: Shop, mug: Json, proxy: CountingProxy
) -> None:
    shopper = shop.guest()
    for path in (f"/products/{mug['id']}", "/products"):
        until_cached(shopper, path)
        assert round_trips(proxy, shopper, path) == 1


def test_quota_and_cached_answer_are_one_round_trip_without_a_credential(
    shop: Shop, mug: Json, proxy: CountingProxy
) -> None:
    anyone = Caller(shop.service, shop.path)
    until_cached(anyone, f"/products/{mug['id']}")
    assert round_trips(proxy, anyone, f"/products/{mug['id']}") == 1


def test_quota_and_position_are_one_round_trip(shop: Shop, mug: Json, proxy: CountingProxy) -> None:
    shopper = shop.guest()
    order = ok(shop.place_order(shopper, [(mug, 1)]), 201)
    assert round_trips(proxy, shopper, f"/orders/{order['id']}") == 1


def test_behind_a_write_the_change_and_the_position_are_one_round_trip(
    shop: Shop, mug: Json, proxy: CountingProxy
) -> None:
    """And its quota one before it."""
    assert round_trips(proxy, shop.merchant, f"/products/{mug['id']}", price=5) == 2


def test_a_request_that_is_refused_leaves_the_making_of_an_answer_to_others(
    shop: Shop, mug: Json, server: ValkeyServer
) -> None:
    """Beside its quota it asked for the answer, and was given the lease."""
    shopper = shop.guest()
    while shopper.get("/cart").status_code == 200:
        pass
    plate = shop.product()
    refused(shopper.get(f"/products/{plate['id']}"), 429)
    lease = f"lease:p:{plate['id']}"
    assert not server.admin.hexists(f"cache-state:{{{shop.id}}}", lease)
    assert Caller(shop.service, shop.path).get(f"/products/{plate['id']}").headers["X-Cache"] == "miss"


@pytest.mark.parametrize("trouble", ["none", "full", "no scripts"])
def test_every_read_is_counted_once(shop: Shop, mug: Json, server: ValkeyServer, trouble: str) -> None:
    """By whichever way it is asked, also where the answer comes from elsewhere or is refused."""
    shopper = shop.guest()
    answers = [shopper.get("/cart")]
    if trouble == "full":
        server.admin.config_set("maxmemory", "1")
    for path, headers in (
        (f"/products/{mug['id']}", {}),
        (f"/products/{mug['id']}", {"If-None-Match": "*"}),
        ("/products", {}),
        ("/products?limit=nonsense", {}),
        (f"/products/{shop.id}", {}),
        ("/orders", {}),
        ("/orders/nonsense", {}),
        ("", {}),
    ):
        if trouble == "no scripts":
            server.admin.script_flush()
        answers.append(shopper.get(path, headers=headers))
    server.admin.config_set("maxmemory", "0")
    assert [answer.status_code for answer in answers] == [200, 200, 304, 200, 400, 404, 200, 404, 200]
    left = [
        int(answer.headers["RateLimit"].partition('"session";r=')[2].partition(";")[0]) for answer in answers
    ]
    first = QUOTA if trouble == "full" else QUOTA - 1  # full, the worker counts by itself
    assert left[1:] == [first - number for number in range(1, len(left))]

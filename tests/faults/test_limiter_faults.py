"""The service limits requests while its Redis-compatible server is frozen, killed, empty, full or a replica: no 5xx."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from devcluster.cluster import Cluster
from tests.cluster_fixtures import Service, fresh_databases, serving
from tests.commandline import flask
from tests.shop import Caller, Shop, eventually, ok, operator, refused
from tests.valkey_server import ValkeyServer, running_valkey

QUOTA, WORKERS = 12, 2
SHARE = QUOTA // WORKERS


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with running_valkey() as running:
        yield running


@pytest.fixture(scope="module")
def service(cluster: Cluster, server: ValkeyServer) -> Iterator[Service]:
    with fresh_databases(cluster, redis_url=server.url, workers=WORKERS, scrypt_log2_n=8) as databases:
        # Before any worker starts, so that none of them still goes on without.
        assert flask(databases.settings, "flags", "set", "rate_limit", "on").returncode == 0
        with serving(databases.settings, rate_limit_session=f"{QUOTA}/3600") as running:
            yield running


@pytest.fixture(scope="module")
def shop(service: Service) -> Shop:
    shop = Shop.create(service)
    shop.product()
    return shop


def shared(shopper: Caller) -> bool:
    """Whether a request was decided by all workers together: more is left then than one of them has to give."""
    answer = ok_or_limited(shopper)
    left = int(answer.partition('"session";r=')[2].partition(";")[0])
    return left >= SHARE


def ok_or_limited(shopper: Caller) -> str:
    answer = shopper.afresh().get("/products")
    assert answer.status_code in (200, 429), answer.text
    return str(answer.headers["RateLimit"])


@pytest.mark.parametrize("how", ["frozen", "dead", "full", "replica"])
def test_each_worker_goes_on_with_its_share_and_nothing_fails(
    shop: Shop, server: ValkeyServer, how: str
) -> None:
    shopper = shop.guest()
    with server.broken(how):
        answers = [shopper.afresh().get("/products") for _ in range(6 * QUOTA)]
    admitted = [answer for answer in answers if answer.status_code == 200]
    # Each worker that is asked admits its share, and one is asked at least.
    assert SHARE <= len(admitted) <= QUOTA
    for answer in answers:
        if answer.status_code != 200:
            refused(answer, 429, "quota-exceeded")
    eventually(lambda: shared(shop.guest()))


def test_a_server_that_comes_back_empty_is_counted_in_at_once(shop: Shop, server: ValkeyServer) -> None:
    shopper = shop.guest()
    for _ in range(QUOTA):
        ok(shopper.get("/products"))
    refused(shopper.get("/products"), 429)
    server.restart()
    eventually(lambda: shared(shop.guest()))
    assert shopper.get("/products").status_code == 200


def test_the_operator_can_switch_it_off_while_the_server_is_frozen(shop: Shop, server: ValkeyServer) -> None:
    asked = operator(shop.service)
    shopper = shop.guest()
    with server.frozen():
        while shopper.get("/products").status_code != 429:
            pass
        ok(asked.put("/v1/admin/flags/rate_limit", json={"enabled": False}))
        eventually(lambda: "RateLimit" not in shopper.afresh().get("/products").headers)
    ok(asked.put("/v1/admin/flags/rate_limit", json={"enabled": True}))
    eventually(lambda: all("RateLimit" in shopper.afresh().get("/products").headers for _ in range(8)))

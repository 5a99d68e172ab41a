"""The service, all its layers on, while its Redis-compatible server is broken in any way: carts fail, and nothing else.

What a request may lose to it is measured by `python -m bench.redis_faults`.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import pytest
import requests

from devcluster.cluster import Cluster
from tests.cluster_fixtures import ROOT, Service, free_ports, fresh_databases, serving
from tests.shop import Caller, Json, Shop, Shopper, eventually, ok, operator, refused
from tests.valkey_server import ValkeyServer, running_valkey

LAYERS = ("read_replicas", "redis_cache", "rate_limit", "distributed_locks")
FAULTS = ("frozen", "dead", "slow", "full", "replica")
# In these nothing is heard of it, or nothing that may be believed.
AWAY = ("frozen", "dead", "slow", "replica")
ROOMY = dict.fromkeys(("rate_limit_session", "rate_limit_key", "rate_limit_address"), "10000/10")
# Connections enough that every worker has some of them.
CROWD = 6


class Network:
    """The way to the server: a proxy, which can be made slow."""

    def __init__(self, server: ValkeyServer) -> None:
        port = free_ports(1)
        self.url = server.url.replace(f":{server.port}/", f":{port}/")
        command = [sys.executable, "-m", "tests.delay_proxy", "--delay-ms", "0", f"{port}:{server.port}"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._heard()

    def _heard(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline()

    def delay(self, milliseconds: float) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{milliseconds / 2}\n")
        self._process.stdin.flush()
        self._heard()

    @contextmanager
    def slow(self) -> Iterator[None]:
        self.delay(300)
        try:
            yield
        finally:
            self.delay(0)

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate()


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with running_valkey() as running:
        yield running


@pytest.fixture(scope="module")
def network(server: ValkeyServer) -> Iterator[Network]:
    network = Network(server)
    yield network
    network.close()


@pytest.fixture(scope="module")
def service(cluster: Cluster, network: Network) -> Iterator[Service]:
    """Its cached answers live long: what is shown is never simply expired."""
    with (
        fresh_databases(
            cluster, redis_url=network.url, scrypt_log2_n=8, redis_patience_seconds=0.1
        ) as databases,
        serving(databases.settings, cache_ttl_seconds=60.0, **ROOMY) as running,
    ):
        everywhere = [operator(running) for _ in range(12)]
        for layer in LAYERS:
            ok(everywhere[0].put(f"/v1/admin/flags/{layer}", json={"enabled": True}))
        eventually(
            lambda: all(set(ok(each.get("/v1/admin/flags")).values()) == {True} for each in everywhere)
        )
        yield running
        assert "Traceback" not in running.log.read_text()


@pytest.fixture(scope="module")
def shop(service: Service) -> Shop:
    return Shop.create(service)


def broken(server: ValkeyServer, network: Network, how: str) -> AbstractContextManager[None]:
    return network.slow() if how == "slow" else server.broken(how)


def everywhere(caller: Caller) -> list[Caller]:
    """The same credential, without a token, at every worker."""
    return [caller.afresh() for _ in range(CROWD)]


def is_well(shopper: Caller, product: Json) -> bool:
    """Whether carts, the cache and the memory of positions are back, at every worker."""
    answers = [(each.get("/cart"), each.get(f"/products/{product['id']}")) for each in everywhere(shopper)]
    return all(cart.status_code == 200 and read.headers["X-Cache"] == "hit" for cart, read in answers)


def primary(shop: Shop) -> str:
    asked = operator(shop.service)
    shard = ok(asked.get(f"/v1/admin/stores/{shop.id}/route"))["shard"]
    shards = ok(asked.get("/v1/admin/topology"))["shards"]
    nodes = next(each for each in shards if each["name"] == shard)["nodes"]
    return next(str(node["name"]) for node in nodes if node["role"] == "primary")


@pytest.mark.parametrize("how", FAULTS)
def test_carts_fail_and_nothing_else(shop: Shop, server: ValkeyServer, network: Network, how: str) -> None:
    mug, tea = shop.product(stock=100, price=1), shop.product(price=1)
    ada, owner = shop.customer(), primary(shop)
    # Who has written nothing lately, so that nothing older than an entry is asked for.
    other = shop.caller(ok(shop.merchant.post("/api-keys"), 201)["api_key"])
    shop.put_in_cart(ada, mug)
    eventually(lambda: is_well(ada, mug) and is_well(ada, tea))
    placed = shop.place_order(ada, [(mug, 1)], key=f"before-{how}")
    ok(shop.merchant.patch(f"/products/{mug['id']}", json={"price": 2}))
    with broken(server, network, how):
        sees(shop.merchant, mug, 2, how, owner)
        ok(other.patch(f"/products/{tea['id']}", json={"price": 3}))
        sees(other, tea, 3, how, owner)
        carts_are(shop, ada, mug, how)
        orders_go_on(shop, ada, mug, placed)
        sessions_go_on(shop, ada)
        assert Caller(shop.service).get("/readyz").status_code == 200
    eventually(lambda: is_well(ada, mug))
    sees(other, tea, 3, "well", owner)


def sees(writer: Caller, product: Json, price: int, how: str, owner: str) -> None:
    """What it has written, whichever worker it asks."""
    answers = [each.get(f"/products/{product['id']}") for each in everywhere(writer)]
    assert {ok(answer)["price"] for answer in answers} == {price}
    if how in AWAY:
        assert {answer.headers["X-Served-By"] for answer in answers} == {owner}


def carts_are(shop: Shop, shopper: Shopper, product: Json, how: str) -> None:
    """Away; full, they can be read and not be changed."""
    for each in everywhere(shopper):
        line = each.put(f"/cart/items/{product['id']}", json={"quantity": 5})
        answers = [line]
        if how != "full":
            answers += [each.get("/cart"), each.delete("/cart"), shop.place_order(each)]
        for answer in answers:
            refused(answer, 503)
            assert int(answer.headers["Retry-After"]) >= 1
        if how == "full":
            assert [line["quantity"] for line in ok(each.get("/cart"))["items"]] == [1]


def orders_go_on(shop: Shop, shopper: Shopper, product: Json, placed: requests.Response) -> None:
    before = ok(placed, 201)
    key = placed.request.headers["Idempotency-Key"]
    assert shop.place_order(shopper.afresh(), [(product, 1)], key=str(key)).content == placed.content
    for each in everywhere(shopper):
        order = ok(shop.place_order(each, [(product, 1)]), 201)
        for reader in everywhere(shopper):
            assert ok(reader.get(f"/orders/{order['id']}"))["status"] == "pending"
    ok(shop.merchant.post(f"/orders/{order['id']}/pay"))
    ok(shop.merchant.post(f"/orders/{before['id']}/cancel"))
    assert {ok(each.get(f"/orders/{before['id']}"))["status"] for each in everywhere(shopper)} == {
        "cancelled"
    }
    assert ok(shop.merchant.get(f"/products/{product['id']}"))["stock"] == 100 - CROWD


def sessions_go_on(shop: Shop, shopper: Shopper) -> None:
    ok(shop.guest().get("/orders"))
    other = shop.sign_in(str(shopper.email))
    assert other.delete("/sessions/current").status_code == 204
    for each in everywhere(other):
        refused(each.get("/orders"), 401)


def test_a_write_that_one_worker_could_not_tell_of_is_seen_at_the_others(
    shop: Shop, server: ValkeyServer
) -> None:
    """They may not even have noticed that the server was away; and what it has cached is older."""
    mug, guest = shop.product(price=1), shop.guest()
    writer = shop.caller(ok(shop.merchant.post("/api-keys"), 201)["api_key"])
    for price in (2, 3, 4):
        eventually(lambda: is_well(guest, mug))
        with server.frozen():
            ok(writer.patch(f"/products/{mug['id']}", json={"price": price}))
        answers = [each.get(f"/products/{mug['id']}") for each in everywhere(writer)]
        assert [ok(answer)["price"] for answer in answers] == [price] * CROWD


@pytest.mark.parametrize("how", ["frozen", "dead"])
def test_a_crowd_that_meets_the_end_and_the_return_is_served(
    shop: Shop, server: ValkeyServer, how: str
) -> None:
    mug, shoppers = shop.product(stock=10**6), [shop.guest() for _ in range(8)]
    seen: Counter[tuple[str, int]] = Counter()
    done = threading.Event()

    def shops(shopper: Shopper) -> None:
        while not done.is_set():
            for kind, answer in (
                ("cart", shopper.put(f"/cart/items/{mug['id']}", json={"quantity": 1})),
                ("read", shopper.get(f"/products/{mug['id']}")),
                ("order", shop.place_order(shopper, [(mug, 1)])),
            ):
                seen[kind, answer.status_code] += 1

    def comes(kind: str, status: int, times: int = 20) -> None:
        wanted = seen[kind, status] + times
        eventually(lambda: seen[kind, status] >= wanted, 60)

    with ThreadPoolExecutor(len(shoppers)) as threads:
        running = [threads.submit(shops, shopper) for shopper in shoppers]
        try:
            comes("cart", 200)
            with server.broken(how):
                comes("cart", 503)
                comes("order", 201)
            comes("cart", 200)
        finally:
            done.set()
        for each in running:
            each.result()
    assert seen.keys() <= {("cart", 200), ("cart", 503), ("read", 200), ("order", 201)}
    assert shop.stock(mug) == 10**6 - seen["order", 201]


def test_an_empty_cart_is_not_believed_of_a_replica(shop: Shop, server: ValkeyServer) -> None:
    """Its memory may be older than the cart's last change."""
    guest = shop.guest()
    assert ok(guest.get("/cart"))["items"] == []
    with server.replica():
        refused(guest.get("/cart"), 503)

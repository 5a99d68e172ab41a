"""The cache while its server is frozen, dead, or back with another memory, and while nobody tells it of a write."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
import requests

from tests.cluster_fixtures import Databases, Service, serving
from tests.held_app import HELD_APP, hold
from tests.shard_servers import Servers, until
from tests.shop import Caller, Json, Shop, eventually, ok, operator, refused
from tests.valkey_server import ValkeyServer, running_valkey


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with running_valkey() as running:
        yield running


def on(service: Service) -> Service:
    """With the flag on, in every worker."""
    callers = [operator(service) for _ in range(12)]
    ok(callers[0].put("/v1/admin/flags/redis_cache", json={"enabled": True}))
    eventually(lambda: all(ok(caller.get("/v1/admin/flags"))["redis_cache"] for caller in callers))
    return service


@pytest.fixture(scope="module")
def patient(databases: Databases, server: ValkeyServer) -> Iterator[Service]:
    """Where an entry lives so long that what is shown is never simply expired."""
    with serving(databases.settings, redis_url=server.url, cache_ttl_seconds=60.0) as service:
        yield on(service)


@pytest.fixture
def shop(patient: Service) -> Shop:
    return Shop.create(patient)


def is_cached(readers: list[Caller], path: str) -> None:
    """Wait until all of them, by whichever worker, are shown it from the cache."""
    eventually(lambda: all(reader.get(path).headers["X-Cache"] == "hit" for reader in readers))


def strangers(shop: Shop) -> list[Caller]:
    """Readers with no credential, on connections enough that every worker has some of them."""
    return [shop.caller(None) for _ in range(8)]


def prices(readers: list[Caller], product: Json) -> set[int]:
    return {ok(reader.get(f"/products/{product['id']}"))["price"] for reader in readers}


def are_shown(readers: list[Caller], product: Json, price: int) -> bool:
    return prices(readers, product) == {price}


def test_while_it_is_frozen_everything_is_answered_from_the_databases(
    shop: Shop, server: ValkeyServer
) -> None:
    mug = shop.product(price=1)
    readers = strangers(shop)
    is_cached(readers, f"/products/{mug['id']}")
    with server.frozen():
        for price in range(2, 6):
            ok(shop.merchant.patch(f"/products/{mug['id']}", json={"price": price}))
            answers = [reader.get(f"/products/{mug['id']}") for reader in readers]
            assert {ok(answer)["price"] for answer in answers} == {price}
            assert {answer.headers["X-Cache"] for answer in answers} == {"bypass"}
    is_cached(readers, "/products")


@pytest.mark.parametrize("with_snapshot", [False, True], ids=["empty", "with an old memory"])
def test_back_with_another_memory_it_shows_nothing_of_before(
    shop: Shop, server: ValkeyServer, *, with_snapshot: bool
) -> None:
    mug = shop.product(price=1)
    readers = strangers(shop)
    is_cached(readers, f"/products/{mug['id']}")
    server.admin.save()
    server.kill()
    ok(shop.merchant.patch(f"/products/{mug['id']}", json={"price": 2}))
    assert prices(readers, mug) == {2}
    server.restart(with_snapshot=with_snapshot)
    assert prices(readers, mug) == {2}
    is_cached(readers, f"/products/{mug['id']}")
    assert prices(readers, mug) == {2}


def test_while_the_server_is_full_a_writer_sees_the_write_by_credential_alone(
    shop: Shop, server: ValkeyServer
) -> None:
    mug = shop.product(price=1)
    path = f"/products/{mug['id']}"
    is_cached([shop.merchant.afresh() for _ in range(8)], path)
    server.admin.config_set("maxmemory", "1")
    try:
        ok(shop.merchant.afresh().patch(path, json={"price": 2}))
        assert prices([shop.merchant.afresh() for _ in range(8)], mug) == {2}
    finally:
        server.admin.config_set("maxmemory", "0")


def test_a_write_that_nobody_told_of_is_seen_by_its_writer_at_once(shop: Shop, server: ValkeyServer) -> None:
    """The worker could not tell the cache; the entry is there still, and the writer's token says that it is old."""
    mug = shop.product(price=1)
    readers = strangers(shop)
    is_cached(readers, f"/products/{mug['id']}")
    with server.frozen():
        answer = shop.merchant.patch(f"/products/{mug['id']}", json={"price": 2})
    ok(answer)
    writers = strangers(shop)
    for writer in writers:
        writer.http.headers["Consistency-Token"] = answer.headers["Consistency-Token"]
    assert prices(writers, mug) == {2}
    is_cached(writers, f"/products/{mug['id']}")
    assert prices(writers, mug) == {2}


def test_what_a_credential_saw_while_the_server_was_away_does_not_vanish(
    shop: Shop, server: ValkeyServer
) -> None:
    """It could not be remembered; the entry of before is there still, and nobody told the cache that it is old."""
    mug, other = shop.product(price=1), shop.product()
    shopper = shop.guest()
    shoppers = [shopper.afresh() for _ in range(8)]
    is_cached(shoppers, f"/products/{mug['id']}")
    with server.frozen():
        assert prices(shoppers, other) == {other["price"]}  # every worker has found it away
        ok(shop.merchant.afresh().patch(f"/products/{mug['id']}", json={"price": 2}))
        assert prices(shoppers, mug) == {2}
    for _ in range(20):
        assert prices([each.afresh() for each in shoppers], mug) == {2}
    is_cached(shoppers, f"/products/{mug['id']}")
    assert prices(shoppers, mug) == {2}


@pytest.fixture(scope="module")
def hasty(databases: Databases, server: ValkeyServer) -> Iterator[Service]:
    """Where an entry lives as long as it does by default, and a commit is soon in doubt."""
    with serving(
        databases.settings, application=HELD_APP, redis_url=server.url, statement_timeout_seconds=1.0
    ) as service:
        yield on(service)


class Shard:
    """The shard a shop lives on."""

    def __init__(self, databases: Databases, shop: Shop) -> None:
        self._database = databases.settings.database_name
        self._servers = Servers(databases.cluster)
        name = ok(operator(shop.service).get(f"/v1/admin/stores/{shop.id}/route"))["shard"]
        self._primary = databases.cluster.primary(name).name
        self._replicas = [
            node.name for node in self._servers.nodes if node.shard == name and node.name != self._primary
        ]

    def sql(self, text: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """On the primary."""
        return self._servers.sql(self._primary, text, *parameters, database=self._database)

    @contextmanager
    def replicas_frozen(self) -> Iterator[None]:
        """Commits wait: they are in the log, and nobody sees them yet."""
        with ExitStack() as frozen:
            for name in self._replicas:
                self._servers.freeze(name)
                frozen.callback(self._servers.thaw, name)
            yield

    def cut_off_a_commit(self) -> None:
        """Have the connection break behind the commit that waits, and in front of its answer. It did happen."""
        waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = %s"
        until(lambda: self.sql(f"SELECT pid {waiting}", self._database))
        assert self.sql(f"SELECT pg_terminate_backend(pid) {waiting}", self._database) == [(True,)]

    def price(self, product: Json) -> int:
        [[price]] = self.sql("SELECT price FROM products WHERE id = %s", product["id"])
        return int(price)


Write = Callable[[Shop, Json], requests.Response]


def double_the_price(shop: Shop, product: Json) -> requests.Response:
    path = f"/products/{product['id']}"
    return shop.merchant.afresh().patch(path, json={"price": 2 * product["price"]})


def order_all(shop: Shop, product: Json) -> requests.Response:
    return shop.place_order(shop.guest(), [(product, product["stock"])])


@pytest.mark.parametrize(("write", "field"), [(double_the_price, "price"), (order_all, "stock")])
def test_a_write_whose_commit_is_in_doubt_voids_what_it_changed(
    databases: Databases, shop: Shop, write: Write, field: str
) -> None:
    """It did happen, and the worker cannot know: here an entry would live for a minute."""
    mug = shop.product(price=7, stock=5)
    readers, shard = strangers(shop), Shard(databases, shop)
    is_cached(readers, f"/products/{mug['id']}")
    with ThreadPoolExecutor(1) as threads, shard.replicas_frozen():
        written = threads.submit(write, shop, mug)
        shard.cut_off_a_commit()
        refused(written.result(), 503, "commit-in-doubt")
        shown = {ok(reader.get(f"/products/{mug['id']}"))[field] for reader in readers}
    assert shown == {{"price": 14, "stock": 0}[field]}


def test_a_commit_in_doubt_that_happens_later_is_seen_by_all_within_two_seconds(
    databases: Databases, hasty: Service
) -> None:
    """What it voided was made anew before it happened."""
    shop = Shop.create(hasty)
    mug = shop.product(price=7)
    readers, shard = strangers(shop), Shard(databases, shop)
    with shard.replicas_frozen():
        refused(double_the_price(shop, mug), 503, "commit-in-doubt")
        is_cached(readers, f"/products/{mug['id']}")
        assert prices(readers, mug) == {7}
    until(lambda: shard.price(mug) == 14)
    eventually(partial(are_shown, readers, mug, 14), within_seconds=2.0)


def test_a_worker_that_dies_behind_its_commit_leaves_the_old_answer_for_two_seconds_at_most(
    databases: Databases, hasty: Service, server: ValkeyServer
) -> None:
    shop = Shop.create(hasty)
    mug = shop.product(price=7)
    shard, state = Shard(databases, shop), f"cache-state:{{{shop.id}}}"
    is_cached(strangers(shop), f"/products/{mug['id']}")
    changes = server.admin.hget(state, "g")
    with ThreadPoolExecutor(1) as threads, hold(hasty, "change") as held_by:
        written = threads.submit(double_the_price, shop, mug)
        worker = held_by()
        assert shard.price(mug) == 14
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(requests.ConnectionError):
            written.result()
    assert server.admin.hget(state, "g") == changes
    readers = strangers(shop)
    eventually(partial(are_shown, readers, mug, 14), within_seconds=2.0)


def test_a_write_behind_the_services_back_is_seen_by_all_within_two_seconds(
    databases: Databases, hasty: Service
) -> None:
    shop = Shop.create(hasty)
    mug = shop.product(price=1)
    readers, shard = strangers(shop), Shard(databases, shop)
    for price in range(2, 6):
        is_cached(readers, f"/products/{mug['id']}")
        shard.sql("UPDATE products SET price = %s WHERE id = %s", price, mug["id"])
        eventually(partial(are_shown, readers, mug, price), within_seconds=2.0)

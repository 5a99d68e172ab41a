"""Moving a store by the operator API, while shops go on: contract section 4."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import psycopg
import pytest

from tests.cluster_fixtures import Databases, Service, serving
from tests.shop import Caller, Json, Shop, eventually, ok, operator, refused

MOVES = "/v1/admin/moves"
# How long a store is worth waiting for: a mover starts, and copies a few rows.
PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def market(databases: Databases) -> Iterator[Service]:
    """One of its own, where moves are soon over."""
    with serving(databases.settings, scrypt_log2_n=8, move_undo_seconds=2.0) as running:
        yield running
        asked = operator(running)
        for path in list(_asked):
            eventually(lambda path=path: ok(asked.get(path))["step"] == "", PATIENCE_SECONDS)  # type: ignore[misc]
        assert "Traceback" not in running.log.read_text()


_asked: list[str] = []


def route(shop: Shop) -> Json:
    return ok(operator(shop.service).get(f"/v1/admin/stores/{shop.id}/route"))


def other_shard(shop: Shop) -> str:
    return "shard-1" if route(shop)["shard"] == "shard-0" else "shard-0"


def begin(shop: Shop, shard: str) -> str:
    """A move that is under way: its path."""
    answer = operator(shop.service).post(MOVES, json={"store_id": shop.id, "to_shard": shard})
    move = ok(answer, 202)
    assert (move["store_id"], move["to_shard"], move["state"]) == (shop.id, shard, "copying")
    assert answer.headers["Location"] == f"{MOVES}/{move['id']}"
    _asked.append(answer.headers["Location"])
    return answer.headers["Location"]


def ended(service: Service, path: str) -> Json:
    """The move, once it is decided and over."""
    asked = operator(service)
    eventually(lambda: ok(asked.get(path))["finished_at"] is not None, PATIENCE_SECONDS)
    return ok(asked.get(path))


@contextmanager
def selling(shop: Shop, product: Json) -> Iterator[list[str]]:
    """Somebody who orders all the time, and reads each order right behind it, on whichever worker: the orders' ids."""
    placed: list[str] = []
    failed: list[BaseException] = []
    over = threading.Event()

    def sell() -> None:
        try:
            shopper = shop.guest()
            while not over.is_set():
                order = ok(shop.place_order(shopper, [(product, 1)]), 201)
                placed.append(order["id"])
                assert ok(shopper.afresh().get(f"/orders/{order['id']}"))["id"] == order["id"]
        except BaseException as error:
            failed.append(error)
            raise

    thread = threading.Thread(target=sell)
    thread.start()
    try:
        eventually(lambda: len(placed) > 2 or bool(failed))
        yield placed
    finally:
        over.set()
        thread.join()
        assert failed == []


def test_a_store_moves_while_it_sells(market: Service) -> None:
    shop = Shop.create(market)
    product = shop.product(stock=10_000)
    target = other_shard(shop)
    key, body = secrets.token_hex(8), [(product, 2)]
    first = shop.place_order(shop.merchant, body, key=key)
    with selling(shop, product) as placed:
        move = ended(market, begin(shop, target))
        assert (move["state"], move["error"]) == ("done", None)
        after = len(placed)
        eventually(lambda: len(placed) > after + 3)
    assert route(shop)["shard"] == target
    assert move["write_pause_ms"] > move["verify_ms"] > 0
    assert move["rows_copied"] > 0
    assert shop.stock(product) == 10_000 - 2 - len(placed)
    listed = [order["id"] for page in shop.merchant.pages("/orders", limit=100) for order in page]
    assert len(listed) == len(placed) + 1
    assert set(placed) < set(listed)
    again = shop.place_order(shop.merchant, body, key=key)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.content == first.content


def test_the_operator_lists_a_store_on_the_move_once(market: Service) -> None:
    shop = Shop.create(market)
    path = begin(shop, other_shard(shop))
    asked = operator(market)
    while ok(asked.get(path))["finished_at"] is None:
        listed = [store["id"] for page in asked.pages("/v1/stores", limit=3) for store in page]
        assert listed.count(shop.id) == 1
        assert len(set(listed)) == len(listed)


def test_a_key_revoked_before_the_move_stays_revoked(market: Service) -> None:
    shop = Shop.create(market)
    made = ok(shop.merchant.post("/api-keys"), 201)
    assert shop.merchant.delete(f"/api-keys/{made['id']}").status_code == 204
    shopper = shop.guest()
    assert shopper.delete("/sessions/current").status_code == 204
    ended(market, begin(shop, other_shard(shop)))
    refused(shop.caller(made["api_key"]).post("/products", json={}), 401)
    refused(shopper.get("/orders"), 401)
    shop.product()


def test_a_pin_is_a_route_and_where_needed_a_move(market: Service) -> None:
    shop = Shop.create(market)
    asked, path = operator(market), f"/v1/admin/stores/{shop.id}/pin"
    source, target = route(shop)["shard"], other_shard(shop)
    assert ok(asked.put(path, json={"shard": source}))["reason"] == "pin"
    moved = asked.put(path, json={"shard": target})
    _asked.append(moved.headers["Location"])
    assert ok(moved, 202)["to_shard"] == target
    assert ended(market, moved.headers["Location"])["state"] == "done"
    assert (route(shop)["shard"], route(shop)["reason"]) == (target, "pin")
    back = asked.delete(path)
    _asked.append(back.headers["Location"])
    assert ended(market, back.headers["Location"])["state"] == "done"
    assert (route(shop)["shard"], route(shop)["reason"]) == (source, "ring")
    assert ok(asked.delete(path))["reason"] == "ring"


def test_what_cannot_be_moved_is_refused(market: Service) -> None:
    shop = Shop.create(market)
    asked = operator(market)
    here, there = route(shop)["shard"], other_shard(shop)

    def move(**body: Any) -> Any:
        return asked.post(MOVES, json={"store_id": shop.id, "to_shard": there} | body)

    nobody = "01990000-0000-7000-8000-000000000000"
    refused(move(store_id=nobody), 404)
    refused(move(to_shard="shard-9"), 404)
    refused(move(to_shard=here), 409)
    refused(move(to_shard=7), 400)
    refused(asked.get(f"{MOVES}/{nobody}"), 404)
    refused(asked.delete(f"{MOVES}/{nobody}"), 404)
    refused(asked.put(f"/v1/admin/stores/{shop.id}/pin", json={"shard": "shard-9"}), 404)
    refused(asked.delete(f"/v1/admin/stores/{nobody}/pin"), 404)
    refused(Caller(market).post(MOVES, json={"store_id": shop.id, "to_shard": there}), 401)
    path = begin(shop, there)
    refused(move(), 409)
    ended(market, path)


def test_a_move_is_taken_back_in_time_and_not_afterwards(market: Service) -> None:
    shop = Shop.create(market)
    product, source = shop.product(stock=10), route(shop)["shard"]
    path = begin(shop, other_shard(shop))
    assert ended(market, path)["state"] == "done"
    shop.place_order(shop.merchant, [(product, 3)])
    asked = operator(market)
    assert ok(asked.delete(path), 202)["state"] == "done"
    eventually(lambda: ok(asked.get(path))["state"] == "rolled_back", PATIENCE_SECONDS)
    assert (route(shop)["shard"], shop.stock(product)) == (source, 7)
    refused(asked.delete(path), 409)


def test_a_killed_mover_is_followed_by_another(market: Service) -> None:
    shop = Shop.create(market)
    product = shop.product(stock=10_000)
    with selling(shop, product) as placed:
        path = begin(shop, other_shard(shop))
        eventually(lambda: bool(movers(market)))
        for mover in movers(market):
            mover.kill()
        assert ended(market, path)["state"] == "done"
    assert shop.stock(product) == 10_000 - len(placed)


def test_a_mover_ends_with_the_worker_that_started_it(market: Service) -> None:
    shop = Shop.create(market)
    path = begin(shop, other_shard(shop))
    eventually(lambda: holder(market) in {process.pid for process in movers(market)})
    mover = psutil.Process(holder(market))
    worker = mover.parent()
    assert worker is not None
    worker.kill()
    assert ended(market, path)["state"] == "done"
    eventually(lambda: not mover.is_running() or mover.status() == psutil.STATUS_ZOMBIE)


def holder(service: Service) -> int:
    """The mover that has the lease, of any that were started."""
    with psycopg.connect(service.settings.catalog_dsn, target_session_attrs="read-write") as connection:
        row = connection.execute("SELECT split_part(holder, '/', 2) FROM mover").fetchone()
    return int(row[0] or 0) if row else 0


def movers(service: Service) -> list[psutil.Process]:
    """The processes that the service's workers have started."""
    found = []
    for process in psutil.Process(service.pid).children(recursive=True):
        try:
            if process.cmdline()[1:] == ["-m", "moves"]:
                found.append(process)
        except psutil.Error:
            continue
    return found

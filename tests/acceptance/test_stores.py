"""Stores and their merchant keys: contract section 2."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

import pytest

from tests.cluster_fixtures import Service
from tests.shop import Shop, eventually, ok, operator, refused

# The times of RFC 3339 in UTC, and no other writing of them.
UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
# Connections enough that every worker has some of them.
CONNECTIONS = 12


def test_a_new_store_is_answered_with_its_key_and_its_place(market: Service) -> None:
    answer = operator(market).post("/v1/stores", json={"name": "Bücher & Tee", "currency": "CHF"})
    store = ok(answer, 201)
    assert store["name"] == "Bücher & Tee"
    assert store["currency"] == "CHF"
    assert store["api_key"]
    assert UTC_TIME.fullmatch(store["created_at"])
    assert answer.headers["Location"] == f"/v1/stores/{store['id']}"
    assert UUID(store["id"]).version == 7


def test_anyone_reads_a_store_and_sees_no_key(shop: Shop) -> None:
    seen = ok(shop.anyone.get())
    assert seen == shop.store
    assert seen.keys() == {"id", "name", "currency", "created_at"}


def test_only_the_operator_creates_and_lists_stores(shop: Shop, market: Service) -> None:
    body = {"name": "Mine", "currency": "EUR"}
    for caller in (shop.merchant, shop.guest()):
        caller.path = ""
        refused(caller.post("/v1/stores", json=body), 403)
        refused(caller.get("/v1/stores"), 403)
        caller.path = shop.path
    nobody = shop.anyone.afresh()
    nobody.path = ""
    refused(nobody.post("/v1/stores", json=body), 401)
    refused(nobody.get("/v1/stores"), 401)


@pytest.mark.parametrize(
    "name", ["x", "x" * 200, "𝔘" * 200, "e\u0301" * 100, "\u202eabc", "日本", " ", "a\nb"]
)
def test_a_name_of_1_to_200_characters_is_kept_as_it_is(market: Service, name: str) -> None:
    store = ok(operator(market).post("/v1/stores", json={"name": name, "currency": "EUR"}), 201)
    assert store["name"] == name
    assert ok(operator(market).get(f"/v1/stores/{store['id']}"))["name"] == name


@pytest.mark.parametrize("name", ["", "x" * 201, "𝔘" * 201, "a\0b", None, 7, ["x"], {}, True])
def test_any_other_name_is_refused(market: Service, name: Any) -> None:
    problem = refused(operator(market).post("/v1/stores", json={"name": name, "currency": "EUR"}), 400)
    assert [error["path"] for error in problem["errors"]] == ["/name"]


@pytest.mark.parametrize("currency", ["eur", "EURO", "EU", "", "ABC", "E\u0055R\u200b", 978, None])
def test_a_currency_that_iso_4217_does_not_have_is_refused(market: Service, currency: Any) -> None:
    problem = refused(operator(market).post("/v1/stores", json={"name": "x", "currency": currency}), 400)
    assert [error["path"] for error in problem["errors"]] == ["/currency"]


def test_a_store_that_is_not_there_is_404(market: Service) -> None:
    for store in ("01900000-0000-7000-8000-000000000000", "not-an-id", "0", "%00", "%ff"):
        refused(operator(market).get(f"/v1/stores/{store}"), 404)


def test_the_list_of_stores_is_gathered_from_every_shard_in_one_order(market: Service) -> None:
    by_shard = Shop.on_each_shard(market)
    Shop.create(market)
    asked = operator(market)
    listed = [store for page in asked.pages("/v1/stores", limit=3) for store in page]
    ids = [store["id"] for store in listed]
    assert ids == sorted(ids, reverse=True)
    assert len(set(ids)) == len(ids)
    assert set(ids) >= {shop.id for shop in by_shard.values()}
    assert listed == ok(asked.get("/v1/stores", params={"limit": 100}))["data"]
    times = [store["created_at"] for store in listed]
    assert times == sorted(times, reverse=True)


def test_no_store_is_missed_or_listed_twice_while_others_are_made(market: Service) -> None:
    asked = operator(market)
    there = {Shop.create(market).id for _ in range(6)}
    seen: list[str] = []
    cursor = None
    while cursor is not None or not seen:
        page = ok(asked.get("/v1/stores", params={"limit": "4"} | ({"cursor": cursor} if cursor else {})))
        seen += [store["id"] for store in page["data"]]
        cursor = page["next_cursor"]
        if len(seen) < 20:
            Shop.create(market)
    assert len(set(seen)) == len(seen)
    assert seen == sorted(seen, reverse=True)
    assert there <= set(seen)


def test_a_further_key_works_on_every_worker_at_once(shop: Shop) -> None:
    made = ok(shop.merchant.post("/api-keys"), 201)
    assert made.keys() == {"id", "api_key"}
    assert UUID(made["id"]).version == 7
    for _ in range(CONNECTIONS):
        ok(shop.caller(made["api_key"]).get("/customers"))


def test_a_key_is_made_with_an_empty_object_or_no_body(shop: Shop) -> None:
    ok(shop.merchant.post("/api-keys", json={}), 201)
    ok(shop.merchant.post("/api-keys"), 201)
    problem = refused(shop.merchant.post("/api-keys", json={"name": "till"}), 400)
    assert [error["path"] for error in problem["errors"]] == ["/name"]


def test_a_revoked_key_stops_on_every_worker_within_5_seconds(shop: Shop) -> None:
    made = ok(shop.merchant.post("/api-keys"), 201)
    callers = [shop.caller(made["api_key"]) for _ in range(CONNECTIONS)]
    for caller in callers:
        ok(caller.get("/customers"))  # every worker knows the key now
    assert shop.merchant.delete(f"/api-keys/{made['id']}").status_code == 204
    eventually(lambda: all(caller.get("/customers").status_code == 401 for caller in callers), 5)
    for caller in callers:
        refused(caller.get("/customers"), 401)
        refused(caller.post("/products", json={}), 401)
    ok(shop.merchant.get("/customers"))  # the others go on


def test_a_key_may_revoke_itself(market: Service) -> None:
    shop = Shop.create(market)
    assert shop.merchant.delete(f"/api-keys/{shop.api_key_id}").status_code == 204
    eventually(lambda: shop.merchant.get("/customers").status_code == 401, 5)


def test_revoking_again_changes_nothing(shop: Shop) -> None:
    made = ok(shop.merchant.post("/api-keys"), 201)
    for _ in range(2):
        assert shop.merchant.delete(f"/api-keys/{made['id']}").status_code == 204


def test_a_key_of_another_store_cannot_be_revoked(shop: Shop, market: Service) -> None:
    other = Shop.create(market)
    for key in (other.api_key_id, "01900000-0000-7000-8000-000000000000", "not-an-id"):
        refused(shop.merchant.delete(f"/api-keys/{key}"), 404)
    ok(other.merchant.get("/customers"))
    for caller in (shop.anyone, shop.guest(), shop.caller(market.operator_token)):
        refused(caller.delete(f"/api-keys/{shop.api_key_id}"), 401 if caller is shop.anyone else 403)
        refused(caller.post("/api-keys"), 401 if caller is shop.anyone else 403)
    ok(shop.merchant.get("/customers"))

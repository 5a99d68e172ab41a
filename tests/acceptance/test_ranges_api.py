"""Ranges by the operator API: new stores go there at once, the others once they have been moved."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest

from tests.cluster_fixtures import Databases, Service, serving
from tests.shop import Caller, Json, Shop, eventually, ok, operator, refused

RANGES = "/v1/admin/ranges"
LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"


@pytest.fixture(scope="module")
def market(databases: Databases) -> Iterator[Service]:
    with serving(databases.settings, scrypt_log2_n=8) as running:
        yield running
        assert "Traceback" not in running.log.read_text()


def route(shop: Shop) -> Json:
    return ok(operator(shop.service).get(f"/v1/admin/stores/{shop.id}/route"))


def where(shop: Shop) -> tuple[str, str]:
    found = route(shop)
    return found["shard"], found["reason"]


def after(shop: Shop) -> str:
    """The next id after a store's."""
    return str(UUID(int=UUID(shop.id).int + 1))


def test_a_range_leads_its_stores_to_a_shard_and_back(market: Service) -> None:
    asked, first = operator(market), Shop.create(market)
    product = first.product(stock=5)
    home, _ = where(first)
    target = "shard-1" if home == "shard-0" else "shard-0"
    path, body = f"{RANGES}/{first.id}", {"high": LAST, "shard": target}
    answer = asked.put(path, json=body)
    assert ok(answer, 202) == {"low": first.id, "moving": 1, **body}
    assert answer.headers["Location"] == path
    new = Shop.create(market)
    assert where(new) == (target, "range")
    # Found where it lives until it has moved; then by the range.
    assert where(first) in ((home, "pin"), (target, "range"))
    eventually(lambda: where(first) == (target, "range"), 60)
    assert first.stock(product) == 5
    assert ok(asked.get(path)) == {"low": first.id, "moving": 0, **body}
    assert ok(asked.get(RANGES)) == {"data": [ok(asked.get(path))]}
    assert ok(asked.delete(path), 202)["moving"] >= 1
    assert ok(asked.get(RANGES)) == {"data": []}
    refused(asked.get(path), 404)
    eventually(lambda: where(first) == (home, "ring") and where(new)[1] == "ring", 60)
    assert first.stock(product) == 5


def test_a_range_is_found_beside_pins_and_the_ring(market: Service) -> None:
    """Every reason that a route can have but for the flag's."""
    asked, shop = operator(market), Shop.create(market)
    home, reason = where(shop)
    assert reason == "ring"
    assert ok(asked.put(f"{RANGES}/{shop.id}", json={"high": after(shop), "shard": home}))["moving"] == 0
    eventually(lambda: where(shop) == (home, "range"), 10)  # another worker hears of it within a second
    ok(asked.put(f"/v1/admin/stores/{shop.id}/pin", json={"shard": home}))
    eventually(lambda: where(shop) == (home, "pin"), 10)
    ok(asked.delete(f"/v1/admin/stores/{shop.id}/pin"))
    eventually(lambda: where(shop) == (home, "range"), 10)
    assert ok(asked.delete(f"{RANGES}/{shop.id}"))["moving"] == 0
    eventually(lambda: where(shop) == (home, "ring"), 10)


def test_what_is_no_range_is_refused(market: Service) -> None:
    asked = operator(market)
    low, middle, high = (f"00000000-0000-0000-0000-{number:012d}" for number in (1, 5, 9))
    path, whole = f"{RANGES}/{low}", {"high": high, "shard": "shard-0"}
    ok(asked.put(path, json=whole))
    refused(asked.put(f"{RANGES}/{middle}", json={"high": LAST, "shard": "shard-0"}), 409)
    refused(asked.put(f"{RANGES}/00000000-0000-0000-0000-000000000000", json=whole), 409)
    assert ok(asked.put(path, json=whole | {"high": middle}))["high"] == middle
    ok(asked.put(f"{RANGES}/{middle}", json=whole))
    refused(asked.put(path, json=whole | {"high": low}), 400)
    refused(asked.put(path, json=whole | {"shard": "shard-9"}), 404)
    refused(asked.put(path, json={"shard": "shard-0"}), 400)
    refused(asked.put(f"{RANGES}/here", json=whole), 404)
    for begins in (low, middle):
        ok(asked.delete(f"{RANGES}/{begins}"))
    refused(asked.delete(path), 404)
    refused(Caller(market).get(RANGES), 401)
    refused(Caller(market).put(path, json=whole), 401)

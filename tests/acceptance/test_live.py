"""What the control room's page asks: `/live`, `/live/ring`, `/live/route/…`."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
import requests

from routing.ring import PARTITIONS, partition_of
from tests.cluster_fixtures import Databases, Service, serving
from tests.shop import Json, Shop, eventually, ok, operator


@pytest.fixture(scope="module")
def market(databases: Databases) -> Iterator[Service]:
    """One of its own: its totals are of these tests alone."""
    with serving(databases.settings, scrypt_log2_n=8, move_undo_seconds=2.0) as running:
        yield running
        assert "Traceback" not in running.log.read_text()


@pytest.fixture(scope="module")
def shop(market: Service) -> Shop:
    return Shop.create(market)


def live(service: Service, path: str = "", *, token: str = "", **parameters: object) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return requests.get(f"{service.base_url}/live{path}", headers=headers, params=parameters, timeout=10)  # type: ignore[arg-type]


def nodes(document: Json) -> list[Json]:
    return [node for shard in document["shards"] for node in shard["nodes"]]


def kind(document: Json, name: str) -> Json:
    found: Json = next(each for each in document["traffic"]["kinds"] if each["kind"] == name)
    return found


def test_whichever_worker_answers_it_tells_of_all_of_them(market: Service, shop: Shop) -> None:
    before = kind(live(market).json(), "list products")["answered_total"]
    asked = 20
    for _ in range(asked):
        ok(shop.anyone.afresh().get("/products"))  # a connection each: any worker may take it

    def told() -> list[float]:
        return [kind(live(market).json(), "list products")["answered_total"] for _ in range(6)]

    eventually(lambda: set(told()) == {before + asked})
    document = live(market).json()
    row = kind(document, "list products")
    assert len(row["buckets_total"]) == len(document["traffic"]["le"])
    assert sum(row["buckets_total"]) == row["answered_total"]
    assert document["workers"] == market.settings.workers
    assert kind(document, "other")["answered_total"] < 10  # asking for figures is no traffic


def test_every_node_has_its_state_and_its_place_in_the_log(market: Service) -> None:
    # Pools are told of once a second.
    eventually(lambda: all(node["connections"]["available"] for node in nodes(live(market).json())))
    document = live(market).json()
    states = {node["name"]: node["state"] for node in nodes(document)}
    assert states == {
        f"shard-{shard}-{node}": "primary" if node == "a" else "replica" for shard in (0, 1) for node in "abc"
    }
    for shard in document["shards"]:
        assert (shard["share"], shard["timeline"]) == (0.5, 1)
        for node in shard["nodes"]:
            high, _, low = node["lsn"].partition("/")
            assert int(high, 16) << 32 | int(low, 16) == node["lsn_bytes"] > 0
    assert {server["name"] for server in document["servers"]} == {"redis", "lock-0", "lock-1", "lock-2"}
    assert not any(server["away"] for server in document["servers"])
    eventually(lambda: all(shard["stores"] is not None for shard in live(market).json()["shards"]))


def test_a_flag_is_shown_within_the_next_looks_and_its_change_is_an_event(market: Service) -> None:
    last = max(event["id"] for event in live(market).json()["events"])
    ok(operator(market).put("/v1/admin/flags/rate_limit", json={"enabled": True}))
    eventually(lambda: live(market).json()["flags"]["rate_limit"])

    def said() -> list[tuple[str, str]]:
        return [(event["subject"], event["text"]) for event in live(market, after=last).json()["events"]]

    eventually(lambda: said() == [("rate_limit", "switched on")])
    ok(operator(market).put("/v1/admin/flags/rate_limit", json={"enabled": False}))
    # Once, though each worker has seen it.
    eventually(lambda: said() == [("rate_limit", "switched on"), ("rate_limit", "switched off")])


def test_the_ring_is_told_whole(market: Service) -> None:
    ring = live(market, "/ring").json()
    assert sum(length for _, length in ring["runs"]) == ring["partitions"] == PARTITIONS
    owned = [sum(length for shard, length in ring["runs"] if shard == index) for index in (0, 1)]
    assert (ring["shards"], owned) == (["shard-0", "shard-1"], [PARTITIONS // 2, PARTITIONS // 2])


def test_where_a_store_lies_is_told_to_anyone_and_whether_it_is_there_to_the_operator(
    market: Service, shop: Shop
) -> None:
    told = live(market, f"/route/{shop.id}").json()
    known = ok(operator(market).get(f"/v1/admin/stores/{shop.id}/route"))
    assert (told["shard"], told["reason"]) == (known["shard"], known["reason"]) == (told["owner"], "ring")
    assert told["partition"] == partition_of(UUID(shop.id))
    assert told["exists"] is None
    token = market.operator_token
    assert live(market, f"/route/{shop.id}", token=token).json()["exists"] is True
    assert live(market, f"/route/{uuid4()}", token=token).json()["exists"] is False
    for wrong in ("nothing", "%00", shop.id[:-1]):
        answer = live(market, f"/route/{wrong}")
        assert (answer.status_code, answer.headers["Content-Type"]) == (404, "application/problem+json")


@pytest.mark.parametrize("after", ["x", "-1", "1.5", "9" * 30, "²"])
def test_a_number_that_is_none_is_refused(market: Service, after: str) -> None:
    assert live(market, after=after).status_code == 400


def test_a_move_is_shown_without_its_store_but_to_the_operator(market: Service, shop: Shop) -> None:
    token = market.operator_token
    to = "shard-1" if live(market, f"/route/{shop.id}").json()["shard"] == "shard-0" else "shard-0"
    move = ok(operator(market).post("/v1/admin/moves", json={"store_id": shop.id, "to_shard": to}), 202)

    def shown(*, token: str) -> Json | None:
        found: list[Json] = live(market, token=token).json()["moves"]
        return found[0] if found else None

    eventually(lambda: (shown(token=token) or {}).get("state") == "done", 60.0)
    assert (shown(token=token) or {})["store_id"] == shop.id
    assert shop.id not in live(market).text
    assert shop.id not in live(market, token="not" + token).text
    assert move["id"] not in live(market).text
    eventually(lambda: shop.id in str(live(market, token=token).json()["events"]))
    path = f"/v1/admin/moves/{move['id']}"
    eventually(lambda: ok(operator(market).get(path))["step"] == "", 60.0)


def test_pages_that_ask_each_second_do_not_fill_the_log(market: Service) -> None:
    assert live(market).status_code == 200
    assert live(market, after="x").status_code == 400
    lines = [line for line in market.log.read_text().splitlines() if '"/live"' in line]
    assert lines
    assert all('"status":400' in line for line in lines)

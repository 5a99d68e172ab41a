"""The topology and a store's route: contract section 4."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster_fixtures import Service
from tests.shop import Json, Shop, eventually, ok, operator, refused

NODES = {f"shard-{shard}": [f"shard-{shard}-{node}" for node in "abc"] for shard in (0, 1)}


def topology(market: Service) -> Json:
    return ok(operator(market).get("/v1/admin/topology"))


def nodes_of(found: Json) -> list[Json]:
    return [node for shard in found["shards"] for node in shard["nodes"]]


def test_the_topology_names_every_shard_and_node(market: Service) -> None:
    found = topology(market)
    assert found.keys() == {"epoch", "shards"}
    assert isinstance(found["epoch"], int)
    named = {shard["name"]: [node["name"] for node in shard["nodes"]] for shard in found["shards"]}
    assert named == NODES
    for shard in found["shards"]:
        assert shard.keys() == {"name", "stores", "share", "nodes", "hot_stores"}
    for node in nodes_of(found):
        assert node.keys() == {"name", "role", "healthy", "replay_lag_bytes", "replay_lag_seconds", "pool"}
        assert node["pool"].keys() == {"size", "available", "waiting"}
        assert all(isinstance(value, int) and value >= 0 for value in node["pool"].values())


def test_the_shares_are_all_together_1(market: Service) -> None:
    shares = [shard["share"] for shard in topology(market)["shards"]]
    assert sum(shares) == 1
    assert all(0 < share < 1 for share in shares)


def test_every_shard_has_one_primary_and_every_node_is_healthy(market: Service) -> None:
    def roles() -> list[tuple[str, bool]]:
        return [(node["role"], node["healthy"]) for node in nodes_of(topology(market))]

    shard = [("primary", True), ("replica", True), ("replica", True)]
    eventually(lambda: [sorted(roles()[:3]), sorted(roles()[3:])] == [shard, shard])


def test_every_replica_says_how_far_behind_it_is(market: Service) -> None:
    def lags() -> list[Any]:
        replicas = [node for node in nodes_of(topology(market)) if node["role"] == "replica"]
        return [node[field] for node in replicas for field in ("replay_lag_bytes", "replay_lag_seconds")]

    eventually(lambda: len(lags()) == 8 and all(lag is not None and lag >= 0 for lag in lags()))


def test_the_pool_of_a_primary_that_answers_has_connections(market: Service) -> None:
    def sizes() -> list[int]:
        return [node["pool"]["size"] for node in nodes_of(topology(market)) if node["role"] == "primary"]

    eventually(lambda: len(sizes()) == 2 and all(size > 0 for size in sizes()))


def test_stores_are_counted_where_they_live(market: Service) -> None:
    def counts() -> dict[str, int]:
        return {shard["name"]: shard["stores"] for shard in topology(market)["shards"]}

    before = counts()
    shard = ok(operator(market).get(f"/v1/admin/stores/{Shop.create(market).id}/route"))["shard"]
    assert counts() == before | {shard: before[shard] + 1}
    listed = [store for page in operator(market).pages("/v1/stores", limit=100) for store in page]
    assert sum(counts().values()) == len(listed)


def test_a_route_says_where_a_store_lives_and_why(market: Service) -> None:
    epoch = topology(market)["epoch"]
    for shard, shop in Shop.on_each_shard(market).items():
        for _ in range(6):
            route = ok(operator(market).get(f"/v1/admin/stores/{shop.id}/route"))
            assert route == {"shard": shard, "reason": "ring", "epoch": epoch}
        assert shop.anyone.get().headers["X-Served-By"] in NODES[shard]


@pytest.mark.parametrize("store", ["01900000-0000-7000-8000-000000000000", "not-an-id", "%00"])
def test_the_route_of_a_store_that_is_not_there_is_404(market: Service, store: str) -> None:
    refused(operator(market).get(f"/v1/admin/stores/{store}/route"), 404)

"""The topology's document, from values alone."""

from __future__ import annotations

from operations.topology import ObservedPool, topology
from pools.node import Node, NodeState
from pools.pool import PoolGauge
from routing.ring import PARTITIONS
from routing.shard_map import Shard, ShardMap

NODES = (
    Node("shard-0-b", "shard-0", "127.0.0.1", 2),
    Node("shard-0-a", "shard-0", "127.0.0.1", 1),
    Node("shard-1-a", "shard-1", "127.0.0.1", 3),
)
QUARTER = PARTITIONS // 4
MAP = ShardMap(
    epoch=9,
    shards=(Shard("shard-0", 3.0), Shard("shard-1")),
    nodes=NODES,
    partitions=(1,) * QUARTER + (0,) * (PARTITIONS - QUARTER),
)
STATES = {
    "shard-0-a": NodeState("shard-0-a", "replica", True, 120, 0.5),
    "shard-0-b": NodeState("shard-0-b", "primary", True, 0, 0.0),
}
GAUGES = {
    "shard-0-primary": PoolGauge(10, 7, 1),
    "shard-0-a": PoolGauge(2, 2, 0),
    "shard-1-primary": PoolGauge(0, 0, 4),
}


def test_every_shard_and_node_is_told_in_order_with_its_share() -> None:
    document = topology(MAP, STATES, GAUGES, {"shard-0": 5})
    assert document["epoch"] == 9
    assert [(s["name"], s["stores"], s["share"]) for s in document["shards"]] == [
        ("shard-0", 5, 0.75),
        ("shard-1", None, 0.25),
    ]
    assert [[n["name"] for n in s["nodes"]] for s in document["shards"]] == [
        ["shard-0-a", "shard-0-b"],
        ["shard-1-a"],
    ]


def test_a_nodes_pool_is_the_one_of_its_present_role() -> None:
    replica, primary = topology(MAP, STATES, GAUGES, {})["shards"][0]["nodes"]
    assert replica == {
        "name": "shard-0-a",
        "role": "replica",
        "healthy": True,
        "replay_lag_bytes": 120,
        "replay_lag_seconds": 0.5,
        "pool": {"size": 2, "available": 2, "waiting": 0},
    }
    assert primary["pool"] == {"size": 10, "available": 7, "waiting": 1}


def test_a_node_nobody_has_seen_is_unknown_and_not_healthy() -> None:
    (node,) = topology(MAP, STATES, GAUGES, {})["shards"][1]["nodes"]
    assert node == {
        "name": "shard-1-a",
        "role": "unknown",
        "healthy": False,
        "replay_lag_bytes": None,
        "replay_lag_seconds": None,
        "pool": {"size": 0, "available": 0, "waiting": 0},
    }


def test_a_pool_seen_from_outside_may_be_unknown() -> None:
    (node,) = topology(MAP, {}, {"shard-1-a": ObservedPool()}, {})["shards"][1]["nodes"]
    assert node["pool"] == {"size": None, "available": None, "waiting": None}

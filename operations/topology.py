"""The cluster at a glance: one document for `GET /v1/admin/topology` and for `flask shards status --json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from operations.load import HotStore, Load, hot_stores
from pools.node import NodeState
from routing.shard_map import ShardMap


class Gauge(Protocol):
    """A pool's connections, as `pools.PoolGauge` counts its own; None where who looks cannot know."""

    @property
    def size(self) -> int | None: ...
    @property
    def available(self) -> int | None: ...
    @property
    def waiting(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class ObservedPool:
    """A pool seen from outside its process: by default nothing is known of it."""

    size: int | None = None
    available: int | None = None
    waiting: int | None = None


# Stores that are listed of each shard.
HOT_STORES = 10

# What a worker has on a node that it keeps no pool to.
NO_POOL = ObservedPool(0, 0, 0)


def topology(
    shard_map: ShardMap,
    states: Mapping[str, NodeState],
    gauges: Mapping[str, Gauge],
    stores: Mapping[str, int | None],
    load: Load | None = None,
    *,
    sharding: bool = True,
) -> dict[str, Any]:
    """The document of the operator API: shards in the map's order, nodes by name.

    `states` by node, `gauges` by pool (`shard-0-primary`, or a replica's node), `stores` (how many live
    there) by shard, `load` of all workers; what is missing is unknown. A node's pool is the one that leads to it in
    its present role.
    """
    nodes = sorted(shard_map.nodes, key=lambda node: node.name)
    hot = (
        hot_stores(load, lambda store_id: shard_map.route(store_id, sharding=sharding).shard, HOT_STORES)
        if load is not None
        else None
    )
    return {
        "epoch": shard_map.epoch,
        "shards": [
            {
                "name": shard.name,
                "stores": stores.get(shard.name),
                "share": shard_map.share(shard.name),
                "nodes": [
                    _node(states.get(node.name, NodeState(node.name)), shard.name, gauges)
                    for node in nodes
                    if node.shard == shard.name
                ],
                "hot_stores": _hot_stores(hot.get(shard.name, ())) if hot is not None else None,
            }
            for shard in shard_map.shards
        ],
    }


def _hot_stores(found: Sequence[HotStore]) -> list[dict[str, Any]]:
    return [
        {
            "store_id": str(each.store_id),
            "requests_per_second": round(each.rate.requests, 3),
            "statements_per_second": round(each.rate.statements, 3),
            "postgres_ms_per_second": round(1000 * each.rate.postgres_seconds, 3),
            "share": round(each.share, 4),
        }
        for each in found
    ]


def pool_name(shard: str, node: str, role: str) -> str:
    """The name of the pool that leads to a node while it has this role."""
    return f"{shard}-primary" if role == "primary" else node


def _node(state: NodeState, shard: str, gauges: Mapping[str, Gauge]) -> dict[str, Any]:
    gauge = gauges.get(pool_name(shard, state.name, state.role), NO_POOL)
    return {
        "name": state.name,
        "role": state.role,
        "healthy": state.healthy,
        "replay_lag_bytes": state.replay_lag_bytes,
        "replay_lag_seconds": state.replay_lag_seconds,
        "pool": {"size": gauge.size, "available": gauge.available, "waiting": gauge.waiting},
    }

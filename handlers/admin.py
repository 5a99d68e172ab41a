"""The operator's view: the flags, the topology, a store's route."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import sql
from errors import Conflict, NotFound
from handlers.call import Answer, Call
from handlers.endpoint import endpoint
from handlers.schemas import FlagChange, FlagSet, StoreRoute, Topology
from handlers.serve import json_answer
from operations.flags import set_flag
from operations.stores import read_store
from operations.topology import topology

LIST_STORE_IDS = sql.query("list_store_ids")


@endpoint("GET", "/v1/admin/flags", who="operator", answer=FlagSet)
def list_flags(call: Call) -> Answer:
    """Read the five flags, as they are in force here."""
    return json_answer(call.scope.flags.as_dict())


@endpoint(
    "PUT",
    "/v1/admin/flags/{name}",
    who="operator",
    body=FlagChange,
    answer=FlagSet,
    errors=(NotFound, Conflict),
)
def change_flag(call: Call, name: str) -> Answer:
    """Switch a layer on or off. In force on every worker within 1 s."""
    parts = call.marketplace

    def stores_of(shard: str) -> Sequence[UUID]:
        return [row[0] for row in parts.router.on_shard(call.scope, shard, LIST_STORE_IDS, {})]

    set_flag(parts.catalog, name, call.body.enabled, stores_of)
    # Here at once, by the same look that the other workers take on their own.
    return json_answer(parts.maps.refresh(parts.maps.current().map.epoch).flags.as_dict())


@endpoint("GET", "/v1/admin/topology", who="operator", answer=Topology)
def read_topology(call: Call) -> Answer:
    """Read which shards and nodes there are, how they are, and which stores take most of each shard's time."""
    parts = call.marketplace
    states = parts.replay.states()
    gauges = {pool.name: pool.gauge() for pool in parts.pools.pools()}
    stores = parts.count_stores(parts.router.shards())
    load, snapshot = parts.read_load(), parts.maps.current()
    sharding = snapshot.flags.sharding
    return json_answer(topology(snapshot.map, states, gauges, stores, load, sharding=sharding))


@endpoint("GET", "/v1/admin/stores/{store_id}/route", who="operator", answer=StoreRoute, errors=(NotFound,))
def read_route(call: Call, store_id: UUID) -> Answer:
    """Read where a store lives and why."""
    read_store(call.marketplace.router, call.scope, store_id)
    route = call.scope.route
    assert route is not None
    return json_answer(StoreRoute(shard=route.shard, reason=route.reason, epoch=route.epoch))

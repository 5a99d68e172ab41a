"""Ranges of stores that live on one shard, whatever the ring says."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import sql
from errors import BadRequest, Conflict, NotFound
from handlers.call import Answer, Call
from handlers.endpoint import endpoint
from handlers.schemas import NewRange, RangeList, RangeStatus
from handlers.serve import json_answer
from operations.flags import StoresOf
from operations.ranges import RangeChange, drop_range, set_range, stores_that_stay
from routing.shard_map import Range, ShardMap

LIST_STORE_IDS = sql.query("list_store_ids")
ACCEPTED = 202


@endpoint("GET", "/v1/admin/ranges", who="operator", answer=RangeList)
def list_ranges(call: Call) -> Answer:
    """Read the ranges, in ascending order."""
    shard_map = call.marketplace.catalog.load().map
    return json_answer(RangeList(data=[_status(shard_map, part) for part in shard_map.ranges]))


@endpoint("GET", "/v1/admin/ranges/{low}", who="operator", answer=RangeStatus, errors=(NotFound,))
def read_range(call: Call, low: UUID) -> Answer:
    """Read a range, and how many stores are still to arrive."""
    shard_map = call.marketplace.catalog.load().map
    for part in shard_map.ranges:
        if part.low == low:
            return json_answer(_status(shard_map, part))
    raise NotFound("No range begins there.")


@endpoint(
    "PUT",
    "/v1/admin/ranges/{low}",
    who="operator",
    body=NewRange,
    answer=RangeStatus,
    accepted=RangeStatus,
    errors=(BadRequest, NotFound, Conflict),
)
def change_range(call: Call, low: UUID) -> Answer:
    """Have the stores from one id up to another live on a shard, whatever the ring says.

    New ones go there at once, the others are moved: 202 where there are any. A range that begins there is replaced. 409
    where it overlaps another one.
    """
    new = Range(low, call.body.high, call.body.shard)
    answer = _changed(call, set_range(call.marketplace.catalog, _stores_of(call), new))
    if answer.status == ACCEPTED:
        answer.headers["Location"] = f"/v1/admin/ranges/{low}"
    return answer


@endpoint(
    "DELETE",
    "/v1/admin/ranges/{low}",
    who="operator",
    answer=RangeStatus,
    accepted=RangeStatus,
    accepted_headers=(),
    errors=(NotFound, Conflict),
)
def remove_range(call: Call, low: UUID) -> Answer:
    """Have the ring say where the stores of a range live. 202 where some of them are moved for that."""
    return _changed(call, drop_range(call.marketplace.catalog, _stores_of(call), low))


def _stores_of(call: Call) -> StoresOf:
    # A shard that was added a moment ago is not known here otherwise.
    maps = call.marketplace.maps
    maps.refresh(maps.current().map.epoch)

    def stores_of(shard: str) -> Sequence[UUID]:
        return [row[0] for row in call.marketplace.router.on_shard(call.scope, shard, LIST_STORE_IDS, {})]

    return stores_of


def _changed(call: Call, change: RangeChange) -> Answer:
    parts, part, moving = call.marketplace, change.range, len(change.transfers)
    parts.maps.refresh(parts.maps.current().map.epoch)
    parts.mover.look()
    answer = RangeStatus(part.low, part.high, part.shard, moving)
    return json_answer(answer, ACCEPTED if moving else 200)


def _status(shard_map: ShardMap, part: Range) -> RangeStatus:
    return RangeStatus(part.low, part.high, part.shard, stores_that_stay(shard_map, part))

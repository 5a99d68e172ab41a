"""Stores that are to live elsewhere: moves and pins."""

from __future__ import annotations

from uuid import UUID

from errors import Conflict, NotFound
from handlers.call import Answer, Call
from handlers.endpoint import endpoint
from handlers.schemas import MoveStatus, NewMove, PinChange, StoreRoute
from handlers.serve import json_answer
from moves.record import Move
from operations.moves import find_move, move_document, move_store, pin_store, undo_move, unpin_store
from operations.stores import read_store


@endpoint(
    "POST",
    "/v1/admin/moves",
    who="operator",
    body=NewMove,
    status=202,
    answer=MoveStatus,
    answer_headers=("Location",),
    errors=(NotFound, Conflict),
)
def create_move(call: Call) -> Answer:
    """Have a store live on another shard.

    It is moved while it is read and written; its writers wait for some dozen milliseconds, once.
    """
    parts = call.marketplace
    read_store(parts.router, call.scope, call.body.store_id)
    undo_seconds = parts.settings.move_undo_seconds
    move = move_store(parts.catalog, call.body.store_id, call.body.to_shard, undo_seconds)
    return _begun(call, move)


@endpoint("GET", "/v1/admin/moves/{move_id}", who="operator", answer=MoveStatus, errors=(NotFound,))
def read_move(call: Call, move_id: UUID) -> Answer:
    """Read how far a move has come."""
    return json_answer(move_document(find_move(call.marketplace.catalog, move_id)))


@endpoint(
    "DELETE",
    "/v1/admin/moves/{move_id}",
    who="operator",
    status=202,
    answer=MoveStatus,
    answer_headers=("Location",),
    errors=(NotFound, Conflict),
)
def take_move_back(call: Call, move_id: UUID) -> Answer:
    """Take a move back: before its switch, or after it while there is time, with no write lost."""
    return _begun(call, undo_move(call.marketplace.catalog, move_id))


@endpoint(
    "PUT",
    "/v1/admin/stores/{store_id}/pin",
    who="operator",
    body=PinChange,
    answer=StoreRoute,
    accepted=MoveStatus,
    errors=(NotFound, Conflict),
)
def pin_to_shard(call: Call, store_id: UUID) -> Answer:
    """Have a store live on this shard, whatever ranges and ring say. 202 and a move where it lives elsewhere."""
    parts = call.marketplace
    read_store(parts.router, call.scope, store_id)
    move = pin_store(parts.catalog, store_id, call.body.shard, parts.settings.move_undo_seconds)
    return _begun(call, move) if move else _route(call, store_id)


@endpoint(
    "DELETE",
    "/v1/admin/stores/{store_id}/pin",
    who="operator",
    answer=StoreRoute,
    accepted=MoveStatus,
    errors=(NotFound, Conflict),
)
def remove_pin(call: Call, store_id: UUID) -> Answer:
    """Have ranges and ring say where a store lives. 202 and a move where they say elsewhere."""
    parts = call.marketplace
    read_store(parts.router, call.scope, store_id)
    move = unpin_store(parts.catalog, store_id, parts.settings.move_undo_seconds)
    return _begun(call, move) if move else _route(call, store_id)


def _begun(call: Call, move: Move) -> Answer:
    """A move that the mover comes to; where there is none, this worker starts one."""
    call.marketplace.mover.look()
    answer = json_answer(move_document(move), 202)
    answer.headers["Location"] = f"/v1/admin/moves/{move.id}"
    return answer


def _route(call: Call, store_id: UUID) -> Answer:
    """The store's route by the map as it is now."""
    parts = call.marketplace
    parts.maps.refresh(parts.maps.current().map.epoch)
    read_store(parts.router, call.scope, store_id)
    route = call.scope.route
    assert route is not None
    return json_answer(StoreRoute(shard=route.shard, reason=route.reason, epoch=route.epoch))

"""What the control room's page asks: how everything is now, who owns the ring, where a store lives.

Public as `/metrics` is, and for the same reason: no store stands in it, unless the operator asks.
"""

from __future__ import annotations

import hmac
from itertools import groupby
from uuid import UUID

import msgspec
from flask import Blueprint, Response, g, request

from errors import BadRequest, NotFound, Unavailable
from operations.marketplace import Marketplace
from operations.stores import read_store
from routing.ring import PARTITIONS, partition_of
from routing.scope import Scope

_encode = msgspec.json.Encoder().encode


class Live:
    """The views. One object a worker."""

    def __init__(self, marketplace: Marketplace, version: str) -> None:
        self._marketplace = marketplace
        self._version = version

    def state(self) -> Response:
        """Everything at this moment, and the events after number `after`."""
        after = request.args.get("after", "0")
        if not after.isascii() or not after.isdigit() or len(after) > 15:  # noqa: PLR2004 - digits
            raise BadRequest("after is the number of an event.")
        g.is_routine = True
        document = self._marketplace.control_room.document(int(after), operator=self._is_operator())
        return _json(document | {"version": self._version})

    def ring(self) -> Response:
        """Who owns which partitions, as runs of neighbours: (index of the shard, how many)."""
        g.is_routine = True
        shard_map = self._marketplace.maps.current().map
        runs = [(shard, len(list(run))) for shard, run in groupby(shard_map.partitions)]
        names = [shard.name for shard in shard_map.shards]
        return _json({"epoch": shard_map.epoch, "partitions": PARTITIONS, "shards": names, "runs": runs})

    def route(self, store_id: str) -> Response:
        """Where a store of this id lives and why. Whether there is one, a shard is asked for the operator alone."""
        try:
            store = UUID(store_id)
        except ValueError:
            raise NotFound("That is no store's id.") from None
        snapshot = self._marketplace.maps.current()
        route = snapshot.map.route(store, sharding=snapshot.flags.sharding)
        return _json(
            {
                "store_id": str(store),
                "partition": partition_of(store),
                "owner": snapshot.map.ring_owner(store),
                "shard": route.shard,
                "reason": route.reason,
                "epoch": route.epoch,
                "exists": self._exists(store) if self._is_operator() else None,
            }
        )

    def _exists(self, store: UUID) -> bool | None:
        try:
            read_store(self._marketplace.router, Scope(self._marketplace.maps.current().flags), store)
        except NotFound:
            return False
        except Unavailable:
            return None
        return True

    def _is_operator(self) -> bool:
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        token = self._marketplace.settings.operator_token
        return (
            scheme.lower() == "bearer"
            and bool(token)
            and hmac.compare_digest(bearer.strip().encode(), token.encode())
        )


def _json(value: object) -> Response:
    response = Response(_encode(value), content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response


def blueprint(live: Live) -> Blueprint:
    """The routes of the views."""
    routes = Blueprint("live", __name__)
    routes.add_url_rule("/live", "state", live.state, methods=["GET"])
    routes.add_url_rule("/live/ring", "ring", live.ring, methods=["GET"])
    routes.add_url_rule("/live/route/<store_id>", "route", live.route, methods=["GET"])
    return routes

"""Stores and their merchant keys."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from uuid import UUID

import psycopg

import ids
import sql
from errors import NodeUnavailable, NotFound, StatementDeadline, Unavailable
from operations.credentials import Credentials
from operations.pages import Cursors, Page
from routing.catalog import Catalog, Snapshot
from routing.map_cache import MapCache
from routing.router import Router, Row
from routing.scope import Scope
from routing.token import merge

READ_STORE = sql.query("read_store")
CREATE_STORE = sql.query("create_store")
LIST_STORES = sql.query("list_stores")
CREATE_API_KEY = sql.query("create_api_key")
REVOKE_API_KEY = sql.query("revoke_api_key")

# Each but the last waits up to a second for a newer map: more changes than that in a row are not worth a client's wait.
MAP_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class CreatedStore:
    store_id: UUID
    document: str
    key_id: UUID
    api_key: str


def create_store(
    router: Router,
    catalog: Catalog,
    maps: MapCache,
    credentials: Credentials,
    scope: Scope,
    *,
    name: str,
    currency: str,
) -> CreatedStore:
    """A new store with its first merchant key, on the shard the map gives its id."""
    store_id, key_id = ids.new_id(), ids.new_id()
    api_key, secret_hash = credentials.new_merchant_key(store_id, key_id)
    with _map_held_still(catalog, maps) as snapshot:
        scope.flags = snapshot.flags
        row = router.create(
            scope,
            store_id,
            CREATE_STORE,
            {
                "name": name,
                "currency": currency,
                "created_at": ids.timestamp(store_id),
                "key_id": key_id,
                "secret_hash": secret_hash,
            },
        )
    assert row is not None
    return CreatedStore(store_id, row[0], key_id, api_key)


@contextmanager
def _map_held_still(catalog: Catalog, maps: MapCache) -> Iterator[Snapshot]:
    """The map, which nobody changes meanwhile: a store made by an old map would be looked for elsewhere.

    Where the catalog is away nobody can change it either, and the map in memory serves. Raises `Unavailable` where
    this worker does not get hold of the newest map.
    """
    for _ in range(MAP_ATTEMPTS):
        with ExitStack() as stack:
            try:
                epoch = stack.enter_context(catalog.placement_lock())
            except (NodeUnavailable, StatementDeadline, psycopg.OperationalError):
                epoch = 0
            snapshot = maps.current()
            if snapshot.map.epoch >= epoch:
                yield snapshot
                return
        # Not under the lock: the look at the catalog takes a connection to it, and those who hold the lock may have
        # taken them all.
        maps.refresh(snapshot.map.epoch)
    raise Unavailable("The shard map is being changed.", retry_after_seconds=1)


def read_store(router: Router, scope: Scope, store_id: UUID) -> str:
    """The store's document. Raises `NotFound`."""
    document: str = router.read(scope, store_id, READ_STORE, {})[0]
    return document


def list_stores(
    router: Router, maps: MapCache, cursors: Cursors, scope: Scope, *, limit: int, cursor: str | None
) -> Page:
    """One page of all stores, newest first, gathered from every shard.

    Each shard gives its own first `limit + 1`; the first `limit` of all of them are the page.
    """
    before = cursors.before(cursor, "stores")
    rows = _gather(router, maps, scope, {"before": before, "limit": limit + 1})
    merged = heapq.merge(*rows.values(), key=lambda row: row[0], reverse=True)
    # A store on the move is on two shards for a while: the same, twice in a row.
    page = [next(same) for _, same in groupby(merged, key=lambda row: row[0])]
    documents = ",".join(document for _, document in page[:limit])
    return Page(documents, cursors.after(page[limit - 1][0], "stores") if len(page) > limit else None)


def _gather(router: Router, maps: MapCache, scope: Scope, page: Mapping[str, Any]) -> Mapping[str, list[Row]]:
    """Each shard's part, all as of one map: where it has changed, a store may have been missed, since its new home was
    asked before it came, and the old one when it had gone."""
    for _ in range(MAP_ATTEMPTS):
        current = maps.current().map
        for arrival in current.arrivals.values():  # a replica must have what has arrived
            floor = {arrival.position.system_identifier: arrival.position}
            scope.floors = merge(scope.floors, floor)
        rows = router.on_every_shard(scope, LIST_STORES, page)
        if maps.refresh(current.epoch).map.epoch == current.epoch:
            break
    return rows


def create_api_key(
    router: Router, credentials: Credentials, scope: Scope, store_id: UUID
) -> tuple[UUID, str]:
    """One more merchant key: its id, and the key to show once."""
    key_id = ids.new_id()
    api_key, secret_hash = credentials.new_merchant_key(store_id, key_id)
    parameters = {"key_id": key_id, "secret_hash": secret_hash, "created_at": ids.timestamp(key_id)}
    router.write(scope, store_id, CREATE_API_KEY, parameters)
    return key_id, api_key


def revoke_api_key(
    router: Router, credentials: Credentials, scope: Scope, store_id: UUID, key_id: UUID
) -> None:
    """Stop a key: here at once, on the other workers within their next look. Raises `NotFound`."""
    if router.write(scope, store_id, REVOKE_API_KEY, {"key_id": key_id}) is None:
        raise NotFound("There is no such key.")
    credentials.revoke(key_id)

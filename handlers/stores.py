"""Stores and their merchant keys."""

from __future__ import annotations

from uuid import UUID

from errors import BadRequest, NotFound
from handlers.call import Answer, Call
from handlers.currencies import CURRENCIES
from handlers.endpoint import endpoint
from handlers.pages import page_answer
from handlers.schemas import ApiKey, CreatedStore, Empty, NewStore, Page, Store, StoreList
from handlers.serve import json_answer
from operations import stores

_CURRENCIES = frozenset(CURRENCIES)


@endpoint(
    "POST",
    "/v1/stores",
    who="operator",
    body=NewStore,
    status=201,
    answer=CreatedStore,
    answer_headers=("Location",),
)
def create_store(call: Call) -> Answer:
    """Create a store.

    Its first merchant key is in the answer, this once.
    """
    if call.body.currency not in _CURRENCIES:
        raise BadRequest(
            "The body is not what this takes.",
            errors=[{"path": "/currency", "message": "Not an ISO 4217 currency code."}],
        )
    parts = call.marketplace
    made = stores.create_store(
        parts.router,
        parts.catalog,
        parts.maps,
        parts.credentials,
        call.scope,
        name=call.body.name,
        currency=call.body.currency,
    )
    # The key never goes to PostgreSQL, so it is put into the document here.
    document = f'{made.document[:-1]},"api_key":"{made.api_key}","api_key_id":"{made.key_id}"}}'
    return Answer(document.encode(), 201, {"Location": f"/v1/stores/{made.store_id}"})


@endpoint("GET", "/v1/stores", who="operator", query=Page, answer=StoreList, answer_headers=("Link",))
def list_stores(call: Call) -> Answer:
    """List all stores, newest first, gathered from every shard."""
    page = stores.list_stores(
        call.marketplace.router,
        call.marketplace.maps,
        call.marketplace.cursors,
        call.scope,
        limit=call.query.limit,
        cursor=call.query.cursor,
    )
    return page_answer(call, page)


@endpoint("GET", "/v1/stores/{store_id}", who="anyone", answer=Store, errors=(NotFound,))
def read_store(call: Call, store_id: UUID) -> Answer:
    """Read a store."""
    return Answer(stores.read_store(call.marketplace.router, call.scope, store_id).encode())


@endpoint(
    "POST",
    "/v1/stores/{store_id}/api-keys",
    who="merchant",
    body=Empty,
    body_optional=True,
    status=201,
    answer=ApiKey,
)
def create_api_key(call: Call, store_id: UUID) -> Answer:
    """Make one more merchant key. It is shown this once."""
    parts = call.marketplace
    key_id, api_key = stores.create_api_key(parts.router, parts.credentials, call.scope, store_id)
    return json_answer(ApiKey(id=key_id, api_key=api_key), 201)


@endpoint("DELETE", "/v1/stores/{store_id}/api-keys/{key_id}", who="merchant", status=204, errors=(NotFound,))
def revoke_api_key(call: Call, store_id: UUID, key_id: UUID) -> Answer:
    """Revoke a merchant key. It stops working within 5 s on every worker."""
    parts = call.marketplace
    stores.revoke_api_key(parts.router, parts.credentials, call.scope, store_id, key_id)
    return Answer(status=204)

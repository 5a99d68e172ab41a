"""Orders: a shopper or the merchant places them, the merchant takes them on."""

from __future__ import annotations

import hashlib
import re
from uuid import UUID

import msgspec
from msgspec import UNSET

from errors import (
    BadRequest,
    EmptyCart,
    IdempotencyKeyReused,
    InsufficientStock,
    InvalidTransition,
    NotFound,
    RequestInProgress,
    UnknownProduct,
)
from handlers.call import Answer, Call
from handlers.endpoint import endpoint
from handlers.pages import page_answer
from handlers.schemas import Empty, NewOrder, Order, OrderList, OrderPage
from operations import orders

# Printable ASCII; with quotes around it (a structured field's string, RFC 9651 section 3.3.3) or without.
_KEY = re.compile(
    r'(?P<bare>[\x21\x23-\x7e][\x20-\x7e]{0,254})|"(?P<quoted>[\x20\x21\x23-\x5b\x5d-\x7e]{1,255})"'
)

_encode = msgspec.json.Encoder().encode


@endpoint(
    "POST",
    "/v1/stores/{store_id}/orders",
    who="session merchant",
    body=NewOrder,
    request_headers=("Idempotency-Key",),
    status=201,
    answer=Order,
    answer_headers=("Location", "Idempotent-Replayed"),
    errors=(EmptyCart, InsufficientStock, UnknownProduct, RequestInProgress, IdempotencyKeyReused),
)
def place_order(call: Call, store_id: UUID) -> Answer:
    """Place an order: of the lines given, or of the cart.

    It takes the stock of every line or of none. The same `Idempotency-Key` with the same body gives the first answer
    again, byte for byte.
    """
    assert call.credential is not None
    parts = call.marketplace
    items = call.body.items
    placed = orders.place_order(
        parts.reads,
        parts.router,
        parts.carts,
        parts.locks,
        call.scope,
        buyer=call.credential,
        key=orders.IdempotencyKey(
            key=_idempotency_key(call),
            # Of the body as it was understood: white space and the order of fields are no other body.
            fingerprint=hashlib.sha256(_encode(call.body)).digest(),
            kept_seconds=parts.settings.idempotency_ttl_seconds,
        ),
        lines=None if items is UNSET else [orders.Line(item.product_id, item.quantity) for item in items],
    )
    headers = {"Location": f"/v1/stores/{store_id}/orders/{placed.order_id}"}
    if placed.replayed:
        headers["Idempotent-Replayed"] = "true"
    return Answer(placed.document.encode(), 201, headers)


@endpoint(
    "GET", "/v1/stores/{store_id}/orders/{order_id}", who="session merchant", answer=Order, errors=(NotFound,)
)
def read_order(call: Call, store_id: UUID, order_id: UUID) -> Answer:  # noqa: ARG001 - the credential names the store
    """Read an order: the merchant any of the store, a shopper their own."""
    assert call.credential is not None
    return Answer(orders.read_order(call.marketplace.router, call.scope, call.credential, order_id).encode())


@endpoint(
    "GET",
    "/v1/stores/{store_id}/orders",
    who="session merchant",
    query=OrderPage,
    answer=OrderList,
    answer_headers=("Link",),
)
def list_orders(call: Call, store_id: UUID) -> Answer:  # noqa: ARG001 - the credential names the store
    """List orders, newest first: the merchant all of the store, a shopper their own."""
    assert call.credential is not None
    page = orders.list_orders(
        call.marketplace.router,
        call.marketplace.cursors,
        call.scope,
        call.credential,
        limit=call.query.limit,
        cursor=call.query.cursor,
        status=call.query.status,
    )
    return page_answer(call, page)


def _step(path: str, status: str, name: str, text: str) -> None:
    """Declare one of the three steps, which differ in nothing but where they lead."""

    def handler(call: Call, store_id: UUID, order_id: UUID) -> Answer:
        parts = call.marketplace
        order = orders.advance_order(parts.reads, parts.router, call.scope, store_id, order_id, status=status)
        return Answer(order.encode())

    handler.__name__, handler.__doc__ = name, text
    declare = endpoint(
        "POST",
        f"/v1/stores/{{store_id}}/orders/{{order_id}}/{path}",
        who="merchant",
        body=Empty,
        body_optional=True,
        answer=Order,
        errors=(NotFound, InvalidTransition),
    )
    declare(handler)


_step("pay", "paid", "pay_order", "Mark a pending order as paid.")
_step("fulfil", "fulfilled", "fulfil_order", "Mark a paid order as fulfilled.")
_step(
    "cancel",
    "cancelled",
    "cancel_order",
    "Cancel a pending or paid order. Its units go back into stock, once.",
)


def _idempotency_key(call: Call) -> str:
    given = call.headers.get("Idempotency-Key")
    if given is None:
        raise BadRequest(
            "An Idempotency-Key is needed, so that a repeated request places no second order.",
            errors=[{"path": "Idempotency-Key", "message": "Missing header."}],
        )
    match = _KEY.fullmatch(given.strip())
    if match is None:
        raise BadRequest(
            "The Idempotency-Key is not one.",
            errors=[{"path": "Idempotency-Key", "message": "1 to 255 printable ASCII characters."}],
        )
    return match["bare"] or match["quoted"]

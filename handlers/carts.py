"""A shopper's cart. It lives in Redis alone and vanishes when it is left alone for long enough."""

from __future__ import annotations

from uuid import UUID

import ephemeral.carts
from errors import NotFound
from handlers.call import Answer, Call
from handlers.endpoint import endpoint
from handlers.schemas import Cart, CartItemQuantity, CartLine
from handlers.serve import json_answer
from operations import carts


@endpoint("GET", "/v1/stores/{store_id}/cart", who="session", answer=Cart)
def read_cart(call: Call, store_id: UUID) -> Answer:  # noqa: ARG001 - the credential names the store
    """Read the cart."""
    assert call.credential is not None
    parts = call.marketplace
    return _answer(call, carts.read_cart(parts.router, parts.carts, call.scope, call.credential))


@endpoint(
    "PUT",
    "/v1/stores/{store_id}/cart/items/{product_id}",
    who="session",
    body=CartItemQuantity,
    answer=Cart,
    errors=(NotFound,),
)
def put_cart_item(call: Call, store_id: UUID, product_id: UUID) -> Answer:  # noqa: ARG001
    """Set how many of a product are in the cart; 0 removes its line."""
    assert call.credential is not None
    parts = call.marketplace
    cart = carts.put_line(
        parts.router, parts.carts, call.scope, call.credential, product_id, quantity=call.body.quantity
    )
    return _answer(call, cart)


@endpoint("DELETE", "/v1/stores/{store_id}/cart", who="session", status=204)
def clear_cart(call: Call, store_id: UUID) -> Answer:  # noqa: ARG001
    """Empty the cart."""
    assert call.credential is not None
    parts = call.marketplace
    carts.clear_cart(parts.router, parts.carts, call.scope, call.credential)
    return Answer(status=204)


def _answer(call: Call, cart: ephemeral.carts.Cart) -> Answer:
    lines = [
        CartLine(product_id=UUID(product), quantity=quantity) for product, quantity in cart.quantities.items()
    ]
    return json_answer(Cart(items=lines, expires_in=call.marketplace.settings.cart_ttl_seconds))

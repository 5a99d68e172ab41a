"""A shopper's cart. Only its first use in a minute, and a line's first product, ask PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

import sql
from ephemeral.carts import (
    MAX_LINES,
    Cart,
    CartFullError,
    CartKey,
    Carts,
    LineAbsentError,
    SessionUnmarkedError,
)
from errors import BadRequest, Unauthorized
from operations.credentials import Credential
from operations.customers import cart_key
from operations.products import read_product
from routing.router import Router
from routing.scope import Scope

T = TypeVar("T")

IS_SESSION_REVOKED = sql.query("is_session_revoked")


def read_cart(router: Router, carts: Carts, scope: Scope, session: Credential) -> Cart:
    """Raises `EphemeralUnavailable`, and `Unauthorized` for a session that was signed out."""
    return _marked(router, carts, scope, session, carts.read)


def put_line(
    router: Router, carts: Carts, scope: Scope, session: Credential, product_id: UUID, *, quantity: int
) -> Cart:
    """Set one line's quantity; 0 removes it. Raises `NotFound` for a product that is not there, as `read_cart` else."""
    try:
        return _marked(
            router, carts, scope, session, lambda key: carts.put(key, product_id, quantity, only_present=True)
        )
    except LineAbsentError:
        read_product(router, scope, session.store_id, product_id)
    try:
        return _marked(
            router,
            carts,
            scope,
            session,
            lambda key: carts.put(key, product_id, quantity, only_present=False),
        )
    except CartFullError:
        raise BadRequest(
            f"A cart has at most {MAX_LINES} lines.",
            errors=[{"path": "/product_id", "message": f"The cart has {MAX_LINES} lines already."}],
        ) from None


def clear_cart(router: Router, carts: Carts, scope: Scope, session: Credential) -> None:
    """As `read_cart`."""
    _marked(router, carts, scope, session, carts.clear)


def _marked(
    router: Router, carts: Carts, scope: Scope, session: Credential, use: Callable[[CartKey], T]
) -> T:
    """Use the cart; where the session has no mark, look it up and mark it first."""
    key = cart_key(session)
    try:
        with scope.timed("cache"):
            return use(key)
    except SessionUnmarkedError:
        revoked = router.read(scope, session.store_id, IS_SESSION_REVOKED, {"session_id": session.id})[0]
        if revoked:
            raise Unauthorized("The session was signed out.") from None
        with scope.timed("cache"):
            carts.mark(key)
            return use(key)

"""A shopper's cart. Only its first use in a minute, and a line's first product, ask PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar
from uuid import UUID

import sql
from ephemeral.carts import (
    MARK_SECONDS,
    MAX_LINES,
    Cart,
    CartFullError,
    CartKey,
    Carts,
    LineAbsentError,
    SessionUnmarkedError,
)
from errors import BadRequest, Unauthorized, Unavailable
from operations.credentials import Credential
from operations.products import read_product
from routing.router import Router
from routing.scope import Scope

T = TypeVar("T")

IS_SESSION_REVOKED = sql.query("is_session_revoked")
IS_CART_CHECKED_OUT = sql.query("is_cart_checked_out")

# What is put into a guest's cart while it is joined is joined in the next round, or stays there.
JOIN_ROUNDS = 3


def cart_key(session: Credential) -> CartKey:
    """The cart of whoever this session belongs to."""
    return CartKey(session.store_id, session.customer_id or session.id, session.id)


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


def join_carts(router: Router, carts: Carts, scope: Scope, guest: Credential, customer: Credential) -> None:
    """Move a guest's lines into the cart of the customer whose session has begun just now.

    Quantities of one product add up, to what a line may have; a line that is too many stays in the guest's cart.
    Nothing is raised: where a server is away, or the guest was signed out, the guest's cart stays as it is.
    """
    with suppress(Unavailable, Unauthorized, SessionUnmarkedError):
        with scope.timed("cache"):
            carts.mark(cart_key(customer))
        for _ in range(JOIN_ROUNDS):
            if not _join_once(router, carts, scope, guest, customer):
                break


def _join_once(router: Router, carts: Carts, scope: Scope, guest: Credential, customer: Credential) -> bool:
    """Whether there may be more."""
    assert customer.customer_id is not None
    ours, theirs, customer_id = cart_key(guest), cart_key(customer), customer.customer_id
    kept_seconds = max(1, guest.expires_at - int(time.time()) + 2 * MARK_SECONDS)
    offered = _marked(router, carts, scope, guest, lambda key: carts.offer(key, customer_id, kept_seconds))
    if offered is None:
        return False
    version = {"cart_version": offered.version}
    if router.read(scope, guest.store_id, IS_CART_CHECKED_OUT, version)[0]:
        # Ordered already, by a checkout that could not empty it.
        with scope.timed("cache"):
            carts.clear(ours, offered.version)
        return True
    with scope.timed("cache"):
        joined = carts.join(theirs, offered, kept_seconds)
        carts.leave(ours, theirs, offered.incarnation, joined)
    return any(joined.values())


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

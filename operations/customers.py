"""Customers and their sessions."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import ids
import sql
from ephemeral.carts import Carts
from ephemeral.client import EphemeralUnavailable
from errors import EmailTaken, Unauthorized
from operations.carts import cart_key, join_carts
from operations.credentials import Credential, Credentials
from operations.pages import Cursors, Page
from operations.passwords import PasswordHasher
from operations.stores import read_store
from routing.router import Router
from routing.scope import Scope

CREATE_CUSTOMER = sql.query("create_customer")
FIND_CUSTOMER = sql.query("find_customer")
LIST_CUSTOMERS = sql.query("list_customers")
REVOKE_SESSION = sql.query("revoke_session")


@dataclass(frozen=True, slots=True)
class Session:
    """`expires_in` is in seconds."""

    token: str
    customer_id: UUID | None
    expires_in: int


def create_customer(
    router: Router,
    passwords: PasswordHasher,
    scope: Scope,
    store_id: UUID,
    *,
    email: str,
    name: str,
    password: str,
) -> str:
    """A new customer's document. Raises `EmailTaken`, in any case of the e-mail, and `NotFound` for the store."""
    read_store(
        router, scope, store_id
    )  # before the password: hashing for a store that is not there costs the same
    customer_id = ids.new_id()
    row = router.write(
        scope,
        store_id,
        CREATE_CUSTOMER,
        {
            "customer_id": customer_id,
            "email": email,
            "name": name,
            "password_hash": passwords.hash(password),
            "created_at": ids.timestamp(customer_id),
        },
    )
    if row is None:
        raise EmailTaken("A customer with this e-mail is there already.")
    document: str = row[0]
    return document


def list_customers(
    router: Router, cursors: Cursors, scope: Scope, store_id: UUID, *, limit: int, cursor: str | None
) -> Page:
    """One page, newest first."""
    listed = ("customers", store_id)
    parameters = {"before": cursors.before(cursor, *listed), "limit": limit}
    return cursors.page(router.read(scope, store_id, LIST_CUSTOMERS, parameters), *listed)


def start_guest_session(router: Router, credentials: Credentials, scope: Scope, store_id: UUID) -> Session:
    """A guest's session. Raises `NotFound` for the store."""
    read_store(router, scope, store_id)
    token, expires_in = credentials.new_session(store_id, ids.new_id(), None)
    return Session(token, None, expires_in)


def sign_in(
    router: Router,
    credentials: Credentials,
    passwords: PasswordHasher,
    carts: Carts,
    scope: Scope,
    *,
    store_id: UUID,
    email: str,
    password: str,
) -> Session:
    """A customer's session; a guest of this store who signs in with it takes the cart along.

    Raises `Unauthorized`, the same for a wrong password as for an unknown e-mail.
    """
    customer_id, kept = router.read(scope, store_id, FIND_CUSTOMER, {"email": email})
    if not passwords.verify(password, kept):
        raise Unauthorized("The e-mail or the password is wrong.")
    session_id = ids.new_id()
    token, expires_in = credentials.new_session(store_id, session_id, customer_id)
    guest = credentials.recognize(scope.credential) if scope.credential else None
    if guest is not None and guest.is_guest and guest.store_id == store_id:
        join_carts(router, carts, scope, guest, Credential("session", session_id, store_id, customer_id))
    return Session(token, customer_id, expires_in)


def sign_out(router: Router, carts: Carts, scope: Scope, session: Credential) -> None:
    """End a session before its token runs out. PostgreSQL knows it; the cart's server is told where it can be."""
    expires_at = datetime.fromtimestamp(session.expires_at, UTC)
    parameters = {"session_id": session.id, "expires_at": expires_at}
    if router.write(scope, session.store_id, REVOKE_SESSION, parameters) is None:
        raise Unauthorized("The session was signed out.")
    # Where it cannot be told, the session's mark there runs out within a minute (ephemeral/carts.py).
    with suppress(EphemeralUnavailable):
        carts.sign_out(cart_key(session))

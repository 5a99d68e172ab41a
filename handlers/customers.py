"""Customers and their sessions."""

from __future__ import annotations

from uuid import UUID

from msgspec import UNSET

from errors import BadRequest, EmailTaken, NotFound, Unauthorized
from handlers.call import Answer, Call
from handlers.endpoint import endpoint
from handlers.pages import page_answer
from handlers.schemas import Customer, CustomerList, NewCustomer, NewSession, Page, Session
from handlers.serve import json_answer
from operations import customers


@endpoint(
    "POST",
    "/v1/stores/{store_id}/customers",
    who="anyone",
    body=NewCustomer,
    status=201,
    answer=Customer,
    errors=(NotFound, EmailTaken),
)
def create_customer(call: Call, store_id: UUID) -> Answer:
    """Sign up."""
    parts = call.marketplace
    document = customers.create_customer(
        parts.router,
        parts.passwords,
        call.scope,
        store_id,
        email=call.body.email,
        name=call.body.name,
        password=call.body.password,
    )
    return Answer(document.encode(), 201)


@endpoint(
    "GET",
    "/v1/stores/{store_id}/customers",
    who="merchant",
    query=Page,
    answer=CustomerList,
    answer_headers=("Link",),
)
def list_customers(call: Call, store_id: UUID) -> Answer:
    """List a store's customers, newest first."""
    page = customers.list_customers(
        call.marketplace.router,
        call.marketplace.cursors,
        call.scope,
        store_id,
        limit=call.query.limit,
        cursor=call.query.cursor,
    )
    return page_answer(call, page)


@endpoint(
    "POST",
    "/v1/stores/{store_id}/sessions",
    who="anyone",
    body=NewSession,
    status=201,
    answer=Session,
    errors=(NotFound, Unauthorized),
)
def create_session(call: Call, store_id: UUID) -> Answer:
    """Start a session: a guest's, or a customer's with e-mail and password.

    A guest who signs in with `Authorization: Bearer` and the guest's session token takes the cart along: its lines move
    into the customer's. Quantities of the same product add up, to 10,000 at most; of a cart's 100 lines what does not
    fit stays in the guest's cart, and so does all of it while carts are not available. Any other credential makes no
    difference.
    """
    parts, email, password = call.marketplace, call.body.email, call.body.password
    if email is UNSET and password is UNSET:
        session = customers.start_guest_session(parts.router, parts.credentials, call.scope, store_id)
    elif email is UNSET or password is UNSET:
        missing = "email" if email is UNSET else "password"
        raise BadRequest(
            "The body is not what this takes.",
            errors=[{"path": f"/{missing}", "message": "E-mail and password go together."}],
        )
    else:
        session = customers.sign_in(
            parts.router,
            parts.credentials,
            parts.passwords,
            parts.carts,
            call.scope,
            store_id=store_id,
            email=email,
            password=password,
        )
    return json_answer(
        Session(token=session.token, customer_id=session.customer_id, expires_in=session.expires_in), 201
    )


@endpoint("DELETE", "/v1/stores/{store_id}/sessions/current", who="session", status=204)
def delete_session(call: Call, store_id: UUID) -> Answer:  # noqa: ARG001 - the credential names the store
    """Sign out. The token stops working."""
    assert call.credential is not None
    customers.sign_out(call.marketplace.router, call.marketplace.carts, call.scope, call.credential)
    return Answer(status=204)

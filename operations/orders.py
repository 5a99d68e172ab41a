"""Orders: one statement each, so that an order is there with all that belongs to it or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from uuid import UUID

import psycopg

import ids
import metrics
import sql
from ephemeral.carts import Cart, Carts, SessionUnmarkedError
from ephemeral.client import EphemeralUnavailable
from ephemeral.locks import Lease, Locks, LockTakenError
from errors import (
    EmptyCart,
    IdempotencyKeyReused,
    InsufficientStock,
    InvalidTransition,
    LeaseOver,
    NotFound,
    RequestInProgress,
    Unauthorized,
    UnknownProduct,
)
from operations.carts import cart_key, read_cart
from operations.credentials import Credential
from operations.pages import Cursors, Page
from routing.cached_reads import CachedReads, Change
from routing.router import Router, Row
from routing.scope import Scope

PLACE_ORDER = sql.query("place_order")
READ_ORDER = sql.query("read_order")
LIST_ORDERS = sql.query("list_orders")
LIST_ORDERS_BY_STATUS = sql.query("list_orders_by_status")
LIST_SHOPPER_ORDERS = sql.query("list_shopper_orders")
ADVANCE_ORDER = sql.query("advance_order")
CANCEL_ORDER = sql.query("cancel_order")

# Which status each step asks for. `cancelled` has a query of its own, since it puts units back.
ALLOWED_FROM = {"paid": ["pending"], "fulfilled": ["paid"]}
# With a replay the stock was taken before; whoever took it may not have lived to say so.
PLACED = ("placed", "replayed")


_EMPTY = {
    "no-items": "The cart is empty.",
    "checked-out": "The cart was checked out already, by a request with another Idempotency-Key.",
}


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """`fingerprint` is SHA-256 of what was asked: the same key with another one is refused."""

    key: str
    fingerprint: bytes
    kept_seconds: int


@dataclass(frozen=True, slots=True)
class Line:
    product_id: UUID
    quantity: int


@dataclass(frozen=True, slots=True)
class PlacedOrder:
    """`document` is the answer's own text: a replay gives the same bytes."""

    order_id: UUID
    document: str
    replayed: bool


def place_order(
    reads: CachedReads,
    router: Router,
    carts: Carts,
    locks: Locks,
    scope: Scope,
    *,
    buyer: Credential,
    key: IdempotencyKey,
    lines: Sequence[Line] | None,
) -> PlacedOrder:
    """Place an order of these lines, or of the cart where `lines` is None.

    With the flag `distributed_locks`, one who comes while another request with this key, or another checkout of this
    cart, is running is turned away before the database is asked. Where the lock is not to be had it goes on without:
    that no order is placed twice is the work of two unique keys (`idempotency_keys`), with the lock or without.

    Raises `EmptyCart`, `InsufficientStock` or `UnknownProduct` with the lines, `RequestInProgress` while the first
    request with this key or cart still runs, `IdempotencyKeyReused`, and what reading a cart raises.
    """
    names = lock_names(buyer, key, of_cart=lines is None)
    if scope.flags.distributed_locks:
        for _ in range(2):
            # A lease that is over may be another's by now, who does this very work. Nothing was written: ask anew.
            with suppress(LeaseOver), _locked(locks, scope, names) as lease:
                return place_once(reads, router, carts, scope, buyer=buyer, key=key, lines=lines, lease=lease)
            metrics.count_lock("lost")
    return place_once(reads, router, carts, scope, buyer=buyer, key=key, lines=lines)


def lock_names(buyer: Credential, key: IdempotencyKey, *, of_cart: bool) -> list[str]:
    """Locks of the key and, for a checkout, of the cart. One hash tag, for they are taken together."""
    tag = f"lock:{{{buyer.store_id}:{buyer.shopper_id or buyer.id}}}"
    # Of a hash: a key is the client's own text, of any length up to 255.
    digest = hashlib.blake2b(key.key.encode(), digest_size=16).hexdigest()
    names = [f"{tag}:key:{buyer.id}:{digest}"]
    return [*names, f"{tag}:cart"] if of_cart and buyer.kind == "session" else names


@contextmanager
def _locked(locks: Locks, scope: Scope, names: Sequence[str]) -> Iterator[Lease | None]:
    with ExitStack() as stack:
        try:
            with scope.timed("lock"):
                lease = stack.enter_context(locks.hold(names))
        except LockTakenError:
            raise _in_progress() from None
        try:
            yield lease
        finally:
            with scope.timed("lock"):
                stack.close()


def place_once(
    reads: CachedReads,
    router: Router,
    carts: Carts,
    scope: Scope,
    *,
    buyer: Credential,
    key: IdempotencyKey,
    lines: Sequence[Line] | None,
    lease: Lease | None = None,
) -> PlacedOrder:
    """One attempt, under this lease if there is one; `LeaseOver` where it did not last.

    Whether the key was used before is looked up by the same statement that places the order, so the cart is read
    first; where it cannot be, or is empty, a first answer is replayed all the same.
    """
    cart, cart_error = (None, None) if lines is not None else _cart_of(router, carts, scope, buyer)
    if lines is None:
        lines = (
            [Line(UUID(product), quantity) for product, quantity in cart.quantities.items()] if cart else []
        )
    order_id = ids.new_id()
    product_ids = [line.product_id for line in lines]
    parameters = {
        "credential_id": buyer.id,
        "session_id": buyer.session_id,
        "customer_id": buyer.customer_id,
        "shopper_id": buyer.shopper_id,
        "key": key.key,
        "fingerprint": key.fingerprint,
        "kept_seconds": key.kept_seconds,
        "order_id": order_id,
        "created_at": ids.timestamp(order_id),
        "product_ids": product_ids,
        "quantities": [line.quantity for line in lines],
        "cart_version": cart.version if cart else None,
    }
    change = Change(product_ids)
    with reads.changing(scope, buyer.store_id, change):
        row = _place(router, scope, buyer.store_id, parameters, lease)
        outcome, document, placed_id, cart_version, short = row
        change.happened = outcome in PLACED
    if outcome == "no-items" and cart_error is not None:
        raise cart_error
    if outcome == "checked-out" and cart is not None:
        # Its first checkout could not clear it, or is about to.
        _clear_checked_out(carts, scope, buyer, cart.version)
    if outcome not in PLACED:
        raise _refusal(outcome, short)
    if cart_version is not None:
        _clear_checked_out(carts, scope, buyer, cart_version)
    return PlacedOrder(placed_id, document, outcome == "replayed")


def read_order(router: Router, scope: Scope, reader: Credential, order_id: UUID) -> str:
    """The order's document, for the merchant or the shopper who placed it. Raises `NotFound` for anyone else."""
    parameters = {"order_id": order_id, "session_id": reader.session_id}
    document, shopper_id, revoked = router.read(scope, reader.store_id, READ_ORDER, parameters)
    if revoked:
        raise _signed_out()
    if document is None or (reader.kind == "session" and shopper_id != reader.shopper_id):
        raise NotFound("There is no such order.")
    order: str = document
    return order


def list_orders(
    router: Router,
    cursors: Cursors,
    scope: Scope,
    reader: Credential,
    *,
    limit: int,
    cursor: str | None,
    status: str | None,
) -> Page:
    """One page, newest first: all of the store's for its merchant, a shopper's own for a session."""
    listed = ("orders", reader.store_id, reader.shopper_id, status)
    parameters = {"before": cursors.before(cursor, *listed), "limit": limit, "status": status}
    if reader.kind == "session":
        parameters |= {"shopper_id": reader.shopper_id, "session_id": reader.session_id}
        row = router.read(scope, reader.store_id, LIST_SHOPPER_ORDERS, parameters)
        if row[3]:
            raise _signed_out()
        return cursors.page(row, *listed)
    query = LIST_ORDERS if status is None else LIST_ORDERS_BY_STATUS
    return cursors.page(router.read(scope, reader.store_id, query, parameters), *listed)


def advance_order(
    reads: CachedReads, router: Router, scope: Scope, store_id: UUID, order_id: UUID, *, status: str
) -> str:
    """Take an order to `paid`, `fulfilled` or `cancelled`; its document. Raises `NotFound`, `InvalidTransition`."""
    if status == "cancelled":
        change = Change()
        with reads.changing(scope, store_id, change):
            row = router.write(scope, store_id, CANCEL_ORDER, {"order_id": order_id})
            change.products, change.happened = _restocked(row)
    else:
        parameters = {"order_id": order_id, "status": status, "allowed_from": ALLOWED_FROM[status]}
        row = router.write(scope, store_id, ADVANCE_ORDER, parameters)
    if row is None:
        raise NotFound("There is no such order.")
    document, before = row
    if document is None:
        raise InvalidTransition(f"An order that is {before} cannot become {status}.")
    order: str = document
    return order


def _restocked(row: Row | None) -> tuple[list[UUID], bool]:
    """The products of an order that was cancelled just now, and whether it was."""
    if row is None or row[0] is None:
        return [], False
    return [UUID(line["product_id"]) for line in json.loads(row[0])["items"]], True


def _cart_of(
    router: Router, carts: Carts, scope: Scope, buyer: Credential
) -> tuple[Cart | None, EphemeralUnavailable | None]:
    if buyer.kind != "session":
        return None, None  # a merchant has no cart: as good as an empty one
    try:
        return read_cart(router, carts, scope, buyer), None
    except EphemeralUnavailable as error:
        return None, error


def _place(
    router: Router, scope: Scope, store_id: UUID, parameters: Mapping[str, object], lease: Lease | None
) -> Row:
    try:
        row = router.write(scope, store_id, PLACE_ORDER, parameters, lease)
    except psycopg.errors.UniqueViolation:
        # The first request with this key, or of this cart, committed after this statement's snapshot was taken, and let
        # go before this one took it. Nothing of this one is left; now the first one's answer is to be seen.
        row = router.write(scope, store_id, PLACE_ORDER, parameters, lease)
    assert row is not None
    return row


def _clear_checked_out(carts: Carts, scope: Scope, buyer: Credential, version: str) -> None:
    # The order stands whatever happens here. A cart that stays is cleared when the request is repeated.
    with suppress(EphemeralUnavailable, SessionUnmarkedError), scope.timed("cache"):
        carts.clear(cart_key(buyer), version)


def _refusal(outcome: str, short: str | None) -> Exception:
    if outcome == "revoked":
        return _signed_out()
    if outcome == "in-progress":
        return _in_progress()
    if outcome == "key-reused":
        return IdempotencyKeyReused("This Idempotency-Key was used with another body.")
    if outcome in _EMPTY:
        return EmptyCart(_EMPTY[outcome])
    lines = json.loads(short or "[]")
    unknown = [{"product_id": line["product_id"]} for line in lines if line["available"] is None]
    if unknown:
        return UnknownProduct("A product of the order is not there.", lines=unknown)
    return InsufficientStock("There is too little of a product of the order.", lines=lines)


def _signed_out() -> Unauthorized:
    return Unauthorized("The session was signed out.")


def _in_progress() -> RequestInProgress:
    return RequestInProgress(
        "The first request with this Idempotency-Key, or another checkout of this cart, is still running.",
        retry_after_seconds=1,
    )

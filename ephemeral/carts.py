"""Carts: hashes that vanish when they are left alone for long enough.

A cart belongs to a subject: the customer who is signed in, or a guest's session. All keys of one subject share a hash
tag, so that one script may touch them on a Redis Cluster too.

Whether a session was signed out is PostgreSQL's to know. A session that was looked up there carries a mark here for
`MARK_SECONDS`, and every script asks for the mark: signing out takes it away at once, and even where this server was
not to be reached in that moment, or came back with old or no memory, a signed-out session sees a cart for no longer.

A guest's cart joins the customer's in three steps, for the two have different hash tags:

    offer   on the guest's keys: what there is, promised to this customer
    join    on the customer's keys: added, and remembered as what was joined of this incarnation of the guest's cart
    leave   on the guest's keys: what was joined is taken out, and a new incarnation begins

Each may be done twice, or by two at once, to no effect, and after each the worker may die: whoever signs in next with
the guest's session goes on from there.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import redis

from ephemeral.client import EphemeralUnavailable
from ephemeral.round_trip import RoundTrips
from ephemeral.scripts import Call, Command, Script

READ, PUT, CLEAR = Script("cart_read"), Script("cart_put"), Script("cart_clear")
OFFER, JOIN, LEAVE = Script("cart_offer"), Script("cart_join"), Script("cart_leave")

# As many lines as an order may have.
MAX_LINES = 100
# As many of one product as a line of an order may have.
MAX_QUANTITY = 10_000
# One look at PostgreSQL a minute for a session that uses its cart.
MARK_SECONDS = 60


@dataclass(frozen=True, slots=True)
class CartKey:
    """Whose cart it is, and by which session it is asked for."""

    store_id: UUID
    subject_id: UUID
    session_id: UUID

    def keys(self) -> tuple[str, str, str]:
        """The cart, the session's mark, the cart's version."""
        tag = self._tag()
        return f"cart:{tag}", f"session:{tag}:{self.session_id}", f"cart-version:{tag}"

    def promise(self) -> str:
        """To which customer a guest's cart goes."""
        return f"cart-promised:{self._tag()}"

    def joined(self, incarnation: str) -> str:
        """What this cart was given of an incarnation of a guest's."""
        return f"cart-joined:{self._tag()}:{incarnation}"

    def _tag(self) -> str:
        return f"{{{self.store_id}:{self.subject_id}}}"


@dataclass(frozen=True, slots=True)
class Cart:
    """Quantities by product id, in no order that means anything; `version` changes whenever they do.

    The first part of `version`, the incarnation, stays until the cart is emptied as a whole.
    """

    quantities: Mapping[str, int]
    version: str

    @property
    def incarnation(self) -> str:
        return self.version.partition(".")[0]


class SessionUnmarkedError(Exception):
    """The session has no mark: look it up, then `mark()` it and try again."""


class CartFullError(Exception):
    """One line more than a cart may have."""


class LineAbsentError(Exception):
    """The cart has no such line yet."""


class Carts:
    """Reads and changes carts. Every method may raise `EphemeralUnavailable` or `SessionUnmarkedError`."""

    def __init__(self, server: RoundTrips, ttl_seconds: int) -> None:
        self._server = server
        self._ttl_seconds = ttl_seconds

    def read(self, key: CartKey) -> Cart:
        return _cart(self._run(READ(key.keys(), self._ttl_seconds)))

    def put(self, key: CartKey, product_id: UUID, quantity: int, *, only_present: bool) -> Cart:
        """Set a line's quantity; 0 removes it. Raises `CartFullError`, and `LineAbsentError` with `only_present`."""
        line: list[str | int] = [
            str(product_id),
            quantity,
            MAX_LINES,
            secrets.token_hex(8),
            int(only_present),
        ]
        answer = self._run(PUT(key.keys(), self._ttl_seconds, *line))
        if answer == b"full":
            raise CartFullError
        if answer == b"absent":
            raise LineAbsentError
        return _cart(answer)

    def clear(self, key: CartKey, version: str = "") -> None:
        """Empty the cart; with `version` only if it still is that one: a line put since then keeps all of it."""
        if self._run(CLEAR(key.keys(), version)) is None:
            raise SessionUnmarkedError

    def mark(self, key: CartKey) -> None:
        """Let this session use its cart for a while: it was found not to be signed out."""
        self._run(("SET", key.keys()[1], 1, "EX", MARK_SECONDS))

    def offer(self, guest: CartKey, customer_id: UUID, kept_seconds: int) -> Cart | None:
        """A guest's cart for this customer to join; None where it is empty, or was promised to another one.

        `kept_seconds` is how long the guest's session can be used.
        """
        promise: list[str | int] = [str(customer_id), kept_seconds]
        answer = self._run(OFFER((*guest.keys(), guest.promise()), self._ttl_seconds, *promise))
        return None if answer == [] else _cart(answer)

    def join(self, customer: CartKey, offered: Cart, kept_seconds: int) -> Mapping[str, int]:
        """Add what was offered to the customer's cart, unless that was done; what was joined, 0 of what did not fit.

        The customer's session has to be marked before the offer is made, and for the first time then: the mark says
        that the offer is not older than a mark lives.
        """
        bounds: list[str | int] = [secrets.token_hex(8), MAX_LINES, MAX_QUANTITY, kept_seconds]
        lines = [part for line in offered.quantities.items() for part in line]
        keys = (*customer.keys(), customer.joined(offered.incarnation))
        answer = self._run(JOIN(keys, self._ttl_seconds, *bounds, *lines))
        if answer is None:
            raise SessionUnmarkedError
        return _quantities(answer)

    def leave(self, guest: CartKey, customer: CartKey, incarnation: str, joined: Mapping[str, int]) -> None:
        """Take what was joined out of the guest's cart."""
        cart, _, version = guest.keys()
        lines = [part for line in joined.items() for part in line]
        names: list[str | int] = [incarnation, secrets.token_hex(8)]
        self._run(LEAVE((cart, version, guest.promise()), self._ttl_seconds, *names, *lines))
        # It is offered no more; whoever was offered it before has no mark any more by then.
        self._run(("EXPIRE", customer.joined(incarnation), 2 * MARK_SECONDS))

    def sign_out(self, key: CartKey) -> None:
        """Take the session's mark away, and a guest's cart with it."""
        cart, mark, version = key.keys()
        doomed = (mark, cart, version, key.promise()) if key.subject_id == key.session_id else (mark,)
        self._run(("DEL", *doomed))

    def _run(self, command: Call | Command) -> Any:
        try:
            (reply,) = self._server.ask(command)
        except EphemeralUnavailable as error:
            raise _unavailable() from error
        if isinstance(reply.value, redis.ResponseError):  # full, or a replica by now
            raise _unavailable() from reply.value
        return reply.value


def _unavailable() -> EphemeralUnavailable:
    return EphemeralUnavailable("Carts are not available.", retry_after_seconds=1)


def _cart(answer: list[bytes] | None) -> Cart:
    if answer is None:
        raise SessionUnmarkedError
    version, *pairs = answer
    return Cart(_quantities(pairs), version.decode())


def _quantities(pairs: list[bytes]) -> dict[str, int]:
    return {pairs[i].decode(): int(pairs[i + 1]) for i in range(0, len(pairs), 2)}

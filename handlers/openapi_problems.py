"""Problems in the OpenAPI document: what RFC 9457's body holds, and what each type of problem means."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec

from errors import ApiError, TooManyRequests
from handlers.openapi_parts import Json, reference

# What each problem's answer carries, by status.
PROBLEM_HEADERS = {
    401: ("WWW-Authenticate",),
    409: ("Retry-After",),
    429: ("Retry-After", "RateLimit-Policy", "RateLimit"),
    503: ("Retry-After",),
}

# What each problem with a type of its own means, and what to do about it.
PROBLEMS = {
    "invalid-request": "The body or a parameter is not what this takes; `errors` says where and why.",
    "email-taken": "The store has a customer with this e-mail already.",
    "empty-cart": "The cart that was to be checked out is empty.",
    "insufficient-stock": "There is too little of a product; `lines` names each such product and what there is.",
    "invalid-transition": "The order's status does not allow this step.",
    "request-in-progress": "The first request with this `Idempotency-Key`, or another checkout of this cart, is still "
    "running; repeat this one later.",
    "unknown-product": "A product of the order is not there; `lines` names each such product.",
    "idempotency-key-reused": "This `Idempotency-Key` was used with another body; take a new one.",
    TooManyRequests.type: "A quota is used up until `Retry-After`, and nothing was done; `violated-policies` names "
    "which, as `RateLimit-Policy` does.",
    "unavailable": "A server this needs does not answer, or has no room; nothing was done. Repeat it later.",
    "commit-in-doubt": "A server went away while it committed: this happened or it did not. Look, or repeat the "
    "request where that does no harm; an order with the same `Idempotency-Key` is placed once.",
}


class FieldError(msgspec.Struct):
    """One reason why a body or a parameter was refused."""

    path: str  # a JSON pointer into the body, or the parameter's name
    message: str


class ProblemLine(msgspec.Struct, omit_defaults=True):
    """A line of an order that could not be placed."""

    product_id: UUID
    requested: int | None = None
    available: int | None = None


class Problem(msgspec.Struct, omit_defaults=True):
    """RFC 9457: what went wrong, for a program (`type`, `status`) and for a person (`title`, `detail`)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FieldError] = []
    lines: list[ProblemLine] = []
    violated_policies: list[str] = msgspec.field(name="violated-policies", default=[])
    shards: list[str] = []  # those that do not answer, on /readyz


def problem_kinds() -> dict[str, type[ApiError]]:
    """Every problem that has a type of its own, by that type, in the order of status and type."""
    found: dict[str, type[ApiError]] = {}
    unseen = [ApiError]
    while unseen:
        kind = unseen.pop()
        unseen += kind.__subclasses__()
        # A class that only narrows another for this service's own eyes keeps the type of that other.
        if kind.type != "about:blank" and "type" in vars(kind):
            found[kind.type] = kind
    return dict(sorted(found.items(), key=lambda item: (item[1].status, item[0])))


def problem_answer(kinds: Sequence[type[ApiError]]) -> Json:
    """The Response Object of problems that share a status."""
    status = kinds[0].status
    texts = [f"`{kind.type}`: {PROBLEMS[kind.type]}" for kind in kinds if kind.type in PROBLEMS]
    headers = ["X-Request-Id", *PROBLEM_HEADERS.get(status, ())]
    return {
        "description": "\n\n".join([f"{kinds[0].title}.", *texts]),
        "headers": {name: reference("headers", name) for name in headers},
        "content": {"application/problem+json": {"schema": reference("schemas", "Problem")}},
    }

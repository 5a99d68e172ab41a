"""One declaration an endpoint: what serves the request, checks the body and writes the OpenAPI document.

A handler is a function `(call, **path ids) -> Answer`. `@endpoint(...)` records what it takes and gives;
`handlers/serve.py` turns each record into a Flask view, `handlers/openapi.py` into the document's paths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from errors import ApiError
from handlers.call import Answer

Handler = Callable[..., Answer]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What one method of one path takes and gives."""

    method: str
    path: str  # "/v1/stores/{store_id}/products"; every {parameter} is a UUID, but for {name}
    handler: Handler
    who: frozenset[str]  # of "anyone", "operator", "merchant", "session"
    body: type[msgspec.Struct] | None = None
    body_optional: bool = False
    query: type[msgspec.Struct] | None = None
    request_headers: tuple[str, ...] = ()
    status: int = 200
    answer: Any = None  # the answer's Struct, for the document: its bytes are built by PostgreSQL
    answer_headers: tuple[str, ...] = ()
    accepted: Any = None  # as `answer`, where it may also answer 202: what was begun
    accepted_headers: tuple[str, ...] = ("Location",)
    other_statuses: tuple[int, ...] = field(default=())  # further ones without a problem: 304
    errors: tuple[type[ApiError], ...] = ()

    @property
    def name(self) -> str:
        return self.handler.__name__

    @property
    def writes(self) -> bool:
        return self.method != "GET"

    @property
    def summary(self) -> str:
        return (self.handler.__doc__ or self.name).strip().splitlines()[0].rstrip(".")

    @property
    def description(self) -> str:
        lines = (self.handler.__doc__ or "").strip().splitlines()[1:]
        return " ".join(line.strip() for line in lines).strip()


ENDPOINTS: list[Endpoint] = []


def endpoint(method: str, path: str, *, who: str, **declared: Any) -> Callable[[Handler], Handler]:
    """Declare the decorated handler. `who` is space-separated: "merchant session"."""

    def declare(handler: Handler) -> Handler:
        ENDPOINTS.append(
            Endpoint(method=method, path=path, handler=handler, who=frozenset(who.split()), **declared)
        )
        return handler

    return declare

"""The error tree. Each class is something a caller can act on, and says whether a retry can help.

Nothing here knows HTTP beyond the status a class maps to; `handlers/problems.py` turns an `ApiError` into RFC 9457's
problem+json. The message of an `ApiError` goes to the client as `detail`: it never holds SQL, an address or a secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class MarketplaceError(Exception):
    """The root. `retryable`: the same call may succeed later, with nothing changed by the caller."""

    retryable: ClassVar[bool] = False


class ConfigurationError(MarketplaceError):
    """A setting is missing or wrong; the process must not start."""


class QueryFileError(MarketplaceError):
    """A SQL file is malformed; carries `path:line`. The process must not start."""


class MigrationError(MarketplaceError):
    """A shard could not be migrated."""


class StaleEpoch(MarketplaceError):
    """The shard refused a write routed by an outdated shard map: refresh the map, route again, once."""

    retryable = True


class LeaseOver(MarketplaceError):
    """The shard refused a write under a lock that may be another's by now, and did nothing: ask for the lock anew."""

    retryable = True


class ApiError(MarketplaceError):
    """An answer that is not 2xx. `type` is the problem type's slug, `about:blank` where the status says it all."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "about:blank"
    title: ClassVar[str] = "Internal Server Error"

    def __init__(
        self,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        retry_after_seconds: int | None = None,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors  # [{"path": "/items/0/quantity", "message": "..."}]
        self.retry_after_seconds = retry_after_seconds
        self.headers = dict(headers or {})
        self.members = members  # extension members of the problem document


class BadRequest(ApiError):
    status, type, title = 400, "invalid-request", "Bad Request"


class Unauthorized(ApiError):
    """No credential, or one that is unknown, garbled or revoked."""

    status, title = 401, "Unauthorized"


class Forbidden(ApiError):
    """A good credential, of another store or of another kind."""

    status, title = 403, "Forbidden"


class NotFound(ApiError):
    status, title = 404, "Not Found"


class Conflict(ApiError):
    status, title = 409, "Conflict"


class InsufficientStock(Conflict):
    type = "insufficient-stock"


class UnknownProduct(Conflict):
    type = "unknown-product"


class EmptyCart(Conflict):
    type = "empty-cart"


class EmailTaken(Conflict):
    type = "email-taken"


class InvalidTransition(Conflict):
    type = "invalid-transition"


class RequestInProgress(Conflict):
    """The first request with this idempotency key is still running."""

    type, retryable = "request-in-progress", True


class PreconditionFailed(ApiError):
    status, title = 412, "Precondition Failed"


class PayloadTooLarge(ApiError):
    status, title = 413, "Content Too Large"


class UnsupportedMediaType(ApiError):
    status, title = 415, "Unsupported Media Type"


class IdempotencyKeyReused(ApiError):
    """The key was used with another body."""

    status, type, title = 422, "idempotency-key-reused", "Unprocessable Content"


class TooManyRequests(ApiError):
    """A quota is used up; `retry_after_seconds` says when it is not. The type is the IETF draft's, section 5.1 of
    draft-ietf-httpapi-ratelimit-headers-11, which names the policies in `violated-policies`."""

    status, retryable = 429, True
    type = "https://iana.org/assignments/http-problem-types#quota-exceeded"
    title = "Too Many Requests"


class Unavailable(ApiError):
    """A server the request needs does not answer, or has no room. Nothing was done."""

    status, type, title, retryable = 503, "unavailable", "Service Unavailable", True


class CommitInDoubt(Unavailable):
    """The connection was lost while a COMMIT ran: it may or may not have happened."""

    type = "commit-in-doubt"


class PoolExhausted(Unavailable):
    """Every connection of a pool is in use, and waiting for one is hopeless or took too long. Nothing was sent."""


class NodeUnavailable(Unavailable):
    """No server behind a pool accepts connections, or the one there does not answer. Nothing was sent."""


class StatementDeadline(Unavailable):
    """The server did not answer a statement within the deadline; the connection is closed and nothing was cancelled.

    `phase` is what the caller said it was doing (`ShardConnection.phase`): with `"commit"` the write may or may not
    have happened, and the caller turns this into `CommitInDoubt`; with `"statement"` it did not.
    """

    def __init__(self, detail: str, *, phase: str, retry_after_seconds: int = 1) -> None:
        super().__init__(detail, retry_after_seconds=retry_after_seconds)
        self.phase = phase

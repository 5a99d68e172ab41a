"""The connection to the Redis-compatible server, and what its failures mean here: nothing in it may be needed for long.

Timeouts are short and nothing is tried again: what lives here is worth less than the time a request would wait for it.
"""

from __future__ import annotations

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from errors import Unavailable

# For questions that no request waits for: who is primary, where the slots are.
TIMEOUT_SECONDS = 0.2
# What a request may lose to a server that has just frozen is 0.1 s: this leaves three tenths for going on without.
PATIENCE_SECONDS = 0.07
MAX_CONNECTIONS = 64


class EphemeralUnavailable(Unavailable):
    """The Redis-compatible server does not answer; carts are away, everything else goes on."""


class EphemeralUnanswered(EphemeralUnavailable):
    """It was asked. It may do what it was asked to when it goes on, and nobody hears of it."""


def connect(url: str, patience_seconds: float = PATIENCE_SECONDS) -> redis.Redis:
    """Of one server, a client with a bounded pool of connections; connects when first used, so after the fork.

    Who finds all of them in use waits for one, as long as for an answer: a burst of requests is no failing server.
    """
    pool = redis.BlockingConnectionPool.from_url(
        url,
        timeout=patience_seconds,
        socket_timeout=patience_seconds,
        socket_connect_timeout=patience_seconds,
        retry=without_retry(),
        max_connections=MAX_CONNECTIONS,
        decode_responses=True,
        protocol=3,
    )
    return redis.Redis.from_pool(pool)


def without_retry() -> Retry:
    """redis-py tries three to ten times by itself."""
    return Retry(NoBackoff(), 0)

"""What the request's path calls: one addition each, in a file or in memory."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Counter, Histogram

from metrics import definitions as of

# A method is the client's word: another one than these would make a series of its own.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# Made now, so that a scrape shows each of them at 0 before its first event.
_cache = {name: of.cache_requests.labels(name) for name in ("hit", "miss", "bypass")}
_limiter = {name: of.limiter_decisions.labels(name) for name in ("allowed", "limited", "unavailable")}
_lock = {name: of.lock_requests.labels(name) for name in ("held", "taken", "split", "unavailable", "lost")}
_stale_write = {outcome: of.stale_writes.labels(outcome) for outcome in ("routed", "given_up")}

# `labels()` builds and hashes a tuple under a lock; a request finds its children here instead.
_bound: dict[tuple[str, str, int, str], tuple[Counter, Histogram]] = {}
_reads: dict[str, Counter] = {"cache": of.reads.labels("cache")}


def observe_request(
    method: str, route: str | None, status: int, seconds: float, shard: str | None = None
) -> None:
    """Count one answered request. `route` is a pattern, "/v1/stores/{store_id}"; None where none fits. `shard`: whom it
    asked."""
    key = (method, route or "unmatched", status, shard or "none")
    children = _bound.get(key)
    if children is None:
        children = _bind(*key)
    counter, histogram = children
    counter.inc()
    histogram.observe(seconds)


def _bind(method: str, route: str, status: int, shard: str) -> tuple[Counter, Histogram]:
    known = method if method in _METHODS else "other"
    children = of.requests.labels(known, route, str(status)), of.durations.labels(known, route, shard)
    if known == method:  # an invented method is not remembered: the table stays small
        _bound[method, route, status, shard] = children
    return children


def count_read(served_by: Sequence[str]) -> None:
    """Count one GET that was answered by these nodes; by the cache where they are none."""
    for node in served_by or ("cache",):
        counter = _reads.get(node)
        if counter is None:
            counter = _reads[node] = of.reads.labels(node)
        counter.inc()


def count_cache(result: str) -> None:
    """Count one read; `result` is "hit", "miss" or "bypass"."""
    _cache[result].inc()


def count_replica_read(node: str, outcome: str) -> None:
    """Count one read sent to a replica; `outcome` is "answered", "behind" or "failed"."""
    of.replica_reads.labels(node, outcome).inc()


def count_pool_wait(pool: str, outcome: str, seconds: float | None = None) -> None:
    """Count one wait for a connection; `outcome` is "served", "timed_out", "refused" or "displaced". `seconds`: how
    long; None where it is not a wait's own end."""
    of.pool_waits.labels(pool, outcome).inc()
    if seconds is not None:
        of.pool_wait_seconds.labels(pool).observe(seconds)


def count_held_back(pool: str) -> None:
    """Count one request whose store had its part of the pool."""
    of.held_back.labels(pool).inc()


def count_lost_write() -> None:
    """Count one read that asked for a write which no node has any more."""
    of.lost_writes.inc()


def count_forgotten_write() -> None:
    """Count one write that its credential alone may not find again on every replica."""
    of.forgotten_writes.inc()


def count_limiter(decision: str) -> None:
    """Count one decision of the limiter: "allowed", "limited" or "unavailable"."""
    _limiter[decision].inc()


def count_lock(outcome: str, seconds: float | None = None) -> None:
    """Count one lock asked for: "held", "taken", "split" or "unavailable", and how long that took to say; "lost" where
    it was over too early."""
    _lock[outcome].inc()
    if seconds is not None:
        of.lock_wait.observe(seconds)


def count_stale_write(outcome: str) -> None:
    """Count one write that was refused at the fence: "routed" anew, or "given_up"."""
    _stale_write[outcome].inc()

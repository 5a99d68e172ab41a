"""What the service counts, for Prometheus: definitions, the call each request makes, the text of `/metrics`.

With several workers each process writes memory-mapped files under `PROMETHEUS_MULTIPROC_DIR`
(gunicorn.conf.py sets and empties it before any worker starts) and whichever worker answers `/metrics` adds
all files up. Counters and histograms outlive the worker that wrote them, so a total never falls when a worker
is replaced. Gauges hold a moment: those of a dead worker go when gunicorn reaps it, through `forget_process`.
Each gauge's `multiprocess_mode` below says how the views of the live workers become one figure.

Labels are few and closed: names of pools, nodes and route patterns; never an id or anything a client made up.

Source: https://prometheus.github.io/client_python/multiprocess/
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping
from math import isnan, nan
from time import sleep
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

# Around what a request takes here (one round trip: 1 to 5 ms) up to the time a statement is given up.
_DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

# A method is the client's word: another one than these would make a series of its own.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_registry = CollectorRegistry()

_requests = Counter(
    "http_requests_total",
    "Requests answered, by the route's pattern; 'unmatched' where no route fits the path.",
    ["method", "route", "status"],
    registry=_registry,
)
_durations = Histogram(
    "http_request_duration_seconds",
    "Time from the request's arrival in the worker to its answer.",
    ["method", "route"],
    buckets=_DURATION_BUCKETS,
    registry=_registry,
)
# Each worker has its own pools: the service's connections are the sum.
_pool_connections = Gauge(
    "pool_connections",
    "Connections of all workers: available (open and idle) or in_use (held by a request, or opening).",
    ["pool", "state"],
    multiprocess_mode="livesum",
    registry=_registry,
)
_pool_waiting = Gauge(
    "pool_waiting",
    "Requests of all workers that wait for a connection.",
    ["pool"],
    multiprocess_mode="livesum",
    registry=_registry,
)
# Every worker looks at the same server; the latest look is the truest.
_replica_lag = Gauge(
    "replica_lag_bytes",
    "WAL bytes between the primary's position and what the replica has replayed; absent while unknown.",
    ["node"],
    multiprocess_mode="livemostrecent",
    registry=_registry,
)
# Down as soon as one worker cannot use it: part of the service's requests suffer then.
_node_up = Gauge(
    "node_up",
    "1 where every worker finds the node healthy, 0 where one does not.",
    ["node"],
    multiprocess_mode="livemin",
    registry=_registry,
)
_cache_requests = Counter(
    "cache_requests_total", "Reads by what the cache did: hit, miss, bypass.", ["result"], registry=_registry
)
_replica_reads = Counter(
    "replica_reads_total",
    "Reads sent to replicas by what came of it: answered, behind (the primary was asked instead), failed.",
    ["node", "outcome"],
    registry=_registry,
)
_lost_writes = Counter(
    "lost_writes_total",
    "Reads whose token or credential names a write that a failover has lost.",
    registry=_registry,
)
_forgotten_writes = Counter(
    "forgotten_writes_total",
    "Writes whose position was neither remembered for their credential nor replayed everywhere before the answer.",
    registry=_registry,
)
_limiter_decisions = Counter(
    "limiter_decisions_total",
    "Requests by what the limiter decided: allowed, limited; unavailable: by one worker alone, without its server.",
    ["decision"],
    registry=_registry,
)

_pool_waits = Counter(
    "pool_waits_total",
    "Requests that found no connection free, by what came of it: served, timed_out, refused (the line was full, or "
    "waiting hopeless), displaced (their place in a full line went to a store with fewer in it).",
    ["pool", "outcome"],
    registry=_registry,
)
_held_back = Counter(
    "pool_held_back_total",
    "Requests that had to wait although a connection was free: it was kept for other stores.",
    ["pool"],
    registry=_registry,
)
_locks = Counter(
    "lock_requests_total",
    "Locks asked for by what came of it: held, taken (by another), split (between several), unavailable (no quorum "
    "of servers), lost (over before the write).",
    ["outcome"],
    registry=_registry,
)

_stale_writes = Counter(
    "stale_writes_total",
    "Writes that a shard refused because the shard map of their worker was too old, and did nothing of: routed (sent "
    "once more, by the next map), given_up (refused again, or there is no such store).",
    ["outcome"],
    registry=_registry,
)

# Made now, so that a scrape shows each of them at 0 before its first event.
_cache = {name: _cache_requests.labels(name) for name in ("hit", "miss", "bypass")}
_limiter = {name: _limiter_decisions.labels(name) for name in ("allowed", "limited", "unavailable")}
_lock = {name: _locks.labels(name) for name in ("held", "taken", "split", "unavailable", "lost")}
_stale_write = {outcome: _stale_writes.labels(outcome) for outcome in ("routed", "given_up")}

# `labels()` builds and hashes a tuple under a lock; a request finds its two children here instead.
_bound: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}


class PoolGauge(Protocol):
    @property
    def size(self) -> int: ...
    @property
    def available(self) -> int: ...
    @property
    def waiting(self) -> int: ...


class Pool(Protocol):
    @property
    def name(self) -> str: ...
    def gauge(self) -> PoolGauge: ...


class NodeState(Protocol):
    @property
    def role(self) -> str: ...
    @property
    def healthy(self) -> bool: ...
    @property
    def replay_lag_bytes(self) -> int | None: ...


class Pools(Protocol):
    """What `refresh` looks at: the worker's pool registry."""

    def pools(self) -> Iterable[Pool]: ...


def observe_request(method: str, route: str | None, status: int, seconds: float) -> None:
    """Count one answered request. `route` is a pattern, "/v1/stores/{store_id}"; None where none fits."""
    key = (method, route or "unmatched", status)
    children = _bound.get(key)
    if children is None:
        children = _bind(*key)
    counter, histogram = children
    counter.inc()
    histogram.observe(seconds)


def _bind(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    known = method if method in _METHODS else "other"
    children = _requests.labels(known, route, str(status)), _durations.labels(known, route)
    if known == method:  # an invented method is not remembered: the table stays small
        _bound[method, route, status] = children
    return children


def count_cache(result: str) -> None:
    """Count one read; `result` is "hit", "miss" or "bypass"."""
    _cache[result].inc()


def count_replica_read(node: str, outcome: str) -> None:
    """Count one read sent to a replica; `outcome` is "answered", "behind" or "failed"."""
    _replica_reads.labels(node, outcome).inc()


def count_pool_wait(pool: str, outcome: str) -> None:
    """Count one wait for a connection; `outcome` is "served", "timed_out", "refused" or "displaced"."""
    _pool_waits.labels(pool, outcome).inc()


def count_held_back(pool: str) -> None:
    """Count one request whose store had its part of the pool."""
    _held_back.labels(pool).inc()


def count_lost_write() -> None:
    """Count one read that asked for a write which no node has any more."""
    _lost_writes.inc()


def count_forgotten_write() -> None:
    """Count one write that its credential alone may not find again on every replica."""
    _forgotten_writes.inc()


def count_limiter(decision: str) -> None:
    """Count one decision of the limiter: "allowed", "limited" or "unavailable"."""
    _limiter[decision].inc()


def count_lock(outcome: str) -> None:
    """Count one lock asked for: "held", "taken", "split" or "unavailable"; "lost" where it was over too early."""
    _lock[outcome].inc()


def count_stale_write(outcome: str) -> None:
    """Count one write that was refused at the fence: "routed" anew, or "given_up"."""
    _stale_write[outcome].inc()


_pools_seen: set[str] = set()
_nodes_seen: set[str] = set()


def refresh(registry: Pools, states: Mapping[str, NodeState]) -> None:
    """Set this worker's gauges to what its pools and nodes are now. Called each second in every worker."""
    pools = {pool.name: pool.gauge() for pool in registry.pools()}
    for name, gauge in pools.items():
        _pool_connections.labels(name, "available").set(gauge.available)
        _pool_connections.labels(name, "in_use").set(max(gauge.size - gauge.available, 0))
        _pool_waiting.labels(name).set(gauge.waiting)
    for name, state in states.items():
        lag = state.replay_lag_bytes if state.role == "replica" else None
        _replica_lag.labels(name).set(nan if lag is None else lag)
        _node_up.labels(name).set(1 if state.healthy else 0)
    # A series cannot be taken out of a worker's file, so NaN stands for "gone" and is left out of the answer.
    for name in _pools_seen - pools.keys():
        _pool_connections.labels(name, "available").set(nan)
        _pool_connections.labels(name, "in_use").set(nan)
        _pool_waiting.labels(name).set(nan)
    for name in _nodes_seen - states.keys():
        _replica_lag.labels(name).set(nan)
        _node_up.labels(name).set(nan)
    _pools_seen.update(pools)
    _nodes_seen.update(states)


def forget_process(pid: int) -> None:
    """Take a dead worker's gauges out of the figures; its counters stay. For gunicorn's `child_exit`."""
    mark_process_dead(pid)  # type: ignore[no-untyped-call]


# Making a file takes a worker microseconds, unless it has to wait for the processor in between.
_PAUSES_SECONDS = (0.0, 0.01, 0.03, 0.1, 0.3)


class _WithoutGone:
    """Another collector's metrics, less the samples that are NaN."""

    def __init__(self, source: CollectorRegistry | MultiProcessCollector) -> None:
        self._source = source

    def collect(self) -> Iterable[Metric]:
        for metric in self._source.collect():
            metric.samples = [sample for sample in metric.samples if not isnan(sample.value)]
            yield metric


def render() -> bytes:
    """The text of `/metrics` (`CONTENT_TYPE`), for all workers together."""
    for pause in _PAUSES_SECONDS:
        try:
            return _render()
        except (struct.error, RuntimeError, FileNotFoundError):
            # A worker that starts at this very moment has a file that is made but has no size or head yet.
            sleep(pause)
    return _render()


def _render() -> bytes:
    out = CollectorRegistry()
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        out.register(_WithoutGone(MultiProcessCollector(None)))  # type: ignore[no-untyped-call]
    else:
        out.register(_WithoutGone(_registry))
    return generate_latest(out)

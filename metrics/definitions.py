"""Every metric there is: its name, what it says, its labels. docs/metrics.md has the same as a table.

A gauge's `multiprocess_mode` says how the views of the living workers become one figure.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

import metric_files

metric_files.use()  # before the first definition: each chooses then where it counts

# Around what a request takes here (one round trip: 1 to 5 ms) up to the time a statement is given up.
DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
# A lock is a round trip to servers of the same room; at 50 ms the last of them is given up.
LOCK_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)
# A wait ends after `POOL_TIMEOUT_SECONDS`.
POOL_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

registry = CollectorRegistry()

requests = Counter(
    "http_requests_total",
    "Requests answered, by the route's pattern; 'unmatched' where no route fits the path.",
    ["method", "route", "status"],
    registry=registry,
)
durations = Histogram(
    "http_request_duration_seconds",
    "Time from the request's arrival in the worker to its answer, by route and shard; 'none' where no shard was asked.",
    ["method", "route", "shard"],
    buckets=DURATION_BUCKETS,
    registry=registry,
)
reads = Counter(
    "reads_total",
    "GETs of the marketplace that were answered (2xx, 3xx), by node; 'cache' where no database was asked.",
    ["served_by"],
    registry=registry,
)
statements = Counter(
    "statements_total",
    "Statements that requests sent to a node; a write's packet counts as one.",
    ["node"],
    registry=registry,
)
workers = Gauge("workers", "Workers that serve.", multiprocess_mode="livesum", registry=registry)

# Each worker has its own pools: the service's connections are the sum.
pool_connections = Gauge(
    "pool_connections",
    "Connections of all workers: available (open and idle) or in_use (held by a request, or opening).",
    ["pool", "state"],
    multiprocess_mode="livesum",
    registry=registry,
)
pool_waiting = Gauge(
    "pool_waiting",
    "Requests of all workers that wait for a connection.",
    ["pool"],
    multiprocess_mode="livesum",
    registry=registry,
)
pool_waits = Counter(
    "pool_waits_total",
    "Requests that found no connection free, by what came of it: served, timed_out, refused (the line was full, or "
    "waiting hopeless), displaced (their place in a full line went to a store with fewer in it).",
    ["pool", "outcome"],
    registry=registry,
)
pool_wait_seconds = Histogram(
    "pool_wait_seconds",
    "How long those waited who found no connection free, until they had one or their time was over.",
    ["pool"],
    buckets=POOL_BUCKETS,
    registry=registry,
)
held_back = Counter(
    "pool_held_back_total",
    "Requests that had to wait although a connection was free: it was kept for other stores.",
    ["pool"],
    registry=registry,
)

# Every worker looks at the same server; the latest look is the truest.
replica_lag_bytes = Gauge(
    "replica_lag_bytes",
    "WAL bytes between the primary's position and what the replica has replayed; absent while unknown.",
    ["node"],
    multiprocess_mode="livemostrecent",
    registry=registry,
)
replica_lag_seconds = Gauge(
    "replica_lag_seconds",
    "How old what the replica has replayed is; absent while unknown.",
    ["node"],
    multiprocess_mode="livemostrecent",
    registry=registry,
)
# Down as soon as one worker cannot use it: part of the service's requests suffer then.
node_up = Gauge(
    "node_up",
    "1 where every worker finds the node healthy, 0 where one does not.",
    ["node"],
    multiprocess_mode="livemin",
    registry=registry,
)
replica_reads = Counter(
    "replica_reads_total",
    "Reads sent to replicas by what came of it: answered, behind (the primary was asked instead), failed.",
    ["node", "outcome"],
    registry=registry,
)
lost_writes = Counter(
    "lost_writes_total",
    "Reads whose token or credential names a write that a failover has lost.",
    registry=registry,
)
forgotten_writes = Counter(
    "forgotten_writes_total",
    "Writes whose position was neither remembered for their credential nor replayed everywhere before the answer.",
    registry=registry,
)
stale_writes = Counter(
    "stale_writes_total",
    "Writes that a shard refused because the shard map of their worker was too old, and did nothing of: routed (sent "
    "once more, by the next map), given_up (refused again, or there is no such store).",
    ["outcome"],
    registry=registry,
)

cache_requests = Counter(
    "cache_requests_total", "Reads by what the cache did: hit, miss, bypass.", ["result"], registry=registry
)
limiter_decisions = Counter(
    "limiter_decisions_total",
    "Requests by what the limiter decided: allowed, limited; unavailable: by one worker alone, without its server.",
    ["decision"],
    registry=registry,
)
lock_requests = Counter(
    "lock_requests_total",
    "Locks asked for by what came of it: held, taken (by another), split (between several), unavailable (no quorum "
    "of servers), lost (over before the write).",
    ["outcome"],
    registry=registry,
)
lock_wait = Histogram(
    "lock_wait_seconds",
    "From asking for a lock to holding it, or to going on without.",
    buckets=LOCK_BUCKETS,
    registry=registry,
)
# As soon as one worker does without it, what it keeps for all is not whole.
breaker_open = Gauge(
    "breaker_open",
    "1 while a worker counts a Redis-compatible server as away and asks nothing of it, else 0.",
    ["server"],
    multiprocess_mode="livemax",
    registry=registry,
)
# Every worker reads the same catalog.
moves = Gauge(
    "moves",
    "Stores' moves that are not tidied up yet, by state; absent while the catalog does not say.",
    ["state"],
    multiprocess_mode="livemostrecent",
    registry=registry,
)

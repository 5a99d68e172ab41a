"""What the service counts, for Prometheus: definitions, the call each request makes, the text of `/metrics`.

    definitions.py   every metric           gauges.py       what is so at a moment, set once a second
    counting.py      the request's calls    exposition.py   all workers' figures as one

With several workers each process writes memory-mapped files under `PROMETHEUS_MULTIPROC_DIR` (gunicorn.conf.py sets and
empties it before any worker starts), named by the worker's number (metric_files.py), and whichever worker answers
`/metrics` adds all files up. Counters and histograms outlive the worker that wrote them: who takes its place goes on
in its files. Gauges hold a moment: those of a dead worker go when gunicorn reaps it.

Labels are few and closed: names of pools, nodes, shards and route patterns; never an id or anything a client made up.

Source: https://prometheus.github.io/client_python/multiprocess/
"""

from __future__ import annotations

from metrics.counting import (
    count_cache,
    count_forgotten_write,
    count_held_back,
    count_limiter,
    count_lock,
    count_lost_write,
    count_pool_wait,
    count_read,
    count_replica_read,
    count_stale_write,
    observe_request,
)
from metrics.exposition import CONTENT_TYPE, collect, render
from metrics.gauges import Pools, refresh

__all__ = [
    "CONTENT_TYPE",
    "Pools",
    "collect",
    "count_cache",
    "count_forgotten_write",
    "count_held_back",
    "count_limiter",
    "count_lock",
    "count_lost_write",
    "count_pool_wait",
    "count_read",
    "count_replica_read",
    "count_stale_write",
    "observe_request",
    "refresh",
    "render",
]

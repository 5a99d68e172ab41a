"""All experiments, in the order in which `flask lab` lists them."""

from __future__ import annotations

from lab import double_order, failover, lost_timeline, oversell, stale_cache_fill, stale_read, stampede

_IN_ORDER = (
    double_order.EXPERIMENT,
    oversell.EXPERIMENT,
    stampede.EXPERIMENT,
    stale_cache_fill.EXPERIMENT,
    stale_read.EXPERIMENT,
    failover.EXPERIMENT,
    lost_timeline.EXPERIMENT,
)

EXPERIMENTS = {experiment.name: experiment for experiment in _IN_ORDER}

"""All experiments, in the order in which `flask lab` lists them."""

from __future__ import annotations

from lab import (
    add_shard,
    double_order,
    failover,
    frozen_redis,
    hot_store,
    limiter_burst,
    lock_fencing,
    lost_timeline,
    oversell,
    pool_size,
    stale_cache_fill,
    stale_read,
    stampede,
)

_MODULES = (
    double_order,
    oversell,
    stampede,
    stale_cache_fill,
    stale_read,
    failover,
    lost_timeline,
    limiter_burst,
    lock_fencing,
    frozen_redis,
    hot_store,
    add_shard,
    pool_size,
)
EXPERIMENTS = {module.EXPERIMENT.name: module.EXPERIMENT for module in _MODULES}

"""All experiments, in the order in which `flask lab` lists them."""

from __future__ import annotations

from lab import (
    add_shard,
    double_order,
    frozen_redis,
    hot_store,
    limiter_burst,
    lock_fencing,
    pool_size,
)

_MODULES = (
    double_order,
    limiter_burst,
    lock_fencing,
    frozen_redis,
    hot_store,
    add_shard,
    pool_size,
)
EXPERIMENTS = {module.EXPERIMENT.name: module.EXPERIMENT for module in _MODULES}

"""All experiments, in the order in which `flask lab` lists them."""

from __future__ import annotations

from lab import double_order, frozen_redis, hot_store, limiter_burst, lock_fencing

_MODULES = (
    double_order,
    limiter_burst,
    lock_fencing,
    frozen_redis,
    hot_store,
)
EXPERIMENTS = {module.EXPERIMENT.name: module.EXPERIMENT for module in _MODULES}

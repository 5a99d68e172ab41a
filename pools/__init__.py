"""Explicit psycopg pools: in each worker one to each shard's primary, one to each replica (docs/pools.md)."""

from errors import NodeUnavailable, PoolExhausted, StatementDeadline
from pools.connection import ShardConnection
from pools.node import Node, NodeState
from pools.pool import NodePool, PoolGauge
from pools.registry import PoolRegistry

__all__ = [
    "Node",
    "NodePool",
    "NodeState",
    "NodeUnavailable",
    "PoolExhausted",
    "PoolGauge",
    "PoolRegistry",
    "ShardConnection",
    "StatementDeadline",
]

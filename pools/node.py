"""A PostgreSQL server as the catalog knows it, name and address, and what was last found out about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["primary", "replica", "unknown"]
# Why nothing is heard of a node: it takes connections and says nothing (frozen, or cut off), or takes none.
Absence = Literal["silent", "down"]


@dataclass(frozen=True, slots=True)
class Node:
    """`name`, such as `shard-0-b`, stays with the server whatever its role is; `shard` is whose it is."""

    name: str
    shard: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node, as last seen; nothing is known of it until then.

    `replay_lag_*` are 0 on a primary, and None where they are not known. `timeline` is 0 where a replica cannot say
    which one it follows. `lsn` is a byte position: what a replica has replayed, what a primary has flushed; it is a
    lower bound from `sampled_at` on, a moment of this process's monotonic clock. `received` is what a replica has of
    the log, replayed or not. `clock_ahead_us` is how far a primary's clock is ahead of this process's monotonic clock,
    at least. `absence` is None where it answers, and where it was never asked.
    """

    name: str
    role: Role = "unknown"
    healthy: bool = False
    replay_lag_bytes: int | None = None
    replay_lag_seconds: float | None = None
    system_identifier: int = 0
    timeline: int = 0
    lsn: int = 0
    received: int = 0
    sampled_at: float = float("-inf")
    clock_ahead_us: int = 0
    absence: Absence | None = None

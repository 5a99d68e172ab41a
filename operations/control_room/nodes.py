"""How a node is, in one word: what its badge says."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from pools.node import NodeState
from routing.lineage import Lineage, Verdict
from routing.replay import Limits
from routing.token import Position

Word = Literal["primary", "replica", "lagging", "other-history", "silent", "down", "rewinding", "unknown"]


def word_of(
    state: NodeState, lineage: Lineage | None, limits: Limits, rejoining: Collection[str] = ()
) -> Word:
    """`rejoining`: the nodes that are being rewound, or made anew.

    "lagging" answers and is not read from by whoever needs no particular position; "other-history" answers, and stands
    where its shard's history does not go through: it was primary before, or followed one that was.
    """
    if not state.timeline and not state.healthy:
        return "rewinding" if state.name in rejoining else state.absence or "unknown"
    if state.role == "primary":
        return "primary"
    if state.role == "unknown" or _has_strayed(state, lineage):
        return "other-history"
    return "replica" if _is_near(state, limits) else "lagging"


def _has_strayed(state: NodeState, lineage: Lineage | None) -> bool:
    here = Position(state.system_identifier, state.timeline, state.lsn)
    return lineage is not None and state.timeline > 0 and lineage.judge(here) is Verdict.LOST


def _is_near(state: NodeState, limits: Limits) -> bool:
    if state.replay_lag_bytes is None or state.replay_lag_seconds is None:
        return False
    return state.replay_lag_bytes <= limits.lag_bytes and state.replay_lag_seconds <= limits.lag_seconds

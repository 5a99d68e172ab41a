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
        if state.name in rejoining:
            return "rewinding"
        return state.absence or "unknown"
    if state.role == "primary":
        return "primary"
    if state.role == "unknown":
        return "other-history"
    here = Position(state.system_identifier, state.timeline, state.lsn)
    if lineage is not None and state.timeline and lineage.judge(here) is Verdict.LOST:
        return "other-history"
    bytes_behind, seconds_behind = state.replay_lag_bytes, state.replay_lag_seconds
    known = bytes_behind is not None and seconds_behind is not None
    if known and bytes_behind <= limits.lag_bytes and seconds_behind <= limits.lag_seconds:  # type: ignore[operator]
        return "replica"
    return "lagging"

"""One word for each state a node can be in."""

from __future__ import annotations

import pytest

from operations.control_room.nodes import Word, word_of
from pools.node import NodeState
from routing.lineage import Lineage
from routing.replay import Limits

LIMITS = Limits(lag_bytes=1000, lag_seconds=10.0, weights={})
LINEAGE = Lineage(7, 2, {1: 500})


def replica(**known: object) -> NodeState:
    usual = {"healthy": True, "replay_lag_bytes": 0, "replay_lag_seconds": 0.0, "system_identifier": 7}
    return NodeState("b", "replica", **{**usual, "timeline": 2, "lsn": 900, **known})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (NodeState("a", "primary", healthy=True, timeline=2, system_identifier=7, lsn=900), "primary"),
        (NodeState("a", timeline=1, system_identifier=7, lsn=900), "other-history"),
        (replica(), "replica"),
        (replica(timeline=1, lsn=400), "replica"),
        (replica(timeline=1, lsn=600), "other-history"),
        (replica(replay_lag_bytes=1001), "lagging"),
        (replica(replay_lag_seconds=10.5), "lagging"),
        (replica(replay_lag_bytes=None), "lagging"),
        (NodeState("b", absence="silent"), "silent"),
        (NodeState("b", absence="down"), "down"),
        (NodeState("b"), "unknown"),
    ],
)
def test_word(state: NodeState, word: Word) -> None:
    assert word_of(state, LINEAGE, LIMITS) == word


def test_a_node_on_its_way_back_is_rewinding_until_it_answers() -> None:
    assert word_of(NodeState("b", absence="down"), LINEAGE, LIMITS, {"b"}) == "rewinding"
    assert word_of(replica(), LINEAGE, LIMITS, {"b"}) == "replica"

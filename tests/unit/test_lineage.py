"""Judging positions: a number means something only on the timeline it was written on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.lineage import Lineage, Verdict
from routing.token import Position

SYSTEM = 7_000_000_000_000_000_001
# Timeline 1 was left at 0/5000000, timeline 2 at 0/7000000 for timeline 4; 3 was somebody else's.
HISTORY = "1\t0/5000000\tno recovery target specified\n\n2\t0/7000000\tno recovery target specified\n"
LINEAGE = Lineage.parse(SYSTEM, 4, HISTORY)


def at(timeline: int, lsn: int, system_identifier: int = SYSTEM) -> Position:
    return Position(system_identifier, timeline, lsn)


def test_a_history_file_says_where_each_timeline_was_left() -> None:
    assert dict(LINEAGE.forks) == {1: 0x5000000, 2: 0x7000000}


def test_the_first_timeline_has_no_history() -> None:
    assert Lineage.parse(SYSTEM, 1, None).judge(at(1, 10**12)) is Verdict.KEPT


def test_a_later_timeline_without_its_history_is_refused() -> None:
    with pytest.raises(ValueError, match="timeline 3 has no history"):
        Lineage.parse(SYSTEM, 3, None)


@pytest.mark.parametrize(
    ("position", "verdict"),
    [
        (at(4, 10**12), Verdict.KEPT),
        (at(1, 0x5000000), Verdict.KEPT),
        (at(1, 0x5000001), Verdict.LOST),
        (at(2, 0x6FFFFFF), Verdict.KEPT),
        (at(2, 0x7000001), Verdict.LOST),
        (at(3, 1), Verdict.LOST),
        (at(5, 1), Verdict.NEWER),
        (at(4, 1, system_identifier=1), Verdict.LOST),
    ],
)
def test_a_position_is_kept_up_to_where_its_timeline_was_left(position: Position, verdict: Verdict) -> None:
    assert LINEAGE.judge(position) is verdict


def test_a_node_far_ahead_by_number_does_not_have_a_write_that_was_lost() -> None:
    lost = at(1, 0x5000100)

    assert not LINEAGE.has(at(4, 0x9000000), lost)
    assert LINEAGE.has(at(4, 0x9000000), at(1, 0x5000000))


def test_a_node_that_followed_the_timeline_that_was_left_beyond_the_fork_has_nothing_of_this_history() -> (
    None
):
    assert not LINEAGE.has(at(1, 0x6000000), at(1, 0x4000000))


def test_a_node_on_an_older_timeline_before_the_fork_has_what_it_has_replayed() -> None:
    assert LINEAGE.has(at(1, 0x4800000), at(1, 0x4000000))
    assert not LINEAGE.has(at(1, 0x4800000), at(2, 0x6000000))


@given(st.data())
def test_a_node_has_a_write_exactly_where_its_own_log_contains_it(data: st.DataObject) -> None:
    """Against a model: timelines as lists of writes, each promotion keeping a prefix of the one before."""
    logs: dict[int, list[tuple[int, int]]] = {1: []}  # timeline → its writes, as (timeline, position)
    forks: dict[int, dict[int, int]] = {1: {}}
    for timeline in range(2, data.draw(st.integers(2, 5))):
        parent = data.draw(st.sampled_from(sorted(logs)))
        for _ in range(data.draw(st.integers(0, 5))):
            logs[parent].append((parent, len(logs[parent]) + 1))
        kept = data.draw(st.integers(max(forks[parent].values(), default=0), len(logs[parent])))
        forks[timeline] = {**forks[parent], parent: kept}
        logs[timeline] = logs[parent][:kept]
    newest = max(logs)
    for _ in range(data.draw(st.integers(0, 5))):
        logs[newest].append((newest, len(logs[newest]) + 1))
    lineage = Lineage(SYSTEM, newest, forks[newest])
    every_write = {write for log in logs.values() for write in log}
    for replayed in range(len(logs[newest]) + 1):
        for timeline, position in every_write:
            has = (timeline, position) in logs[newest][:replayed]
            assert lineage.has(at(newest, replayed), at(timeline, position)) == has

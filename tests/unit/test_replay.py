"""What follows from samples: who is primary, who may be read, where the log ends. No server is asked."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from typing import Any

import pytest

from pools.node import Node, NodeState
from routing.replay import Limits, ReplayPositions, ShardState
from routing.sampling import Link, Sample

A, B, C = "shard-0-a", "shard-0-b", "shard-0-c"
FORKED_AT_500 = "1\t0/1F4\tno recovery target specified\n"


def sample(timeline: int, lsn: int, *, recovers: bool, received: int | None = None) -> Sample:
    return Sample(7, monotonic(), recovers, timeline, lsn, received, None, None, waits=True)


def primary(timeline: int, lsn: int, *, waits: bool = True) -> Sample:
    return replace(sample(timeline, lsn, recovers=False), waits=waits)


def replica(timeline: int, lsn: int, received: int | None = None) -> Sample:
    return sample(timeline, lsn, recovers=True, received=received or lsn)


def alone(timeline: int, lsn: int, received: int) -> Sample:
    """A replica that nobody sends to."""
    return replace(replica(timeline, lsn, received), newest_timeline=timeline)


class Rounds:
    """Rounds of samples, as the sampler concludes from them."""

    def __init__(self, **limits: Any) -> None:
        given: dict[str, Any] = {"lag_bytes": 1000, "lag_seconds": 100.0, "weights": {}} | limits
        self.positions = ReplayPositions(
            self._never, limits=Limits(**given), interval_seconds=1.0, changed=lambda _: None
        )
        self.positions.apply([Node(name, "shard-0", "127.0.0.1", 1) for name in (A, B, C)])

    def __call__(
        self, *, histories: dict[str, dict[int, str]] | None = None, **samples: Sample | None
    ) -> ShardState:
        """One round: samples by the node's letter; None does not answer."""
        for name, link in self.positions._links.items():
            link.sample = samples.get(name[-1])
            link.histories |= (histories or {}).get(name[-1], {})
        self.positions._conclude()
        return self.positions.shard("shard-0")

    def state(self, name: str) -> NodeState:
        return self.positions.states()[name]

    @staticmethod
    def _never(node: Node) -> Any:
        raise AssertionError(f"{node.name} is not to be asked")


def test_replicas_of_the_primary_may_be_read() -> None:
    rounds = Rounds()
    state = rounds(a=primary(1, 100), b=replica(1, 100), c=replica(1, 90))

    assert state.primary is not None
    assert state.primary.name == A
    assert set(state.replicas) == {B, C}
    assert (rounds.state(C).replay_lag_bytes, rounds.state(B).replay_lag_bytes) == (10, 0)


def test_a_shard_that_comes_under_the_name_of_one_that_left_has_a_history_of_its_own() -> None:
    rounds = Rounds()
    rounds(histories={"b": {2: FORKED_AT_500}}, a=None, b=primary(2, 600), c=replica(2, 600))
    new_primary, new_replica = (
        replace(one, system_identifier=8) for one in (primary(1, 100), replica(1, 100))
    )
    state = rounds(a=new_primary, b=new_replica, c=new_replica)

    assert state.primary is not None
    assert (state.primary.name, set(state.replicas)) == (A, {B, C})
    assert rounds.state(B).replay_lag_bytes == 0


def test_of_two_primaries_the_one_on_the_newest_timeline_is() -> None:
    rounds = Rounds()
    state = rounds(
        histories={"b": {2: FORKED_AT_500}}, a=primary(1, 900), b=primary(2, 600), c=replica(2, 600)
    )

    assert state.primary is not None
    assert state.primary.name == B
    assert (rounds.state(A).role, rounds.state(A).healthy) == ("unknown", False)
    assert set(state.replicas) == {C}


def test_an_old_primary_is_none_also_while_the_new_one_does_not_answer() -> None:
    rounds = Rounds()
    rounds(histories={"b": {2: FORKED_AT_500}}, a=None, b=primary(2, 600), c=replica(2, 600))
    state = rounds(a=primary(1, 900), b=None, c=replica(2, 600))

    assert state.primary is None
    assert rounds.state(A).role == "unknown"


def test_a_replica_that_went_on_along_the_timeline_that_was_left_is_not_read() -> None:
    state = Rounds()(histories={"b": {2: FORKED_AT_500}}, b=primary(2, 600), c=replica(1, 501))

    assert not state.replicas


def test_a_replica_before_the_fork_is_on_the_new_timelines_history_too() -> None:
    state = Rounds()(histories={"b": {2: FORKED_AT_500}}, b=primary(2, 600), c=replica(1, 500))

    assert set(state.replicas) == {C}


def test_a_timeline_without_its_history_makes_nobody_readable_and_is_asked_for() -> None:
    rounds = Rounds()
    state = rounds(b=primary(2, 600), c=replica(2, 600))

    assert state.lineage is None
    assert not state.replicas
    assert rounds.positions._links[B].wanted_history == 2


def test_a_history_that_cannot_be_read_is_asked_for_again(caplog: pytest.LogCaptureFixture) -> None:
    rounds = Rounds()
    state = rounds(histories={"b": {2: ""}}, b=primary(2, 600), c=replica(2, 600))

    assert not state.replicas
    assert "cannot tell its history" in caplog.text
    rounds(b=primary(2, 600), c=replica(2, 600))
    assert rounds.positions._links[B].wanted_history == 2


def test_a_replica_whose_timeline_cannot_be_told_is_not_read() -> None:
    state = Rounds()(a=primary(1, 100), b=replica(0, 100), c=replica(1, 100))

    assert set(state.replicas) == {C}


def test_without_a_primary_the_log_ends_where_a_replica_has_received_most() -> None:
    rounds = Rounds()
    rounds(a=primary(1, 100), b=replica(1, 100), c=replica(1, 100))
    state = rounds(a=None, b=replica(1, 100), c=replica(1, 100, received=150))

    assert set(state.replicas) == {B, C}
    assert rounds.state(B).replay_lag_bytes == 50


def test_with_the_primary_gone_nothing_was_confirmed_that_no_replica_has_received() -> None:
    rounds = Rounds()
    assert rounds(a=primary(1, 100), b=replica(1, 90), c=replica(1, 90)).confirmed is None
    assert rounds(a=None, b=alone(1, 90, 95), c=alone(1, 90, 93)).confirmed == 95


def test_while_a_replica_hears_of_a_primary_that_does_not_answer_here_nothing_is_known_to_be_confirmed() -> (
    None
):
    rounds = Rounds()
    rounds(a=primary(1, 100), b=replica(1, 90), c=replica(1, 90))
    assert rounds(a=None, b=alone(1, 90, 95), c=replica(1, 90)).confirmed is None
    assert rounds(a=None, b=alone(1, 90, 95), c=None).confirmed is None


def test_of_a_primary_that_waited_for_nobody_nothing_is_known_to_be_confirmed() -> None:
    rounds = Rounds()
    rounds(a=primary(1, 100, waits=False), b=replica(1, 90), c=replica(1, 90))
    assert rounds(a=None, b=alone(1, 90, 95), c=alone(1, 90, 93)).confirmed is None


def test_with_two_nodes_away_nobody_knows_where_the_log_ends() -> None:
    state = Rounds()(a=None, b=replica(1, 100), c=None)

    assert not state.replicas


def test_what_a_read_learned_counts_until_the_next_round() -> None:
    rounds = Rounds()
    rounds(a=primary(1, 100), b=replica(1, 90), c=replica(1, 90))
    rounds.positions.learn("shard-0", B, 1, 95, monotonic())
    rounds.positions.learn("shard-0", B, 1, 80, monotonic())
    rounds.positions.learn("shard-0", B, 2, 99, monotonic())

    assert rounds.positions.shard("shard-0").replicas[B].lsn == 95


def test_a_floor_needs_every_primary_sampled_after_the_moment() -> None:
    rounds = Rounds()
    rounds(a=primary(1, 100), b=replica(1, 90), c=replica(1, 90))

    assert rounds.positions.positions_after(monotonic()) is None
    found = rounds.positions.positions_after(monotonic() - 60)
    assert found is not None
    assert found[7].lsn == 100


def test_a_link_that_lost_its_receiver_stays_on_its_timeline_until_it_hears_of_a_newer_one() -> None:
    link = Link(Node(A, "shard-0", "127.0.0.1", 1), Rounds._never)
    assert link._timeline(0, b"1") == 1
    assert link._timeline(0, b"2") == 0
    link.sample = replica(2, 100)
    assert link._timeline(0, b"2") == 2
    assert link._timeline(0, b"3") == 0
    assert link._timeline(3, None) == 3

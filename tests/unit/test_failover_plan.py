"""Which replica may be promoted, and when nobody can know: the arithmetic of quorums, positions and timelines."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest

from commands import failover_upstream as upstream
from commands.failover_plan import Quorum, Standing, followers_missing, furthest, lsn_text, unproven
from errors import ConfigurationError
from pools.node import Node
from routing.lineage import Lineage
from routing.token import Position

CLUSTER = 77
ANY_ONE = 'ANY 1 ("shard-0-a", "shard-0-b", "shard-0-c")'
SECOND = Lineage(CLUSTER, 2, {1: 500})


def at(letter: str, lsn: int = 100, timeline: int = 1, replayed: int = 0) -> Standing:
    name = f"shard-0-{letter}"
    return Standing(name, name, Position(CLUSTER, timeline, lsn), replayed)


def verdict(setting: str, *standings: Standing, old: str = "a", lineage: Lineage | None = None) -> str | None:
    best = furthest(standings)
    history = lineage or Lineage(CLUSTER, best.position.timeline)
    settings = {one.node: setting for one in standings}
    return unproven(settings, standings, best, history, [f"shard-0-{letter}" for letter in old])


# synchronous_standby_names


@pytest.mark.parametrize(
    ("setting", "needed", "names"),
    [
        (ANY_ONE, 1, {"shard-0-a", "shard-0-b", "shard-0-c"}),
        ("ANY 2 (a, b, c)", 2, {"a", "b", "c"}),
        ("any 2(a,b)", 2, {"a", "b"}),
        ("FIRST 2 (a, b, c)", 2, {"a", "b", "c"}),
        ("2 (a, b)", 2, {"a", "b"}),
        ("a, B", 1, {"a", "b"}),
        ("a", 1, {"a"}),
        ("*", 1, {"*"}),
        ('ANY 1 ("*")', 1, {"*"}),
        ('"any", "say ""b""", _x$1', 1, {"any", 'say "b"', "_x$1"}),
        ('1, "2"', 1, {"1", "2"}),
        ("  ANY  1  ( \n a )  ", 1, {"a"}),
    ],
)
def test_the_setting_is_read_as_postgresql_reads_it(setting: str, needed: int, names: set[str]) -> None:
    assert Quorum.parse(setting) == Quorum(needed, frozenset(names))


@pytest.mark.parametrize("setting", ["", "  "])
def test_an_empty_setting_waits_for_nobody(setting: str) -> None:
    assert Quorum.parse(setting) is None


@pytest.mark.parametrize("setting", ["ANY 1 (shard-0-a)", "a; b", 'ANY 1 ("a)'])
def test_what_postgresql_would_not_take_is_not_guessed_at(setting: str) -> None:
    with pytest.raises(ConfigurationError, match="not understood"):
        Quorum.parse(setting)


# Whom to promote


def test_the_furthest_is_promoted() -> None:
    assert furthest([at("b", 100), at("c", 101)]).node == "shard-0-c"


def test_a_newer_timeline_is_further_than_any_position_on_an_older_one() -> None:
    assert furthest([at("b", 900, timeline=1), at("c", 501, timeline=2)]).node == "shard-0-c"


def test_of_two_as_far_the_one_that_has_replayed_more_is_promoted_then_the_first_by_name() -> None:
    assert furthest([at("b", replayed=90), at("c", replayed=95)]).node == "shard-0-c"
    assert furthest([at("c"), at("b")]).node == "shard-0-b"


# When it is certain


def test_with_both_replicas_heard_it_is_certain() -> None:
    assert verdict(ANY_ONE, at("b"), at("c", 99)) is None


def test_with_one_of_two_heard_it_is_not_for_the_other_may_have_confirmed_what_it_lacks() -> None:
    reason = verdict(ANY_ONE, at("b"))
    assert reason is not None
    assert "2 of them must be heard" in reason
    assert "shard-0-c does not answer" in reason


@pytest.mark.parametrize("voters", range(1, 6))
@pytest.mark.parametrize("needed", range(1, 6))
def test_it_is_certain_exactly_when_every_quorum_includes_somebody_who_was_heard(
    voters: int, needed: int
) -> None:
    letters = "bcdef"[:voters]
    if needed > voters:
        return
    names = ", ".join(f'"shard-0-{letter}"' for letter in f"a{letters}")
    for heard in range(1, voters + 1):
        standings = [at(letter) for letter in letters[:heard]]
        every_quorum_is_met = all(set(some) & set(letters[:heard]) for some in combinations(letters, needed))
        certain = verdict(f"ANY {needed} ({names})", *standings) is None
        assert certain == every_quorum_is_met, (voters, needed, heard)


def test_a_quorum_that_can_never_be_had_confirms_nothing_but_somebody_must_be_heard() -> None:
    assert verdict('ANY 3 ("shard-0-b", "shard-0-c")', at("b")) is None


def test_where_one_of_two_may_be_the_old_primary_both_cases_must_be_certain() -> None:
    setting = 'ANY 2 ("shard-0-a", "shard-0-b", "shard-0-c", "shard-0-d")'
    assert verdict(setting, at("b"), at("c"), old="a") is None
    assert verdict(setting, at("b"), at("c"), old="ad") is None
    one = 'ANY 1 ("shard-0-a", "shard-0-b", "shard-0-c", "shard-0-d")'
    assert verdict(one, at("b"), at("c"), old="ad") is not None
    # If a is away as the old primary, its two voters were heard; if it is d, then a is a voter that was not.
    assert verdict(ANY_ONE, at("b"), at("c"), old="ad") is not None


def test_a_replica_counts_under_the_name_by_which_it_confirms_and_in_any_case() -> None:
    walreceiver = replace(at("c"), votes_as="walreceiver")
    assert verdict(ANY_ONE, at("b"), walreceiver) is not None
    assert verdict('ANY 1 (walreceiver, "SHARD-0-B")', at("b"), walreceiver) is None


def test_a_replica_that_nobody_waits_for_counts_for_nothing_but_may_be_the_furthest() -> None:
    assert verdict('ANY 1 ("shard-0-b", "shard-0-c")', at("b"), at("d", 200)) is not None
    assert verdict('ANY 1 ("shard-0-b", "shard-0-c")', at("b"), at("c"), at("d", 200)) is None


def test_a_replica_that_still_hears_the_old_primary_does_not_count() -> None:
    reason = verdict(ANY_ONE, at("b"), replace(at("c"), cut_off=False))
    assert reason is not None
    assert "shard-0-c does not let go of the old primary" in reason


def test_a_replica_that_still_replays_its_own_disk_does_not_count() -> None:
    reason = verdict(ANY_ONE, at("b"), replace(at("c", 50), counted=False))
    assert reason is not None
    assert "shard-0-c still replays what it has on its disk" in reason


def test_nobody_is_certain_without_synchronous_standbys() -> None:
    reason = verdict("", at("b"), at("c"))
    assert reason is not None
    assert "empty" in reason


def test_nobody_is_certain_where_any_standby_may_confirm() -> None:
    reason = verdict("ANY 1 (*)", at("b"), at("c"))
    assert reason is not None
    assert "any standby" in reason


def test_nobody_is_certain_where_the_nodes_do_not_agree_on_the_setting() -> None:
    settings = {"shard-0-b": ANY_ONE, "shard-0-c": ""}
    reason = unproven(settings, [at("b"), at("c")], at("b"), Lineage(CLUSTER, 1), ["shard-0-a"])
    assert reason is not None
    assert "shard-0-c: empty" in reason


# Timelines


def test_a_replica_that_has_not_reached_the_newer_timeline_yet_has_nothing_of_it() -> None:
    assert verdict(ANY_ONE, at("b", 600, timeline=2), at("c", 500), lineage=SECOND) is None


def test_a_replica_that_went_past_the_fork_has_what_the_other_lacks() -> None:
    reason = verdict(ANY_ONE, at("b", 600, timeline=2), at("c", 501), lineage=SECOND)
    assert reason is not None
    assert "shard-0-c has what shard-0-b does not have" in reason


def test_without_the_newer_timelines_history_an_older_one_says_nothing() -> None:
    reason = verdict(ANY_ONE, at("b", 600, timeline=2), at("c", 400), lineage=Lineage(CLUSTER, 2))
    assert reason is not None


def test_one_that_was_asked_for_and_has_less_is_not_certain() -> None:
    behind, ahead = at("b", 99), at("c", 100)
    settings = {"shard-0-b": ANY_ONE, "shard-0-c": ANY_ONE}
    reason = unproven(settings, [behind, ahead], behind, Lineage(CLUSTER, 1), ["shard-0-a"])
    assert reason is not None
    assert "shard-0-c has what shard-0-b does not have" in reason


# Afterwards


@pytest.mark.parametrize(
    ("setting", "followers", "missing"),
    [
        (ANY_ONE, "c", 0),
        (ANY_ONE, "", 1),
        (ANY_ONE, "b", 1),  # nobody confirms to itself
        ('ANY 2 ("shard-0-b", "shard-0-c", "shard-0-d")', "c", 1),
        ('ANY 1 ("shard-0-a")', "c", 1),
        ("*", "c", 0),
        ("", "", 0),
    ],
)
def test_how_many_are_missing_to_confirm_what_the_new_primary_commits(
    setting: str, followers: str, missing: int
) -> None:
    assert followers_missing(setting, at("b"), [at(letter) for letter in followers]) == missing


def test_positions_are_written_as_postgresql_writes_them() -> None:
    assert lsn_text(0x1_0000_00AB) == "1/AB"


# Whom a replica follows

CONNINFO = (
    "host=10.0.0.1,10.0.0.2 port=5432,5433 user=replication passfile='a file' application_name=shard-0-c "
    "target_session_attrs=read-write sslmode=require"
)
NODES = [Node(f"shard-0-{letter}", "shard-0", f"10.0.0.{n}", 5432 + n) for n, letter in enumerate("abc")]


def test_a_replica_that_is_cut_off_keeps_all_but_the_address() -> None:
    cut = upstream.nowhere(CONNINFO)
    assert "10.0.0" not in cut
    assert "user=replication passfile='a file' application_name=shard-0-c sslmode=require" in cut
    assert upstream.is_marked(cut)
    assert upstream.nowhere(cut) == cut


def test_following_one_node_is_a_state_on_the_way_and_marked() -> None:
    value = upstream.only(upstream.nowhere(CONNINFO), NODES[1])
    assert "host=10.0.0.1 port=5433" in value
    assert "target_session_attrs" not in value
    assert upstream.is_marked(value)
    assert upstream.leads_to(value, NODES[1])
    assert not upstream.leads_to(value, NODES[0])


def test_in_the_end_the_new_primary_comes_first_and_all_siblings_after_it_without_a_mark() -> None:
    value = upstream.whoever_is_primary(upstream.only(CONNINFO, NODES[1]), NODES[1], NODES[:2])
    assert "host=10.0.0.1,10.0.0.0 port=5433,5432 target_session_attrs=read-write" in value
    assert "connect_timeout=5" in value
    assert not upstream.is_marked(value)
    assert upstream.name_in(value) == "shard-0-c"


def test_a_timeout_of_its_own_is_kept() -> None:
    assert "connect_timeout=2" in upstream.whoever_is_primary(f"{CONNINFO} connect_timeout=2", None, NODES)


def test_another_server_does_not_take_over_the_name() -> None:
    assert upstream.name_in(upstream.unnamed(CONNINFO)) == ""

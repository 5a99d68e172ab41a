from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import parse_weights
from errors import ConfigurationError
from routing.turns import Turns


def test_equal_nodes_take_turns() -> None:
    turns = Turns({})

    assert [turns.choose(["b", "c"]) for _ in range(6)] == ["b", "c", "b", "c", "b", "c"]


def test_a_node_of_twice_the_weight_takes_twice_the_turns_and_not_in_a_row() -> None:
    turns = Turns({"b": 2})

    assert [turns.choose(["b", "c"]) for _ in range(6)] == ["b", "c", "b", "b", "c", "b"]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_turns_follow_the_weights_over_every_round(weights: list[int]) -> None:
    names = {f"node-{number}": weight for number, weight in enumerate(weights)}
    turns = Turns(names)

    for _ in range(3):
        assert Counter(turns.choose(names) for _ in range(sum(weights))) == names


def test_a_node_that_was_away_is_not_made_to_catch_up() -> None:
    turns = Turns({})
    for _ in range(100):
        turns.choose(["b"])

    assert Counter(turns.choose(["b", "c"]) for _ in range(10)) == {"b": 5, "c": 5}


def test_a_busy_node_is_passed_over_and_owed_its_turns() -> None:
    turns = Turns({})

    assert [turns.choose(["b", "c"], free=["c"]) for _ in range(3)] == ["c", "c", "c"]
    assert Counter(turns.choose(["b", "c"]) for _ in range(3)) == {"b": 3}


def test_a_node_that_was_busy_for_long_is_not_flooded() -> None:
    turns = Turns({})
    for _ in range(1000):
        turns.choose(["b", "c"], free=["c"])

    assert Counter(turns.choose(["b", "c"]) for _ in range(100))["b"] <= 75


def test_of_nobody_nobody_is_chosen() -> None:
    assert Turns({}).choose([]) is None


def test_weights_are_read_from_a_setting() -> None:
    assert parse_weights(" shard-0-b=2, shard-0-c=0 ,") == {"shard-0-b": 2, "shard-0-c": 0}


@pytest.mark.parametrize("text", ["shard-0-b", "=2", "shard-0-b=two", "shard-0-b=-1"])
def test_a_setting_that_says_no_weights_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="NODE=WEIGHT"):
        parse_weights(text)

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.token import MAX_CHARACTERS, MAX_POSITIONS, Position, TokenCodec, merge
from signing import Signer

SECRET = "a secret of the tests, long enough"
CODEC = TokenCodec(SECRET)

PLACES = st.builds(Position, st.integers(0, 2**64 - 1), st.integers(1, 2**32 - 1), st.integers(0, 2**64 - 1))
POSITIONS = st.lists(PLACES, max_size=MAX_POSITIONS, unique_by=lambda place: place.system_identifier).map(
    lambda places: {place.system_identifier: place for place in places}
)


def at(timeline: int, lsn: int, system_identifier: int = 1) -> dict[int, Position]:
    return {system_identifier: Position(system_identifier, timeline, lsn)}


@given(POSITIONS)
def test_a_token_gives_back_its_positions_in_order_and_the_same_text_again(
    positions: dict[int, Position],
) -> None:
    text = CODEC.encode(positions)
    decoded = CODEC.decode(text)
    assert list(decoded.items()) == list(positions.items())
    assert CODEC.encode(decoded) == text
    assert len(text) <= MAX_CHARACTERS


def test_a_token_is_short_and_safe_in_a_header_and_a_cookie() -> None:
    text = CODEC.encode(at(1, 0x1_6B37_4D50, system_identifier=7571234567890123456))
    assert len(text) == 50
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_a_token_with_any_one_character_changed_says_nothing() -> None:
    text = CODEC.encode(at(1, 23) | at(2, 42, system_identifier=9))
    for position, right in enumerate(text):
        for character in "Aa0_-= é" + chr(ord(right) ^ 1):
            if character != right:
                assert CODEC.decode(text[:position] + character + text[position + 1 :]) == {}


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "x",
        "0" * 50,
        "é" * 50,
        "A" * (MAX_CHARACTERS + 1),
        "A" * 1_000_000,
        TokenCodec("another secret, long enough").encode(at(1, 2)),
        Signer(SECRET, "paging cursor").sign(b"\x01" + bytes(20)),
    ],
)
def test_a_token_that_is_missing_or_not_ours_says_nothing(text: str | None) -> None:
    assert CODEC.decode(text) == {}


def test_a_token_of_another_version_says_nothing() -> None:
    assert CODEC.decode(Signer(SECRET, "consistency token").sign(b"\x02" + bytes(20))) == {}


@given(st.text(max_size=300))
def test_arbitrary_text_says_nothing(text: str) -> None:
    assert CODEC.decode(text) == {}


def test_of_more_positions_than_fit_those_written_longest_ago_are_left_out() -> None:
    written: dict[int, Position] = {}
    for number in range(MAX_POSITIONS + 1):
        written = merge(written, at(1, 100, system_identifier=number))
    written = merge(written, at(1, 200, system_identifier=0))
    kept = CODEC.decode(CODEC.encode(written))
    assert len(kept) == MAX_POSITIONS
    assert set(written) - set(kept) == {1}


@pytest.mark.parametrize(
    ("one", "other", "further"),
    [
        (at(1, 10), at(1, 20), at(1, 20)),
        (at(1, 10), at(1, 10), at(1, 10)),
        (at(1, 90), at(2, 20), at(2, 20)),
    ],
)
def test_of_two_positions_of_a_cluster_the_higher_timeline_then_the_higher_lsn_counts(
    one: dict[int, Position], other: dict[int, Position], further: dict[int, Position]
) -> None:
    assert merge(one, other) == further
    assert merge(other, one) == further


@given(POSITIONS, POSITIONS)
def test_nothing_that_was_seen_is_lost_in_a_merge(
    one: dict[int, Position], other: dict[int, Position]
) -> None:
    merged = merge(one, other)
    assert set(merged) == set(one) | set(other)
    assert merged == merge(other, one)
    assert merge(merged, one) == merged

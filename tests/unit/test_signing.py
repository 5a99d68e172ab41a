from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import ConfigurationError
from signing import Signer

SECRET = "a secret of the tests, long enough"
SIGNER = Signer(SECRET, "test")

# Every printable character, white space, padding, the standard alphabet's + and /, a NUL, and letters that
# look like ASCII or normalise to it.
CHARACTERS = string.printable + "\0\x7f\u00a0\u00e9\u0430\uff21\u2028\U0001f511"


@given(st.binary(max_size=300))
def test_what_was_signed_comes_back(payload: bytes) -> None:
    assert SIGNER.unsign(SIGNER.sign(payload)) == payload


# Lengths after which the last character has four, two and no spare bits.
@pytest.mark.parametrize("length", [0, 1, 2, 20, 21, 22, 64])
def test_a_text_with_any_one_character_changed_is_refused(length: int) -> None:
    text = SIGNER.sign(bytes(range(length)))
    for position, right in enumerate(text):
        for character in CHARACTERS:
            if character != right:
                changed = text[:position] + character + text[position + 1 :]
                assert SIGNER.unsign(changed) is None, changed


@pytest.mark.parametrize("length", [0, 1, 2, 20])
def test_a_text_with_one_character_added_or_taken_away_is_refused(length: int) -> None:
    text = SIGNER.sign(bytes(range(length)))
    for position in range(len(text) + 1):
        if position < len(text):
            assert SIGNER.unsign(text[:position] + text[position + 1 :]) is None
        for character in CHARACTERS:
            added = text[:position] + character + text[position:]
            assert SIGNER.unsign(added) is None, added


@given(st.text(max_size=200))
def test_arbitrary_text_is_refused_without_an_error(text: str) -> None:
    assert SIGNER.unsign(text) is None


@given(st.binary(min_size=3, max_size=60))
def test_a_payload_cut_short_under_its_old_tag_is_refused(payload: bytes) -> None:
    three_bytes_of_payload = 4
    assert SIGNER.unsign(SIGNER.sign(payload)[three_bytes_of_payload:]) is None


def test_padding_and_surrounding_white_space_are_refused() -> None:
    text = SIGNER.sign(b"page")
    for changed in (text + "=", text + "==", " " + text, text + "\n", text.swapcase()):
        assert SIGNER.unsign(changed) is None


def test_a_text_signed_for_one_purpose_does_not_pass_for_another() -> None:
    assert Signer(SECRET, "session").unsign(Signer(SECRET, "cursor").sign(b"x")) is None


def test_a_text_signed_with_another_secret_is_refused() -> None:
    assert Signer(SECRET + "!", "test").unsign(SIGNER.sign(b"x")) is None


@pytest.mark.parametrize("secret", ["", "short"])
def test_a_secret_that_is_none_stops_the_start(secret: str) -> None:
    with pytest.raises(ConfigurationError, match="SECRET_KEY"):
        Signer(secret, "test")

"""Passwords: what is kept, what is recognized, and what happens when many come at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from operations.passwords import PasswordHasher, hash_password, verify_password

QUICK = 4  # log2 of scrypt's N: no secret, no wait


def test_a_hash_is_of_its_password_alone() -> None:
    kept = hash_password("correct horse", QUICK)
    assert verify_password("correct horse", kept)
    assert not verify_password("correct horsf", kept)
    assert not verify_password("", kept)


def test_two_hashes_of_one_password_differ() -> None:
    assert hash_password("same", QUICK) != hash_password("same", QUICK)


def test_a_hash_says_what_it_cost_so_that_the_setting_may_change() -> None:
    kept = PasswordHasher(QUICK).hash("pass word")
    assert kept.startswith("$scrypt$ln=4,r=8,p=5$")
    assert PasswordHasher(QUICK + 1).verify("pass word", kept)


@pytest.mark.parametrize("password", ["ünïcödé ✓ 🐘", "x" * 1000, " "])
def test_any_text_is_a_password(password: str) -> None:
    assert verify_password(password, hash_password(password, QUICK))


def test_nobody_has_no_password() -> None:
    assert not PasswordHasher(QUICK).verify("", None)


STORM = """
from gevent import monkey
monkey.patch_all()
import gevent
from errors import Unavailable
from operations.passwords import MAX_WAITING, PasswordHasher

hasher = PasswordHasher(11)
kept = hasher.hash("password")
turns = 0

def count_turns():
    global turns
    while True:
        gevent.sleep(0.001)
        turns += 1

def sign_in():
    try:
        return hasher.verify("password", kept)
    except Unavailable as error:
        return error.retry_after_seconds

counting = gevent.spawn(count_turns)
answers = [found.get() for found in [gevent.spawn(sign_in) for _ in range(MAX_WAITING + 10)]]
counting.kill()
print(answers.count(True), answers.count(2), turns > 20)
"""


def test_a_storm_of_sign_ins_neither_stops_other_requests_nor_piles_up() -> None:
    """In a worker, so under gevent: 64 are served in turn, the rest refused, while other greenlets go on."""
    ran = subprocess.run(
        [sys.executable, "-c", STORM], capture_output=True, text=True, timeout=120, check=True
    )
    assert ran.stdout.split() == ["64", "10", "True"], ran.stderr

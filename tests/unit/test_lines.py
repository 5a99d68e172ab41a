"""The places for connections to one server: as many in use as there are, and nobody waits while one is free."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ephemeral.line import Line, Lines

PLACES = 3


class Connection:
    def __init__(self) -> None:
        self.closed = 0

    def disconnect(self) -> None:
        self.closed += 1


@pytest.fixture
def hurried() -> Iterator[None]:
    """Threads take turns as often as they can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("hurried")
def test_a_crowd_shares_the_places_there_are() -> None:
    lines, lock = Lines(PLACES), threading.Lock()
    in_use, most = 0, 0

    def use(_number: int) -> None:
        nonlocal in_use, most
        line = lines.take(60.0)
        with lock:
            in_use += 1
            most = max(most, in_use)
        with lock:
            in_use -= 1
        lines.give_back(line)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(use, range(20_000)))
    assert most <= PLACES
    assert [lines.take(0) for _ in range(PLACES)] == [None] * PLACES
    with pytest.raises(TimeoutError):
        lines.take(0)


def test_one_that_is_given_back_ends_a_wait() -> None:
    lines = Lines(1)
    assert lines.take(0) is None
    line = Line(Connection())
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(lines.take, 60.0)
        lines.give_back(line)
        assert waiting.result() is line


def test_the_one_used_last_is_used_again() -> None:
    lines = Lines(PLACES)
    lines.take(0)
    line = Line(Connection())
    lines.give_back(line)
    assert lines.take(0) is line


def test_closing_leaves_the_places() -> None:
    lines, connection = Lines(PLACES), Connection()
    lines.take(0)
    lines.give_back(Line(connection))
    lines.close()
    assert connection.closed == 1
    assert [lines.take(0) for _ in range(PLACES)] == [None] * PLACES

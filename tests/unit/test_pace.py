"""A mover's pace: never more rows a second than it may, whoever works, and rests that grow with the work."""

from __future__ import annotations

import pytest

from moves.pace import BRAKE, LONGEST_REST_SECONDS, SLICE_BYTES, SLICE_ROWS, Pace, SliceSize


class Clock:
    """Goes on by what is worked and rested, and not by itself."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.rests: list[float] = []

    def __call__(self) -> float:
        return self.now

    def rest(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def work(pace: Pace, clock: Clock, rows: float, seconds: float) -> None:
    with pace.slice() as done:
        clock.now += seconds
        done.rows = rows


def test_no_more_rows_are_done_than_the_limit_says(clock: Clock) -> None:
    pace = Pace(1000, clock=clock, sleep=clock.rest)
    for _ in range(40):
        work(pace, clock, rows=250, seconds=0.001)
    assert clock.now - 1000.0 == pytest.approx(10.0)
    assert pace.says == "at most 1,000 rows/s"


def test_time_that_was_not_used_is_not_made_up_for(clock: Clock) -> None:
    pace = Pace(1000, clock=clock, sleep=clock.rest)
    work(pace, clock, rows=250, seconds=0.001)
    clock.now += 100
    work(pace, clock, rows=250, seconds=0.001)
    assert clock.rests == pytest.approx([0.249, 0.249])


def test_slices_that_take_long_are_followed_by_longer_rests(clock: Clock) -> None:
    pace = Pace(1_000_000, clock=clock, sleep=clock.rest)
    for seconds in (0.01, 0.1):
        work(pace, clock, rows=250, seconds=seconds)
    assert clock.rests == pytest.approx([BRAKE * 0.01, BRAKE * 0.1])
    for _ in range(20):
        work(pace, clock, rows=250, seconds=60)
    assert clock.rests[-1] == LONGEST_REST_SECONDS
    assert "busy" in pace.says


def test_moves_that_are_driven_at_once_share_the_limit(clock: Clock) -> None:
    """Each thread rests for the rows of all."""
    rests: list[float] = []
    pace = Pace(1000, clock=clock, sleep=rests.append)  # the clock stands: both work at the same time
    for _ in range(2):
        with pace.slice() as done:
            done.rows = 100
    assert rests == pytest.approx([0.1, 0.2])


def test_without_a_limit_nothing_rests(clock: Clock) -> None:
    pace = Pace(0, clock=clock, sleep=clock.rest)
    work(pace, clock, rows=250, seconds=60)
    assert clock.rests == []


def test_work_that_fails_is_not_rested_from(clock: Clock) -> None:
    pace = Pace(10, clock=clock, sleep=clock.rest)
    with pytest.raises(ZeroDivisionError), pace.slice():
        raise ZeroDivisionError
    assert clock.rests == []


def test_slices_of_large_rows_have_fewer() -> None:
    size = SliceSize()
    assert size.next() == SLICE_ROWS
    size.weighed(SLICE_ROWS, SLICE_ROWS * 10)
    assert size.next() == SLICE_ROWS
    size.weighed(SLICE_ROWS, SLICE_BYTES * 10)
    assert size.next() == SLICE_ROWS // 10
    size.weighed(1, SLICE_BYTES * 10)
    assert size.next() == 1
    size.weighed(0, 0)
    assert size.next() == 1

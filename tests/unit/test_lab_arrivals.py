"""An open model: who comes does not wait for who came before, and what waits is seen."""

from __future__ import annotations

import threading

import pytest

from lab.arrivals import Arrivals, Ask, percentile, steadily

MINUTE_SECONDS = 60.0


def test_a_request_is_timed_from_when_it_was_due() -> None:
    first_may_end, asked = threading.Event(), list[None]()

    def new_client() -> Ask:
        def ask() -> bool:
            asked.append(None)
            return len(asked) > 1 or first_may_end.wait(MINUTE_SECONDS)

        return ask

    load = Arrivals(new_client, 1, [0.0, 0.0])
    with load.running():
        threading.Timer(0.05, first_may_end.set).start()
    first, second = load.ended
    assert second.due == first.due
    assert second.milliseconds >= first.milliseconds >= 1
    assert first.good


def test_another_client_takes_what_is_due_meanwhile() -> None:
    both = threading.Barrier(2)

    def ask() -> bool:
        both.wait(MINUTE_SECONDS)
        return True

    load = Arrivals(lambda: ask, 2, [0.0, 0.0])
    with load.running():
        pass
    assert len(load.ended) == 2


def test_what_fails_in_a_client_is_told_by_who_began_it() -> None:
    def ask() -> bool:
        raise LookupError

    with pytest.raises(LookupError), Arrivals(lambda: ask, 1, [0.0]).running():
        pass


def test_a_client_that_cannot_begin_keeps_nobody_waiting() -> None:
    def new_client() -> Ask:
        raise LookupError

    with pytest.raises(LookupError), Arrivals(new_client, 1, [0.0]).running():
        pass


def test_a_block_that_fails_waits_for_nothing_that_is_due_later() -> None:
    load = Arrivals(lambda: lambda: True, 1, [MINUTE_SECONDS])
    with pytest.raises(KeyboardInterrupt), load.running():
        raise KeyboardInterrupt
    assert load.ended == []


def test_steadily_is_so_many_a_second_from_the_beginning() -> None:
    assert steadily(4, 0.5) == [0, 0.25]
    load = Arrivals(lambda: lambda: True, 4, steadily(100, 0.1))
    with load.running():
        pass
    assert 0 <= percentile(load.ended, 1) <= percentile(load.ended, 99)

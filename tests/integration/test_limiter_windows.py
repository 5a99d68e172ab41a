"""The limiter's script against a model, in any order of hits and moves of the clock: what no window may hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ephemeral.scripts import Script
from tests.faked_clock import FakedClock
from tests.valkey_server import ValkeyServer, running_valkey

WINDOWS_MS = (1, 40, 200)
KEYS = ("limit:{limits}:a", "limit:{limits}:b", "limit:{limits}:c")


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with running_valkey() as running:
        yield running


@dataclass
class Model:
    """One policy, with all the times it has admitted, by a clock that only goes forward: truly passed microseconds."""

    quota: int
    window_ms: int
    admitted: list[int] = field(default_factory=list)

    def fits(self, now: int) -> bool:
        """Whether one more would leave every closed window of this length with no more than the quota."""
        return self._within(now - self.window_ms * 1000) < self.quota

    def may_refuse(self, now: int, slack: int = 2000) -> bool:
        """What is cut to milliseconds is kept for at most two of them more."""
        return self._within(now - self.window_ms * 1000 - slack) >= self.quota

    def _within(self, since: int) -> int:
        return sum(moment >= since for moment in self.admitted)


policies = st.lists(st.tuples(st.integers(1, 4), st.sampled_from(WINDOWS_MS)), min_size=1, max_size=3)
# How far the clock goes, and which of the policies the request is about.
moves = st.one_of(
    st.just(0),
    st.integers(1, 3000),
    st.sampled_from([1000, 39_000, 40_000, 41_000, 199_000, 200_000, 201_000, 1_500_000]),
)
steps = st.lists(st.tuples(moves, st.sets(st.integers(0, 2), min_size=1)), min_size=1, max_size=60)


def ask(clock: FakedClock, models: Sequence[Model], which: Sequence[int]) -> list[int]:
    arguments = [number for i in which for number in (models[i].quota, models[i].window_ms)]
    answer: list[int] = clock([KEYS[i] for i in which], arguments)
    return answer


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(policies, steps)
def test_no_window_ever_admits_more_and_nothing_is_refused_without_need(
    server: ValkeyServer, chosen: list[tuple[int, int]], walk: list[tuple[int, set[int]]]
) -> None:
    server.admin.flushall()
    clock = FakedClock(server.admin, "limiter_decide")
    models = [Model(quota, window) for quota, window in chosen]
    for move, whom in walk:
        clock.now_microseconds += move
        now = clock.now_microseconds
        which = sorted({i % len(models) for i in whom})
        admitted, *rest = ask(clock, models, which)
        if admitted:
            assert all(models[i].fits(now) for i in which)
            for i in which:
                models[i].admitted.append(now)
        else:
            assert any(models[i].may_refuse(now) for i in which)
        for i, remaining, wait in zip(which, rest[::2], rest[1::2], strict=True):
            assert 0 <= wait <= models[i].window_ms
            # It may take a hit for one that counts still, never the other way round.
            assert (
                0
                <= remaining
                <= models[i].quota
                - sum(moment >= now - models[i].window_ms * 1000 for moment in models[i].admitted)
            )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps, st.lists(st.integers(0, 500_000), min_size=1, max_size=5))
def test_a_clock_that_is_set_back_admits_no_more(
    server: ValkeyServer, walk: list[tuple[int, set[int]]], backwards: list[int]
) -> None:
    """Time passes as ever; what the server takes for the time has been set back."""
    server.admin.flushall()
    clock = FakedClock(server.admin, "limiter_decide")
    model = Model(quota=3, window_ms=200)
    passed = clock.now_microseconds
    for turn, (move, _) in enumerate(walk):
        passed += move
        clock.now_microseconds += move
        if turn % 7 == 3 and backwards:
            clock.now_microseconds -= backwards.pop()
        admitted, _, wait = ask(clock, [model], [0])
        assert 0 <= wait <= model.window_ms
        if admitted:
            assert model.fits(passed)
            model.admitted.append(passed)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps, st.integers(1, 4))
def test_who_waits_as_told_is_admitted_and_not_before(
    server: ValkeyServer, walk: list[tuple[int, set[int]]], quota: int
) -> None:
    server.admin.flushall()
    clock = FakedClock(server.admin, "limiter_decide")
    model = Model(quota, 200)
    for move, _ in walk:
        clock.now_microseconds += move
        admitted, remaining, wait = ask(clock, [model], [0])
        if not admitted:
            assert remaining == 0
            clock.now_microseconds += wait * 1000
            assert ask(clock, [model], [0])[0] == 0
            clock.now_microseconds += 1000
            assert ask(clock, [model], [0])[0] == 1


@pytest.mark.parametrize("hits", [100, 101, 350])
def test_any_number_of_old_hits_is_left_out_at_once(server: ValkeyServer, hits: int) -> None:
    """More than one look at the list takes, with a newer one behind them that stays."""
    server.admin.flushall()
    clock = FakedClock(server.admin, "limiter_decide")
    for _ in range(hits):
        assert clock([KEYS[0]], [1000, 1000])[0] == 1
        clock.now_microseconds += 1000
    clock.now_microseconds += 900_000
    assert clock([KEYS[0]], [1000, 1000])[1] == 1000 - min(hits, 100) - 1
    clock.now_microseconds += 999_000
    assert clock([KEYS[0]], [1000, 1000]) == [1, 998, 1]
    assert server.admin.llen(KEYS[0]) == 3


def test_after_a_quota_was_lowered_enough_have_to_leave(server: ValkeyServer) -> None:
    server.admin.flushall()
    clock = FakedClock(server.admin, "limiter_decide")
    for _ in range(10):
        clock([KEYS[0]], [10, 1000])
        clock.now_microseconds += 10_000
    # The 8th oldest has to leave: it came 70 ms after the first, which was 100 ms ago.
    assert clock([KEYS[0]], [3, 1000]) == [0, 0, 970]
    clock.now_microseconds += 970_000
    assert clock([KEYS[0]], [3, 1000]) == [0, 0, 0]
    clock.now_microseconds += 1000
    assert clock([KEYS[0]], [3, 1000])[0] == 1


def test_a_list_outlives_its_window_only_a_little(server: ValkeyServer) -> None:
    server.admin.flushall()
    script = server.admin.register_script(Script("limiter_decide").text)
    script([KEYS[0]], [5, 2000])
    assert 2000 < server.admin.pttl(KEYS[0]) <= 3001

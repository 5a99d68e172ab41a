"""Locks that three servers grant: who holds one, who is refused, what is left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from time import monotonic

import pytest

from ephemeral.locks import Lease, Locks, LockTakenError
from tests.lock_servers import TTL_SECONDS, LockServers, running_lock_servers, tended
from tests.shard_servers import until

CART, KEY = "lock:{shopper}:cart", "lock:{shopper}:key"


@pytest.fixture(scope="module")
def running() -> Iterator[LockServers]:
    with running_lock_servers() as servers:
        yield servers


@pytest.fixture
def servers(running: LockServers) -> LockServers:
    for server in running.servers:
        server.admin.flushall()
    return running


def is_taken(locks: Locks, *keys: str) -> bool:
    """By a quorum's word: on a busy machine servers may be passed over as too slow, for a moment."""
    while True:
        try:
            with locks.hold(keys) as lease:
                if lease is not None:
                    return False
        except LockTakenError:
            return True
        until(lambda: tended(locks).counting() == len(locks._nodes))


def test_a_lock_is_held_by_one_and_then_by_the_next(servers: LockServers) -> None:
    one, other = servers.locks(), servers.locks()
    with one.hold([CART]) as lease:
        assert lease is not None
        assert servers.holder(CART) == lease.owner.encode()
        assert is_taken(other, CART)
        assert is_taken(one, CART)  # also for the same process: it is the lock of a request
        assert not is_taken(other, KEY)
    assert servers.keys() == 0
    assert not is_taken(other, CART)


def test_two_locks_are_taken_together_or_not_at_all(servers: LockServers) -> None:
    one, other = servers.locks(), servers.locks()
    with one.hold([CART]), pytest.raises(LockTakenError), other.hold([KEY, CART]):
        pass
    assert servers.owners(KEY) == [None] * 3
    with other.hold([KEY, CART]):
        assert is_taken(one, KEY)
        assert is_taken(one, CART)
    assert servers.keys() == 0


def test_what_raises_under_a_lock_releases_it(servers: LockServers) -> None:
    locks = servers.locks()
    with pytest.raises(ZeroDivisionError), locks.hold([CART]):
        _ = 1 / 0
    assert servers.keys() == 0


def test_a_lock_lasts_while_the_work_runs(servers: LockServers) -> None:
    one, other = servers.locks(), servers.locks()
    with one.hold([CART]) as lease:
        assert lease is not None
        began = monotonic()

        def outlived() -> bool:
            one.tend()
            return monotonic() - began > 2 * TTL_SECONDS

        until(outlived)
        assert is_taken(other, CART)
        assert monotonic() - lease.since < lease.seconds
    assert servers.keys() == 0


def test_without_being_extended_it_runs_out_and_is_the_next_ones(servers: LockServers) -> None:
    one, other = servers.locks(), servers.locks()
    with one.hold([CART]) as first:
        assert first is not None
        until(lambda: not is_taken(other, CART))
        assert monotonic() - first.since >= first.seconds
        with other.hold([CART]) as second:
            assert second is not None
            one.tend()  # does not take back what ran out
            assert servers.holder(CART) == second.owner.encode()
            one._release(first)  # nor does its release touch what is another's now
            assert servers.holder(CART) == second.owner.encode()
    assert servers.keys() == 0


def test_a_lease_that_ran_out_does_not_come_back_though_nobody_took_it(servers: LockServers) -> None:
    locks = servers.locks()
    with locks.hold([CART]) as lease:
        assert lease is not None
        since = lease.since
        until(lambda: servers.keys() == 0)
        locks.tend()
        assert servers.keys() == 0
        assert lease.since == since


def test_of_a_crowd_one_at_a_time_holds_it_and_somebody_goes_on(servers: LockServers) -> None:
    """Who is refused knows of another who goes on; so in no round may all of them be refused."""
    crowd, rounds = 12, 40
    processes = [servers.locks() for _ in range(crowd)]
    start, end = threading.Barrier(crowd, timeout=60), threading.Barrier(crowd, timeout=60)
    holders: list[Lease] = []
    most = 0

    def come(locks: Locks) -> list[str]:
        nonlocal most
        outcomes = []
        for number in range(rounds):
            start.wait()
            try:
                with locks.hold([f"{CART}:{number}"]) as lease:
                    if lease is not None:
                        holders.append(lease)
                        most = max(most, len(holders))
                        holders.remove(lease)
                    outcomes.append("without" if lease is None else "held")
            except LockTakenError:
                outcomes.append("refused")
            end.wait()
        return outcomes

    with ThreadPoolExecutor(crowd) as threads:
        by_round = list(zip(*threads.map(come, processes), strict=True))
    assert most == 1
    assert all(set(outcomes) - {"refused"} for outcomes in by_round)
    assert any("refused" in outcomes for outcomes in by_round)
    assert servers.keys() == 0


def test_scripts_that_were_flushed_are_loaded_again(servers: LockServers) -> None:
    locks = servers.locks()
    assert not is_taken(locks, CART)
    for server in servers.servers:
        server.admin.script_flush()
    assert not is_taken(locks, CART)
    with locks.hold([CART]):
        for server in servers.servers:
            server.admin.script_flush()
    assert servers.keys() == 0


def test_connections_that_the_servers_closed_cost_nobody_the_lock(servers: LockServers) -> None:
    locks = servers.locks()
    with ExitStack() as held:  # several connections to each
        for number in range(4):
            held.enter_context(locks.hold([f"{CART}:{number}"]))
    for server in servers.servers:
        server.admin.client_kill_filter(_type="normal", skipme=True)
    assert not is_taken(locks, CART)


def test_without_servers_there_is_no_lock() -> None:
    with Locks("", TTL_SECONDS).hold([CART]) as lease:
        assert lease is None

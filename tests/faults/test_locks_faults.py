"""Locks while their servers freeze, die, refuse, or come back without their memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from ephemeral.locks import Locks, LockTakenError
from tests.cluster_fixtures import free_ports
from tests.lock_servers import TTL_SECONDS, LockServers, running_lock_servers, tended
from tests.shard_servers import until
from tests.valkey_server import ValkeyServer

CART = "lock:{shopper}:cart"
# So long that nothing runs out by itself while a test looks for what was left behind.
LONG_SECONDS = 3600.0


@pytest.fixture
def servers() -> Iterator[LockServers]:
    with running_lock_servers() as running:
        yield running


def scripts_run(server: ValkeyServer) -> int:
    """How many scripts it has run, by its own count."""
    statistics = server.admin.info("commandstats")
    return sum(
        int(statistics.get(f"cmdstat_{command}", {}).get("calls", 0)) for command in ("eval", "evalsha")
    )


def aged(servers: LockServers) -> Locks:
    """Locks that would last for long, of servers that count all the same: as if their start were as long ago."""
    locks = servers.open(LONG_SECONDS)
    for node in locks._nodes:
        node._lease_seconds = 0.0
    return locks


def test_with_one_frozen_the_others_are_a_quorum_and_it_keeps_no_lock(servers: LockServers) -> None:
    """It runs, when it goes on, what it was sent while frozen: the taking, then the release behind it."""
    locks, frozen = aged(servers), servers.servers[0]
    with locks.hold([CART]):
        pass
    before = scripts_run(frozen)
    with frozen.frozen():
        for number in range(20):
            with locks.hold([f"{CART}:{number}"]) as lease:
                assert lease is not None
    until(lambda: scripts_run(frozen) >= before + 2)
    assert servers.keys() == 0
    assert locks._nodes[0].away
    until(lambda: not tended(locks)._nodes[0].away)
    with locks.hold([CART]) as lease:
        assert lease is not None
        assert servers.holder(CART) == lease.owner.encode()


def test_a_crowd_that_meets_the_freeze_leaves_no_lock_either(servers: LockServers) -> None:
    locks, frozen, crowd = aged(servers), servers.servers[1], 8
    start = threading.Barrier(crowd, timeout=60)

    def come(number: int) -> bool:
        start.wait()
        with locks.hold([f"{CART}:{number}"]) as lease:
            return lease is not None

    with ThreadPoolExecutor(crowd) as threads:
        assert all(threads.map(come, range(crowd)))
        before = scripts_run(frozen)
        with frozen.frozen():
            assert all(threads.map(come, range(crowd)))
    until(lambda: scripts_run(frozen) > before)
    until(
        lambda: frozen.admin.info("clients")["connected_clients"] == 1
    )  # the test's own: all others are done with
    assert servers.keys() == 0


def test_a_release_is_run_behind_the_taking_it_is_for(servers: LockServers) -> None:
    """Frozen between the two: the taking was answered, the release waits there."""
    locks, frozen = aged(servers), servers.servers[2]
    with ExitStack() as stack:
        with locks.hold([CART]):
            stack.enter_context(frozen.frozen())
        assert [server.admin.dbsize() for server in servers.servers[:2]] == [0, 0]
    until(lambda: servers.keys() == 0)


@pytest.mark.parametrize("how", ["frozen", "dead"])
def test_without_a_quorum_the_work_goes_on_without_the_lock(servers: LockServers, how: str) -> None:
    locks = aged(servers)
    with locks.hold([CART]) as lease:
        assert lease is not None
    with ExitStack() as broken:
        for server in servers.servers[:2]:
            if how == "frozen":
                broken.enter_context(server.frozen())
            else:
                server.kill()
        for _ in range(3):
            with locks.hold([CART]) as lease:
                assert lease is None
    assert [node.away for node in locks._nodes] == [True, True, False]
    assert servers.servers[2].admin.dbsize() == 0
    if how == "dead":
        for server in servers.servers[:2]:
            server.start()
    until(lambda: tended(locks).counting() == 3)
    with locks.hold([CART]) as lease:
        assert lease is not None


def test_a_server_that_came_back_empty_lets_nobody_in_beside_the_holder(servers: LockServers) -> None:
    """The holder has two of three; one of them forgets. The third and the one that forgot are no quorum."""
    first, second, third = servers.servers
    holder, other = servers.locks(), servers.locks()
    with third.frozen(), holder.hold([CART]) as lease:
        assert lease is not None
        second.restart()
        third.admin.close()
        tried = _thaw_and_try(other, third)
        assert tried is None
        assert first.admin.get(CART) == lease.owner.encode()


def _thaw_and_try(other: Locks, frozen: ValkeyServer) -> object:
    """What another gets at once when it goes on."""
    assert frozen._process is not None
    frozen._process.send_signal(18)
    until(frozen._answers)
    until(lambda: not any(node.away for node in tended(other)._nodes))
    try:
        with other.hold([CART]) as lease:
            return lease
    except LockTakenError:
        return "refused"


def test_a_server_counts_once_it_is_up_for_longer_than_a_lease(servers: LockServers) -> None:
    """It might be one that forgot; who held it then holds it no more."""
    with servers.open(LONG_SECONDS).hold([CART]) as lease:
        assert lease is None
    assert servers.keys() == 0
    locks = servers.open(TTL_SECONDS)
    until(lambda: tended(locks).counting() == 3)
    with locks.hold([CART]) as lease:
        assert lease is not None


def test_a_server_that_came_back_empty_is_given_the_lock_again(servers: LockServers) -> None:
    locks = servers.locks()
    with locks.hold([CART]) as lease:
        assert lease is not None
        servers.servers[0].restart()
        until(lambda: tended(locks) and servers.owners(CART) == [lease.owner.encode()] * 3)
    assert servers.keys() == 0


@pytest.mark.parametrize("why", ["full", "a replica", "evicting"])
def test_one_that_refuses_or_forgets_by_itself_counts_for_nothing(servers: LockServers, why: str) -> None:
    refusing = servers.servers[:2]
    for server in refusing:
        if why == "a replica":
            server.admin.replicaof("127.0.0.1", str(free_ports(1)))
        else:
            server.admin.config_set("maxmemory-policy", "allkeys-lru" if why == "evicting" else "noeviction")
            server.admin.config_set("maxmemory", "1" if why == "full" else "100mb")
    locks = aged(servers)
    with locks.hold([CART]) as lease:
        assert lease is None
    assert servers.keys() == 0
    if why == "a replica":
        refusing[0].admin.replicaof("NO", "ONE")
    else:
        refusing[0].admin.config_set("maxmemory", "0")
    locks = aged(servers)
    with locks.hold([CART]) as lease:
        assert lease is not None

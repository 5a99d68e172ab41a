"""The limiter on a real server: many processes at once, one round trip, and a server that refuses or is gone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ephemeral.client import connect
from ephemeral.limiter import Limit, Limiter, Policy
from ephemeral.round_trip import RoundTrips
from tests.cluster_fixtures import free_ports
from tests.shard_servers import until
from tests.valkey_server import ValkeyServer, running_valkey

ROOT = Path(__file__).resolve().parents[2]
ADA = Limit(Policy("session", 4, 60), "ada")
STORE = Limit(Policy("store", 6, 60), "corner-shop")
HERE = Limit(Policy("address", 6, 60), "127.0.0.1")

_PROCESS = """
import sys
from ephemeral.client import connect
from ephemeral.limiter import Limit, Limiter, Policy
from ephemeral.round_trip import RoundTrips
limiter = Limiter(RoundTrips(connect(sys.argv[1], 1.0)), 1)
limit = Limit(Policy("session", 100, 60), "ada")
print("ready", flush=True)
sys.stdin.readline()
decided = [limiter.decide([limit]) for _ in range(250)]
assert all(each.shared for each in decided)
print(sum(each.admitted for each in decided))
"""


@pytest.fixture(scope="module")
def running() -> Iterator[ValkeyServer]:
    with running_valkey() as server:
        yield server


@pytest.fixture
def server(running: ValkeyServer) -> ValkeyServer:
    running.admin.flushall()
    return running


@pytest.fixture
def limiter(server: ValkeyServer) -> Iterator[Limiter]:
    trips = RoundTrips(connect(server.url, 1.0))
    yield Limiter(trips, workers=2)
    trips.close()


def calls(server: ValkeyServer) -> dict[str, int]:
    """How often each command came, from clients and not from scripts."""
    return {name: int(each["calls"]) for name, each in server.admin.info("commandstats").items()}


def test_eight_processes_at_once_are_admitted_as_often_as_one(server: ValkeyServer) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, server.url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    admitted = [int(process.communicate("go\n")[0]) for process in processes]
    assert sum(admitted) == 100


def test_three_policies_are_one_command(limiter: Limiter, server: ValkeyServer) -> None:
    limiter.decide([ADA, HERE, STORE])  # loads the script
    server.admin.config_resetstat()
    decided = limiter.decide([ADA, HERE, STORE])
    assert [standing.remaining for standing in decided.standings] == [2, 4, 4]
    counted = calls(server)
    assert counted["cmdstat_evalsha"] == 1
    assert "cmdstat_eval" not in counted
    assert "cmdstat_exists" not in counted


def test_where_one_policy_refuses_none_counts(limiter: Limiter, server: ValkeyServer) -> None:
    assert [limiter.decide([ADA, STORE]).admitted for _ in range(6)] == [True] * 4 + [False] * 2
    assert server.admin.llen(ADA.key) == 5  # hits, and one more
    assert server.admin.llen(STORE.key) == 5
    bob = Limit(ADA.policy, "bob")
    assert [limiter.decide([bob, STORE]).admitted for _ in range(4)] == [True, True, False, False]
    last = limiter.decide([bob, STORE])
    assert [(each.remaining, each.refused) for each in last.standings] == [(2, False), (0, True)]
    assert last.tightest.policy.name == "store"
    assert 59 <= last.tightest.wait_seconds <= 60


def test_all_keys_lie_on_one_node_of_a_cluster() -> None:
    tags = {each.key.partition("{")[2].partition("}")[0] for each in (ADA, STORE, HERE)}
    assert tags == {"limits"}


def test_a_script_that_the_server_has_forgotten_is_sent_again(limiter: Limiter, server: ValkeyServer) -> None:
    assert limiter.decide([ADA]).standings[0].remaining == 3
    server.admin.script_flush()
    decided = limiter.decide([ADA])
    assert (decided.shared, decided.standings[0].remaining) == (True, 2)


def test_nobody_is_left_behind_in_the_servers_memory(limiter: Limiter, server: ValkeyServer) -> None:
    limiter.decide([Limit(Policy("session", 4, 1), "ada"), Limit(Policy("store", 4, 1), "s")])
    until(lambda: server.admin.dbsize() == 0)


@pytest.mark.parametrize("quota", [200, 10_000])
def test_a_hit_takes_five_bytes_at_most(server: ValkeyServer, quota: int) -> None:
    limiter = Limiter(RoundTrips(connect(server.url, 1.0)), 1)
    limit = Limit(Policy("store", quota, 10), "corner-shop")
    for _ in range(quota):
        limiter.decide([limit])
    assert server.admin.llen(limit.key) >= quota * 0.9
    assert 0 < (server.admin.memory_usage(limit.key, samples=0) or 0) <= 5 * quota


# Without the server


def test_nobody_there_is_decided_here_with_this_workers_share() -> None:
    trips = RoundTrips(connect(f"redis://127.0.0.1:{free_ports(1)}/0"))
    limiter = Limiter(trips, workers=2)
    decided = [limiter.decide([ADA, STORE]) for _ in range(3)]
    trips.close()
    assert [each.admitted for each in decided] == [True, True, False]
    assert not any(each.shared for each in decided)


def test_frozen_it_is_decided_here_and_there_again_afterwards(limiter: Limiter, server: ValkeyServer) -> None:
    assert limiter.decide([ADA]).shared
    with server.frozen():
        assert [limiter.decide([ADA]).admitted for _ in range(3)] == [True, True, False]
    until(lambda: limiter.decide([STORE]).shared)
    # What was counted before it froze still is; that the call it never answered was may be.
    assert limiter.decide([ADA]).standings[0].remaining in (1, 2)


def test_killed_and_started_again_it_goes_on(limiter: Limiter, server: ValkeyServer) -> None:
    assert limiter.decide([ADA]).shared
    server.kill()
    assert not limiter.decide([ADA]).shared
    server.start()
    until(lambda: limiter.decide([STORE]).shared)
    assert limiter.decide([ADA]).standings[0].remaining == 3


def test_a_full_server_counts_nothing_and_breaks_nothing(limiter: Limiter, server: ValkeyServer) -> None:
    assert limiter.decide([ADA, STORE]).shared
    server.admin.config_set("maxmemory", "1")
    try:
        assert not limiter.decide([ADA, STORE]).shared
    finally:
        server.admin.config_set("maxmemory", "0")
    decided = limiter.decide([ADA, STORE])
    assert decided.shared
    assert [each.remaining for each in decided.standings] == [2, 4]


def test_a_server_that_has_become_a_replica_is_done_without(limiter: Limiter, server: ValkeyServer) -> None:
    assert limiter.decide([ADA]).shared
    server.admin.replicaof("127.0.0.1", str(free_ports(1)))
    try:
        assert not limiter.decide([ADA]).shared
    finally:
        server.admin.replicaof("NO", "ONE")
    assert limiter.decide([ADA]).shared


def test_what_is_no_list_of_ours_is_refused_or_replaced_and_never_loops(
    limiter: Limiter, server: ValkeyServer
) -> None:
    server.admin.set(ADA.key, "text")
    assert not limiter.decide([ADA]).shared
    now = int(server.admin.time()[0]) * 1000
    server.admin.rpush(STORE.key, -10 * now, 5, now)  # as if there was no end to what is too old
    decided = limiter.decide([STORE])
    assert (decided.shared, decided.admitted) == (True, True)

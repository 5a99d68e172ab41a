"""`flask shards failover` on real servers: what it promises while the old primary is dead, frozen or well."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest

from commands.cluster import Cluster
from commands.failover import fail_over
from commands.failover_group import Group
from commands.failover_handover import Wish
from tests.commandline import Answer, assert_refused, flask
from tests.gated_writer import GatedWriter
from tests.shard_servers import Servers, running_servers, until

A, B, C = "shard-0-a", "shard-0-b", "shard-0-c"


@pytest.fixture
def servers() -> Iterator[Servers]:
    with running_servers(shards=1, replicas=2) as servers:
        yield servers


@pytest.fixture
def writer(servers: Servers) -> Iterator[GatedWriter]:
    """One that writes all the time."""
    with GatedWriter(servers).writing() as writer:
        yield writer


@pytest.fixture
def shopper(servers: Servers) -> Iterator[GatedWriter]:
    """One that writes when told to."""
    with closing(GatedWriter(servers)) as shopper:
        yield shopper


def failover(servers: Servers, *options: str) -> Answer:
    return flask(servers.settings(), "shards", "failover", "shard-0", *options)


def assert_primary(servers: Servers, primary: str, *replicas: str) -> None:
    """It is on a newer timeline, the replicas stream from it, and nothing is left of the way there."""
    assert servers.sql(primary, "SELECT pg_is_in_recovery()") == [(False,)]
    following = servers.sql(
        primary, "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'"
    )
    assert {name for (name,) in following} == set(replicas)
    for name in (primary, *replicas):
        [(conninfo,)] = servers.sql(name, "SHOW primary_conninfo")
        assert "failover" not in conninfo
        assert f"application_name={name} " in conninfo
        assert "target_session_attrs=read-write" in conninfo
    port = servers.node(primary).port
    for name in replicas:
        [(conninfo,)] = servers.sql(name, "SHOW primary_conninfo")
        assert f" port={port}," in conninfo


def promoted(answer: Answer) -> tuple[str, str]:
    """The new primary and its replica. Under way, either may have received more when the old primary went."""
    assert answer.returncode == 0, answer
    return (B, C) if f"{B} is the primary of" in answer.stdout else (C, B)


def untouched(servers: Servers, *names: str) -> bool:
    """Whether nothing of the replicas' configuration was left changed."""
    changed = "SELECT name FROM pg_file_settings WHERE sourcefile LIKE '%postgresql.auto.conf'"
    return all(servers.sql(name, changed) == [] for name in names)


# The old primary is dead, or frozen


def test_a_dead_primary_is_replaced_and_nothing_acknowledged_is_lost(
    servers: Servers, writer: GatedWriter
) -> None:
    servers.stop(A, signal.SIGKILL)
    answer = failover(servers)
    primary, replica = promoted(answer)
    assert "every acknowledged commit" in answer.stdout
    writer.goes_on()
    assert writer.lost(primary) == set()
    assert_primary(servers, primary, replica)


def test_a_primary_that_is_frozen_is_replaced_and_confirms_nothing_when_it_thaws(
    servers: Servers, writer: GatedWriter
) -> None:
    with servers.cluster.postgres.connect(servers._node(A), "marketplace") as before:
        before.execute("CREATE TABLE late ()")
        servers.freeze(A)
        answer = failover(servers)
        servers.thaw(A)
        primary, replica = promoted(answer)
        with pytest.raises(psycopg.OperationalError, match="closed the connection"):
            commit_and_wait(servers, before)
    writer.goes_on()
    assert writer.lost(primary) == set()
    assert_primary(servers, primary, replica)
    assert servers.sql(A, "SELECT count(*) FROM pg_stat_replication") == [(0,)]


def test_a_primary_that_takes_no_connections_but_still_writes_is_replaced(
    servers: Servers, writer: GatedWriter
) -> None:
    postmaster = servers._postmaster(A)
    postmaster.suspend()
    primary, replica = promoted(failover(servers))
    writer.goes_on()
    assert len(writer.doubtful) == 1, "the one whose confirmation never came"
    assert writer.lost(primary) == set()
    postmaster.resume()
    assert_primary(servers, primary, replica)


def commit_and_wait(servers: Servers, connection: psycopg.Connection) -> None:
    """Commit a row on an old primary, and end the connection once it hangs there, waiting to be confirmed."""
    pid = connection.info.backend_pid

    def end_when_it_hangs() -> None:
        hangs = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
        until(lambda: servers.sql(A, hangs, pid) == [("SyncRep",)])
        servers.sql(A, "SELECT pg_terminate_backend(%s)", pid)

    thread = threading.Thread(target=end_when_it_hangs)
    thread.start()
    try:
        connection.execute("INSERT INTO late DEFAULT VALUES")
    finally:
        thread.join()


# The old primary is well


def test_a_switchover_costs_no_error_only_a_pause(servers: Servers, writer: GatedWriter) -> None:
    primary, replica = promoted(failover(servers))
    writer.goes_on()
    assert writer.refused > 0
    assert writer.doubtful == []
    assert writer.lost(primary) == set()
    assert_primary(servers, primary, replica)


def test_a_switchover_ends_the_connections_to_the_old_primary(servers: Servers) -> None:
    with servers.cluster.postgres.connect(servers._node(A)) as connection:
        assert failover(servers).returncode == 0
        with pytest.raises(psycopg.errors.AdminShutdown):
            connection.execute("SELECT 1")


def test_a_switchover_to_a_node_that_was_named(servers: Servers) -> None:
    assert failover(servers, "--to", C).returncode == 0
    assert_primary(servers, C, B)


def test_without_synchronous_replication_a_switchover_is_certain_and_a_failover_is_not(
    servers: Servers,
) -> None:
    for name in (A, B, C):
        servers.synchronous(name, "")
    servers.stop(A, signal.SIGKILL)
    assert_refused(failover(servers), "not certain", "empty")
    servers.start(A)
    until(lambda: servers.sql(A, "SELECT count(*) FROM pg_stat_replication") == [(2,)])
    answer = failover(servers)
    assert answer.returncode == 0, answer
    assert "all that shard-0-a wrote until its gate was shut" in answer.stdout
    assert_primary(servers, B, C)


def test_writes_that_do_not_end_stop_the_failover_and_not_the_writes(
    servers: Servers, shopper: GatedWriter
) -> None:
    with servers.cluster.postgres.connect(servers._node(A), "marketplace") as stuck, stuck.transaction():
        stuck.execute("SELECT enter_gate()")
        assert_refused(failover(servers), "did not end within 3s", "nothing was changed")
        assert shopper.write_once()
    assert untouched(servers, B, C)


def test_where_no_replica_catches_up_the_writes_go_on(servers: Servers, shopper: GatedWriter) -> None:
    for name in (B, C):
        servers.sql(name, "ALTER SYSTEM SET recovery_min_apply_delay = '1h'")
        servers.sql(name, "SELECT pg_reload_conf()")
        until(lambda name=name: servers.sql(name, "SHOW recovery_min_apply_delay") == [("1h",)])  # type: ignore[misc]
    assert shopper.write_once()
    assert_refused(failover(servers), "nobody has replayed up to", f"{B} at ", f"{C} at ")
    assert shopper.write_once()


# Which replica


def test_the_replica_that_has_more_is_promoted_and_no_other_will_do(
    servers: Servers, shopper: GatedWriter
) -> None:
    servers.sql(B, "ALTER SYSTEM SET primary_conninfo = ''")
    servers.sql(B, "SELECT pg_reload_conf()")
    until(lambda: servers.sql(B, "SELECT count(*) FROM pg_stat_wal_receiver") == [(0,)])
    assert shopper.write_once()
    servers.stop(A, signal.SIGKILL)
    assert_refused(failover(servers, "--to", B), f"{B} has ", f"{C} 0/")
    assert servers.sql(B, "SHOW primary_conninfo") == [("",)]
    answer = failover(servers)
    assert answer.returncode == 0, answer
    assert shopper.lost(C) == set()
    until(lambda: shopper.lost(B) == set())


def test_a_replica_whose_replay_is_paused_replays_again_for_a_failover(servers: Servers) -> None:
    servers.sql(C, "SELECT pg_wal_replay_pause()")
    servers.stop(A, signal.SIGKILL)
    answer = failover(servers)
    assert answer.returncode == 0, answer
    assert f"{C} replays again" in answer.stdout
    assert_primary(servers, B, C)


# What is told of it


def test_status_tells_the_promoted_node_from_the_one_that_still_takes_itself_for_primary(
    servers: Servers,
) -> None:
    assert failover(servers).returncode == 0
    assert servers.sql(A, "SELECT pg_is_in_recovery()") == [(False,)]
    status = flask(servers.settings(), "shards", "status", "--json")
    assert status.returncode == 0, status
    nodes = {node["name"]: node for node in json.loads(status.stdout)["shards"][0]["nodes"]}
    told = [(node["role"], node["healthy"], node["timeline"]) for node in nodes.values()]
    assert told == [("unknown", False, 1), ("primary", True, 2), ("replica", True, 2)]
    said = flask(servers.settings(), "shards", "status").stderr
    assert f"{A}: was primary up to a failover" in said


def test_status_knows_no_primary_where_only_the_old_one_answers(servers: Servers) -> None:
    assert failover(servers).returncode == 0
    servers.freeze(B)
    status = flask(servers.settings(), "shards", "status")
    servers.thaw(B)
    assert_refused(status, "no primary answers on shard-0")


# When it is refused


def test_a_shard_that_is_not_there_is_named_in_one_line(servers: Servers) -> None:
    assert_refused(flask(servers.settings(), "shards", "failover", "shard-7"), "shard-7", "shard-0")
    assert_refused(failover(servers, "--to", "shard-0-x"), "shard-0-x", B)
    assert_refused(failover(servers, "--to", A), "primary already")


def test_with_primary_and_one_replica_dead_nobody_can_know_and_loss_must_be_accepted(
    servers: Servers, shopper: GatedWriter
) -> None:
    assert shopper.write_once()
    servers.stop(A, signal.SIGKILL)
    servers.stop(C, signal.SIGKILL)
    assert_refused(failover(servers), "2 of them must be heard", f"{C} does not answer")
    assert untouched(servers, B)
    accepted = failover(servers, "--accept-loss")
    assert_refused(accepted, "is primary, but", "bring one back")
    assert "goes on all the same" in accepted.stdout
    servers.start(C)
    answer = failover(servers)
    assert answer.returncode == 0, answer
    assert "finishing it" in answer.stdout
    assert_primary(servers, B, C)


def test_a_switchover_that_would_leave_nobody_to_confirm_commits_is_refused(
    servers: Servers, shopper: GatedWriter
) -> None:
    servers.stop(C, signal.SIGKILL)
    assert_refused(failover(servers), "nobody would confirm", f"{C}: Connection refused")
    assert untouched(servers, B)
    assert shopper.write_once()


def test_of_two_failovers_at_once_the_second_is_refused(servers: Servers) -> None:
    cluster = Cluster(servers.settings())
    begun, refused = threading.Event(), threading.Event()

    def slowly(_step: str) -> None:
        begun.set()
        assert refused.wait(30)

    def first() -> None:
        with Group.reached(cluster, "shard-0", servers.nodes) as group:
            fail_over(group, Wish(), slowly)

    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(first)
        assert begun.wait(30)
        second = failover(servers)
        refused.set()
        done.result()
    assert_refused(second, "another failover of shard-0 is under way")
    # Either may have received more.
    replicas = {B: C, C: B}
    [primary] = [name for name in replicas if servers.sql(name, "SELECT pg_is_in_recovery()") == [(False,)]]
    assert_primary(servers, primary, replicas[primary])

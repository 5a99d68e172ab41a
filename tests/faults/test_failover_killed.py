"""A failover that is killed after a thing it does, and run again: it is finished, nothing acknowledged is lost.

Each of its deeds takes a cluster of its own, so the suite takes those after which things stand most differently;
`EVERY_DEED=1` takes all.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing

import psutil
import pytest

from tests.commandline import ROOT, environment, flask
from tests.gated_writer import GatedWriter
from tests.shard_servers import Servers, running_servers, until

A, B, C = "shard-0-a", "shard-0-b", "shard-0-c"

STARTUP = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'"
LOCKED = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
HANGING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"

# What a switchover does, in order; without an answering primary there is no gate and nobody to leave it.
SWITCHOVER = (
    *("shut_gate", "follow", "follow", "keep_wal_for", "keep_wal_for", "follow", "promote"),
    *("keep_wal_for", "keep_wal_for", "commit", "end_clients", "follow", "forget_followers"),
)
FAILOVER = (
    *("follow", "follow", "keep_wal_for", "follow", "promote"),
    *("keep_wal_for", "commit", "follow", "forget_followers"),
)


# The gate is shut; one replica is cut off; both are; promoted; committed; all but the last.
SWITCHOVER_DEEDS: tuple[int, ...] = (1, 2, 3, 7, 10, 12)
FAILOVER_DEEDS: tuple[int, ...] = (1, 2, 5)
if os.environ.get("EVERY_DEED"):
    SWITCHOVER_DEEDS = tuple(range(1, len(SWITCHOVER) + 1))
    FAILOVER_DEEDS = tuple(range(1, len(FAILOVER) + 1))


@pytest.fixture
def servers() -> Iterator[Servers]:
    with running_servers(shards=1, replicas=2) as servers:
        yield servers


@pytest.mark.parametrize("count", SWITCHOVER_DEEDS)
def test_a_switchover_that_is_killed_is_finished_by_the_next(servers: Servers, count: int) -> None:
    with closing(GatedWriter(servers)) as writer:
        assert writer.write_once()
        assert kill_after(servers, count) == SWITCHOVER[count - 1]
        for _ in range(3):  # at each node; some of it may be confirmed, and all that is must stay
            writer.write_once()
        finish(servers, writer)


@pytest.mark.parametrize("count", FAILOVER_DEEDS)
def test_a_failover_that_is_killed_is_finished_by_the_next(servers: Servers, count: int) -> None:
    with closing(GatedWriter(servers)) as writer:
        assert writer.write_once()
        servers.stop(A, signal.SIGKILL)
        assert kill_after(servers, count) == FAILOVER[count - 1]
        for _ in range(3):
            writer.write_once()
        finish(servers, writer)


def test_a_switchover_that_was_killed_is_finished_also_when_the_old_primary_has_died_since(
    servers: Servers,
) -> None:
    with closing(GatedWriter(servers)) as writer:
        assert writer.write_once()
        kill_after(servers, SWITCHOVER.index("promote"))
        servers.stop(A, signal.SIGKILL)
        finish(servers, writer)


def test_commits_that_hang_since_a_switchover_was_killed_do_not_stop_the_next(servers: Servers) -> None:
    with closing(GatedWriter(servers)) as writer:
        assert writer.write_once()
        assert kill_after(servers, 3) == "follow"
        with servers.cluster.postgres.connect(servers._node(A), "marketplace") as primary:
            primary.execute("SET synchronous_commit = local")
            primary.execute("DELETE FROM closed_timelines")  # as its time does, a little later
        thread = threading.Thread(target=writer.write_once)
        thread.start()
        until(lambda: servers.sql(A, HANGING) == [(1,)])
        finish(servers, writer)
        thread.join()
        assert len(writer.doubtful) == 1


def test_a_promotion_that_is_still_under_way_is_waited_for(servers: Servers) -> None:
    with closing(GatedWriter(servers)) as writer:
        assert writer.write_once()
        assert kill_after(servers, 6) == "follow"
        recovery = psutil.Process(servers.sql(B, STARTUP)[0][0])
        recovery.suspend()
        servers.sql(B, "SELECT pg_promote(false)")
        thread = threading.Thread(target=finish, args=(servers, writer))
        thread.start()
        until(lambda: servers.sql(B, LOCKED) == [(1,)])
        recovery.resume()
        thread.join()
        assert servers.sql(B, "SELECT timeline_id FROM pg_control_checkpoint()") == [(2,)]


def kill_after(servers: Servers, count: int) -> str:
    """Run a failover that is killed after so many deeds; the name of the last."""
    killed = subprocess.run(
        [sys.executable, "-m", "tests.faults.failover_killed", "shard-0", str(count)],
        cwd=ROOT,
        env=environment(servers.settings()),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed
    return killed.stdout


def finish(servers: Servers, writer: GatedWriter) -> None:
    answer = flask(servers.settings(), "shards", "failover", "shard-0")
    assert answer.returncode == 0, answer
    primary, replica = (B, C) if f"{B} is the primary of" in answer.stdout else (C, B)
    following = "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'"
    until(lambda: servers.sql(primary, following) == [(replica,)])
    for name in (primary, replica):
        [(conninfo,)] = servers.sql(name, "SHOW primary_conninfo")
        assert "failover" not in conninfo
        assert "target_session_attrs=read-write" in conninfo
    assert servers.sql(primary, "SELECT timeline_id FROM pg_control_checkpoint()") == [(2,)]
    until(writer.write_once)
    assert writer.lost(primary) == set()
    kept = "SELECT slot_name FROM pg_replication_slots WHERE restart_lsn IS NOT NULL"
    assert servers.sql(replica, kept) == []

"""A server that was failed over comes back as a replica, whatever had happened to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from devcluster import lineage
from devcluster.errors import ClusterError, NotYet
from devcluster.processes import Process
from devcluster.shutdown import leftovers
from devcluster.watch import Watch
from tests.cluster_fixtures import ROOT, running_cluster
from tests.shard_servers import Servers, until
from tests.supervised import wait_until

A, B, C = "shard-0-a", "shard-0-b", "shard-0-c"
# What a server writes to its log where its data and its WAL do not fit together.
WRONG = (
    "PANIC",
    "invalid page",
    "checksum",
    "corrupt",
    "contrecord",
    "different database system",
    "already been removed",
)


class Shard(Servers):
    """One shard with a table of rows, each of which a client was told of unless `lose` wrote it."""

    def __init__(self, servers: Servers) -> None:
        super().__init__(servers.cluster)
        self.reported: list[str] = []
        self.cluster.report = self.reported.append
        self.sql(A, "CREATE TABLE written (value integer)")
        self.write(A, 0)

    def folder(self, name: str) -> Path:
        return self.cluster.layout.server(name)

    def write(self, name: str, value: int) -> None:
        self.sql(name, "INSERT INTO written VALUES (%s)", value)

    def write_unacknowledged(self, name: str, value: int) -> None:
        with self.cluster.postgres.connect(self._node(name)) as connection:
            connection.execute("SET synchronous_commit = local")
            connection.execute("INSERT INTO written VALUES (%s)", [value])

    def lose(self, name: str, value: int) -> None:
        """Kill a primary that alone has a row."""
        others = [node.name for node in self.nodes if node.name != name]
        for other in others:
            self.stop(other)
        self.write_unacknowledged(name, value)
        self.stop(name, signal.SIGKILL)
        for other in others:
            self.start(other)

    def promote(self, name: str) -> int:
        """Promote a replica and return its timeline."""
        assert self.sql(name, "SELECT pg_promote()") == [(True,)]
        return lineage.timeline(self.folder(name))

    def rows(self, name: str) -> list[int] | None:
        try:
            return [value for (value,) in self.sql(name, "SELECT value FROM written ORDER BY value")]
        except psycopg.Error:  # it does not answer yet
            return None

    def follows(self, name: str) -> tuple[str, int] | None:
        """The server that a replica streams from, and on which timeline."""
        query = "SELECT sender_port, received_tli FROM pg_stat_get_wal_receiver() WHERE status = 'streaming'"
        try:
            found = self.sql(name, query)
        except psycopg.Error:
            return None
        ports = {node.port: node.name for node in self.nodes}
        return (ports[found[0][0]], found[0][1]) if found else None

    def until_follows(self, name: str, primary: str, timeline: int) -> None:
        wait_until(lambda: self.follows(name) == (primary, timeline))

    def until_has(self, name: str, values: list[int]) -> None:
        wait_until(lambda: self.rows(name) == values)

    def until_well(self, primary: str, timeline: int, values: list[int]) -> None:
        """All others stream from this primary, have just these rows, and keep WAL for nobody; nobody complains."""
        names = {node.name for node in self.nodes}
        for name in sorted(names - {primary}):
            self.until_follows(name, primary, timeline)
            self.until_has(name, values)
            used = "SELECT slot_name FROM pg_replication_slots WHERE restart_lsn IS NOT NULL OR active"
            assert self.sql(name, used) == []
        for name in names:
            slots = {slot for (slot,) in self.sql(name, "SELECT slot_name FROM pg_replication_slots")}
            assert slots == {other.replace("-", "_") for other in names - {name}}
            log = self.cluster.layout.log(name).read_text().splitlines()
            assert [line for line in log if any(word in line for word in WRONG)] == []

    def unrecorded(self) -> list[Process]:
        """What runs and is not one of the servers."""
        launcher = self.cluster.launcher
        return [each for each in leftovers(self.cluster.layout, launcher) if each not in launcher.recorded()]

    def said(self, words: str) -> int:
        return sum(words in line for line in self.reported)


@pytest.fixture
def shard() -> Iterator[Shard]:
    with running_cluster(shards=1, replicas=2, locks=0) as cluster:
        yield Shard(Servers(cluster))


def test_a_killed_primary_comes_back_without_the_row_that_nobody_was_promised(shard: Shard) -> None:
    shard.lose(A, 13)
    timeline = shard.promote(B)
    shard.write(B, 1)
    shard.cluster.rejoin(A)
    shard.until_well(B, timeline, [0, 1])
    assert not shard.said("copied anew")


def test_a_primary_that_was_stopped_in_order_comes_back_with_nothing_to_undo(shard: Shard) -> None:
    shard.stop(A)
    timeline = shard.promote(B)
    shard.write(B, 1)
    shard.cluster.rejoin(A)
    shard.until_well(B, timeline, [0, 1])
    assert not shard.said("copied anew")


def test_a_primary_that_a_person_starts_once_more_is_stopped_and_comes_back(shard: Shard) -> None:
    shard.lose(A, 13)
    timeline = shard.promote(B)
    shard.until_follows(C, B, timeline)  # else it may take the other for its primary
    with started_by_hand(shard, A):
        shard.until_has(A, [0, 13])
        shard.cluster.rejoin(A)
        shard.until_well(B, timeline, [0])


def test_a_frozen_primary_is_left_alone_and_comes_back_when_it_runs_again(shard: Shard) -> None:
    shard.freeze(A)
    timeline = shard.promote(B)
    with pytest.raises(NotYet, match="frozen"):
        shard.cluster.rejoin(A)
    with Watch(shard.cluster):
        until(lambda: shard.said("frozen"))
        shard.thaw(A)
        shard.until_follows(A, B, timeline)
        shard.write(B, 1)
        shard.until_well(B, timeline, [0, 1])
    assert shard.said("frozen") == 1


def test_what_is_left_of_a_primary_that_was_killed_while_frozen_is_in_nobodys_way(shard: Shard) -> None:
    shard.freeze(A)
    shard.stop(A, signal.SIGKILL)  # its children are still there, and frozen
    timeline = shard.promote(B)
    shard.cluster.rejoin(A)
    shard.until_well(B, timeline, [0])
    assert shard.unrecorded() == []


def test_a_killed_primary_is_not_started_beside_what_is_left_of_it(shard: Shard) -> None:
    shard.freeze(A)
    shard.stop(A, signal.SIGKILL)
    shard.cluster.start_server(A)
    assert shard.unrecorded() == []


def test_a_replica_that_got_more_from_the_old_primary_than_the_promoted_one_comes_back_too(
    shard: Shard,
) -> None:
    shard.stop(B)
    shard.write(A, 13)
    shard.until_has(C, [0, 13])
    shard.stop(A, signal.SIGKILL)
    shard.start(B)
    timeline = shard.promote(B)  # loses a row that was acknowledged, as only a person can decide to
    with Watch(shard.cluster):
        shard.until_well(B, timeline, [0])
    assert not shard.said("copied anew")


def test_a_replica_that_cannot_start_because_of_what_it_has_too_much_is_brought_back(shard: Shard) -> None:
    shard.stop(B)
    shard.write(A, 13)
    shard.until_has(C, [0, 13])
    shard.stop(A, signal.SIGKILL)
    shard.start(B)
    timeline = shard.promote(B)
    refused = "forked off current database system timeline"
    until(
        lambda: refused in shard.cluster.layout.log(C).read_text()
    )  # it knows the new timeline's history now
    shard.stop(C)
    shard.cluster.start_server(C)
    shard.cluster.start_server(A)
    shard.until_well(B, timeline, [0])
    assert not shard.said("copied anew")


def test_a_server_whose_wal_is_not_enough_to_rewind_it_is_copied_anew(shard: Shard) -> None:
    shard.lose(A, 13)
    timeline = shard.promote(B)
    for path in (shard.folder(A) / "pg_wal").glob("0000000100000000*"):
        path.unlink()
    shard.cluster.rejoin(A)
    shard.until_well(B, timeline, [0])
    assert shard.said("copied anew") == 1


def test_a_way_back_that_is_killed_halfway_is_taken_up_again(shard: Shard) -> None:
    shard.lose(A, 13)
    timeline = shard.promote(B)
    aside, half_made = (shard.cluster.layout.data / f".{what}-{A}" for what in ("rejoining", "making"))
    for reached in (aside, half_made):
        with by_command(shard, A) as command:
            until(lambda reached=reached: reached.exists() or command.poll() is not None)  # type: ignore[misc]
            command.kill()
        assert aside.exists()
        assert not shard.folder(A).exists()
        assert shard.cluster.primary("shard-0").name == B
    with Watch(shard.cluster):
        shard.until_well(B, timeline, [0])
    assert not aside.exists()
    assert not half_made.exists()


def test_five_primaries_in_a_row_are_killed_and_come_back(shard: Shard) -> None:
    names = {A, B, C}
    primary, values = A, [0]
    for number in range(1, 6):
        shard.write(primary, number)
        values.append(number)
        shard.stop(primary, signal.SIGKILL)
        received = "SELECT pg_last_wal_receive_lsn() - '0/0'::pg_lsn"
        candidates = sorted(names - {primary})
        killed, primary = primary, max(candidates, key=lambda name: int(shard.sql(name, received)[0][0]))
        assert shard.promote(primary) == number + 1
        shard.cluster.rejoin(killed)
        shard.until_well(primary, number + 1, values)
    assert not shard.said("copied anew")


def test_an_ordinary_dead_server_stays_down_and_so_does_one_whose_primary_does_not_answer(
    shard: Shard,
) -> None:
    shard.stop(A, signal.SIGKILL)
    with pytest.raises(ClusterError, match="does not answer"):
        shard.cluster.rejoin(B)
    shard.promote(B)
    shard.freeze(B)
    with pytest.raises(ClusterError, match="shard-0-b, the primary of shard-0, does not answer"):
        shard.cluster.rejoin(A)
    shard.thaw(B)
    assert (shard.folder(A) / "PG_VERSION").exists()


def test_a_server_of_another_origin_is_left_as_it_is(shard: Shard) -> None:
    shard.stop(A, signal.SIGKILL)
    shard.promote(B)
    control = shard.folder(A) / "global" / "pg_control"
    control.write_bytes(bytes(8) + control.read_bytes()[8:])
    with pytest.raises(ClusterError, match="is no copy of shard-0-b"):
        shard.cluster.rejoin(A)
    assert (shard.folder(A) / "base").exists()


def test_what_a_person_set_stays_and_whom_to_follow_is_found_anew(shard: Shard) -> None:
    shard.sql(A, "ALTER SYSTEM SET work_mem = '5MB'")
    shard.sql(B, "ALTER SYSTEM SET work_mem = '6MB'")
    shard.sql(B, "ALTER SYSTEM SET primary_conninfo = 'host=nowhere'")
    shard.lose(A, 13)
    timeline = shard.promote(B)
    shard.sql(C, "ALTER SYSTEM SET primary_conninfo = 'host=nowhere'")
    shard.stop(C)
    shard.start(C)
    shard.cluster.rejoin(A)
    shard.until_well(B, timeline, [0])
    assert shard.sql(A, "SHOW work_mem") == [("5MB",)]
    for name in (A, C):
        ((followed,),) = shard.sql(name, "SHOW primary_conninfo")
        assert f" port={shard.node(B).port}," in followed


@contextmanager
def by_command(shard: Shard, name: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "devcluster", "start", name]
    environ = {**os.environ, "VAR": str(shard.cluster.layout.var)}
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL) as process:
        yield process


@contextmanager
def started_by_hand(shard: Shard, name: str) -> Iterator[None]:
    """`postgres -D folder`: nobody has recorded it."""
    program = shard.cluster.programs.postgres / "postgres"
    with subprocess.Popen(
        [program, "-D", shard.folder(name)],
        cwd="/",
        stderr=subprocess.DEVNULL,
        **shard.cluster.layout.account.demotion,
    ) as process:
        yield
        process.wait()
